"""The engine on an accelerator that is pretended: the CPU's answers, and no wait too many."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import StoppingCriteriaList

from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.stopping import RowEnds
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from tests.engines.test_transport_columns import left_padded, random_maps
from tests.pretended_device import by_place

REQUESTS = [
    ScoreRequest([1, 5, 9, 20], [7, 8]),
    ScoreRequest([1, 5, 9, 20, 7], [9]),
    ScoreRequest([1, 44], [30, 31, 32, 33, 34, 35]),
]
PROMPTS = left_padded([[1, 5, 9], [1, 7, 8, 9, 10], [1, 60]])

KINDS = {
    "plain": {},
    "noise": {"noise_std": [0.0, 0.5, 1.0], "noise_mean": 0.5},
    "transport": {"strength": [0.0, 0.3, 1.0], "positions": "all"},
    "transport of the last": {"strength": [0.0, 0.3, 1.0], "positions": "last"},
    "both": {"noise_std": [0.0, 0.5], "strength": [0.5, 1.0], "positions": "all"},
    "ablation": {"ablated_share": [0.0, 0.3], "ablated_components": "attention_heads"},
}

DECODING = {
    "greedy": {"do_sample": False},
    "keyed sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20},
    "beams": {"do_sample": False, "num_beams": 2},
    "no cache": {"do_sample": False, "use_cache": False},
}


def columns_for(kind, model):
    asked = dict(KINDS[kind])
    if positions := asked.pop("positions", None):
        asked["transport"] = random_maps(model, positions=positions)
    return columns_of(**asked, noise_seed=3) if asked else [Column()]


def on_the_device(model):
    return copy.deepcopy(model).to("pretended")


def engine_of(model):
    return HuggingFaceEngine(model, None, max_length=64, softmax_dtype=torch.float32)


def continued(model, columns, *, new_tokens=4, **options):
    prompts = Prompts(PROMPTS.token_ids.to(model.device), PROMPTS.mask.to(model.device))
    length = prompts.token_ids.shape[1] + new_tokens
    return engine_of(model).generate(prompts, columns, max_length=length, pad_token_id=0, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_cpu(kind, tiny_llama, accelerator):
    columns = columns_for(kind, tiny_llama)
    wanted = engine_of(tiny_llama).score(REQUESTS, columns, batch_size=2, progress=False)
    there = on_the_device(tiny_llama)
    found = engine_of(there).score(REQUESTS, columns, batch_size=2, progress=False)
    for one, other in zip(found, wanted, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)
        assert (one.is_greedy, one.context_key) == (other.is_greedy, other.context_key)


@pytest.mark.parametrize(
    ("kind", "decoding"),
    [
        *((kind, "greedy") for kind in KINDS),
        *(("both", decoding) for decoding in ("keyed sampling", "beams", "no cache")),
    ],
)
def test_texts_are_those_of_the_cpu(kind, decoding, tiny_llama, accelerator):
    columns = columns_for(kind, tiny_llama)
    wanted = continued(tiny_llama, columns, **DECODING[decoding])
    assert continued(on_the_device(tiny_llama), columns, **DECODING[decoding]) == wanted


def syncs_per_token(accelerator, run):
    """How often each new token waits, beyond what a call costs once."""
    counts = []
    for new_tokens in (2, 2, 6):  # the first call places what later ones find
        accelerator.clear()
        run(new_tokens)
        counts.append(len(accelerator))
    return (counts[2] - counts[1]) / 4


@pytest.fixture
def endless(tiny_llama, accelerator):
    """The model without an end token, so that no text ends early."""
    model = on_the_device(tiny_llama)
    model.generation_config.eos_token_id = None
    return model


def plainly(model):
    prompts = {"input_ids": PROMPTS.token_ids.to("pretended"), "pad_token_id": 0}
    prompts["attention_mask"] = PROMPTS.mask.to("pretended")
    return lambda count: model.generate(**prompts, max_new_tokens=count, do_sample=False)


@pytest.mark.parametrize(
    ("kind", "decoding"), [*((kind, "greedy") for kind in KINDS), ("both", "keyed sampling")]
)
def test_no_token_waits_for_the_device_but_where_transformers_does(
    kind, decoding, tiny_llama, endless, accelerator
):
    columns = columns_for(kind, tiny_llama)
    own = syncs_per_token(accelerator, plainly(endless))
    assert own == 2  # whether the mask is whole, and whether all rows have ended

    def run(new_tokens):
        continued(endless, columns, new_tokens=new_tokens, **DECODING[decoding])

    assert syncs_per_token(accelerator, run) == own, by_place(accelerator, "aim_plugins")


def test_a_stop_string_waits_as_lm_eval_s_criterion_does(tiny, accelerator):
    stop_sequences_criteria = pytest.importorskip("lm_eval.models.utils_hf").stop_sequences_criteria
    tokens = torch.arange(40).view(2, 20).to("pretended")
    theirs = stop_sequences_criteria(tiny.tokenizer, ["Paris"], 3, 2)
    ours = StoppingCriteriaList([RowEnds(tiny.tokenizer, ["Paris"], {2}, 3, pause=True)])
    ours(tokens[:, :4], None)
    counts = []
    for criteria in (ours, theirs):
        accelerator.clear()
        for length in range(5, 13):
            criteria(tokens[:, :length], None)
        counts.append(len(accelerator))
    assert counts[0] == 8 <= counts[1]


def test_broken_logits_end_the_decoding_and_are_refused(tiny_llama, accelerator):
    model = on_the_device(tiny_llama)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    steps = []
    handle = model.lm_head.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(ValueError, match="scores of rows .* are NaN before anything is changed"):
        continued(model, columns_for("noise", tiny_llama)[1:2], new_tokens=30)
    handle.remove()
    assert len(steps) == 1
