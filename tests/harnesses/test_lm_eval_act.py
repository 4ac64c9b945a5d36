"""`act_hf` inside lm-evaluation-harness: `hf` at strength 0, hooks written by hand elsewhere."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from aim_plugins.harnesses.lm_eval import ActHFLM, AimHFLM
from aim_plugins.harnesses.lm_eval.command import lm_eval
from aim_plugins.transport import change
from aim_plugins.transport.artifact import LearnedTransport
from tests.harnesses.conftest import assert_equal_to_rounding, responses

ALL = ["tiny_choice", "tiny_generation", "tiny_perplexity"]
PAIRS = [("Question : the capital", " of France is Paris"), ("Germany is", " Berlin")]


@pytest.fixture(scope="module")
def transport(make_transport, tiny_checkpoint, tmp_path_factory) -> Path:
    return make_transport(tmp_path_factory.mktemp("transport"), tiny_checkpoint)


@pytest.fixture(scope="module")
def other_transport(make_transport, tiny_checkpoint, tmp_path_factory) -> Path:
    return make_transport(tmp_path_factory.mktemp("other"), tiny_checkpoint, seed=1)


@pytest.fixture(scope="module")
def build(tiny_checkpoint, transport):
    def build_model(model_class=ActHFLM, checkpoint=tiny_checkpoint, **arguments):
        arguments = {"dtype": "float32", "device": "cpu", "batch_size": 4, **arguments}
        if model_class is ActHFLM:
            arguments.setdefault("transport", str(transport))
        return model_class(str(checkpoint), **arguments)

    return build_model


@pytest.fixture(scope="module")
def evaluate(tasks_folder):
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)

    def run(model, tasks=ALL, **options):
        options = {"bootstrap_iters": 10, "task_manager": manager, **options}
        return simple_evaluate(model, tasks=tasks, **options)

    return run


@contextlib.contextmanager
def hooked(model, folder, strength):
    """The maps of a folder as plain forward hooks, from its safetensors file alone."""
    tensors = load_file(folder / "transport.safetensors")
    modules = dict(model.named_modules())
    handles = []
    for name in {key.rpartition(".")[0] for key in tensors}:
        scale, shift = tensors[f"{name}.scale"], tensors[f"{name}.shift"]

        def hook(module, inputs, output, scale=scale, shift=shift):
            return (1 - strength) * output + strength * (scale * output + shift)

        [module] = [modules[full] for full in modules if full.endswith(name)]
        handles.append(module.register_forward_hook(hook))
    yield
    for handle in handles:
        handle.remove()


def log_likelihood(model, lm, context, continuation):
    prompt, target = lm.tok_encode(context), lm.tok_encode(continuation)
    with torch.no_grad():
        law = model(torch.tensor([prompt + target])).logits[0].double().log_softmax(-1)
    return sum(float(law[len(prompt) + i - 1, token]) for i, token in enumerate(target))


def requests():
    return [
        Instance("loglikelihood", {}, pair, 0, ("t", index, 1)) for index, pair in enumerate(PAIRS)
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_strength_zero_every_response_is_that_of_hf_to_the_bit(build, evaluate, dtype):
    ours = evaluate(build(strength=0, dtype=dtype))
    theirs = evaluate(build(HFLM, dtype=dtype))
    assert responses(ours) == responses(theirs)
    assert ours["results"] == theirs["results"]


@pytest.mark.parametrize("strength", [0.5, 1.0, -0.7])
def test_a_log_likelihood_is_that_of_hooks_written_by_hand(
    build, tiny_checkpoint, transport, strength
):
    lm = build(strength=strength)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    for (context, continuation), (value, _) in zip(
        PAIRS, lm.loglikelihood(requests()), strict=True
    ):
        with hooked(model, transport, strength):
            wanted = log_likelihood(model, lm, context, continuation)
        assert value == pytest.approx(wanted, abs=2e-4)
        assert abs(value - log_likelihood(model, lm, context, continuation)) > 0.1


def test_several_strengths_at_once_are_several_runs(build, evaluate):
    merged = evaluate(build(strength="0:1:0.5"))
    for strength in (0, 0.5, 1):
        alone = evaluate(build(strength=strength))
        assert_equal_to_rounding(responses(merged, f"@{strength:g}"), responses(alone))
        accuracy = alone["results"]["tiny_choice"]["acc,none"]
        assert merged["results"]["tiny_choice"][f"acc@{strength:g},none"] == accuracy


def test_a_grid_of_strengths_is_the_list_of_them(build):
    assert build(strength="0:1:0.5").columns == build(strength=[0, 0.5, 1]).columns


def test_without_a_strength_the_maps_are_applied_as_they_were_learned(build):
    assert build().loglikelihood(requests()) == build(strength=1).loglikelihood(requests())


def test_noise_varies_under_a_fixed_strength(build, evaluate):
    table = evaluate(build(strength=0.5, noise_std=[0, 2]), ["tiny_choice"])
    alone = evaluate(build(strength=0.5), ["tiny_choice"])
    noisy = evaluate(build(strength=0.5, noise_std=2), ["tiny_choice"])
    assert_equal_to_rounding(responses(table, "@0"), responses(alone))
    assert_equal_to_rounding(responses(table, "@2"), responses(noisy))
    assert responses(noisy) != responses(alone)


def test_use_cache_never_returns_another_transports_answers(
    build, evaluate, tmp_path, transport, other_transport
):
    cases = [(transport, 0.5), (transport, 1), (other_transport, 0.5)]

    def run(folder, strength, **options):
        model = build(transport=str(folder), strength=strength)
        return responses(evaluate(model, ["tiny_choice"], **options))

    fresh = [run(*case) for case in cases]
    assert all(one != other for i, one in enumerate(fresh) for other in fresh[:i])
    for case, wanted in [*zip(cases, fresh, strict=True), (cases[0], fresh[0])]:
        assert_equal_to_rounding(run(*case, use_cache=str(tmp_path / "cache")), wanted)


def test_a_peft_adapter_is_transported_like_the_model_it_adapts(
    build, tiny_checkpoint, transport, tmp_path
):
    from peft import LoraConfig, PeftModel, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
        get_peft_model(base, LoraConfig(r=2, init_lora_weights=False)).save_pretrained(tmp_path)
    # An adapter makes other weights of those that the maps were learned on.
    lm = build(peft=str(tmp_path), strength=0.5, force_transport=True)
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path).eval()
    context, continuation = PAIRS[0]
    with hooked(adapted, transport, 0.5):
        wanted = log_likelihood(adapted, lm, context, continuation)
    assert lm.loglikelihood(requests())[0][0] == pytest.approx(wanted, abs=2e-4)


def test_a_model_spread_by_parallelize_is_transported_as_a_whole_one(build):
    spread = build(parallelize=True, strength=0.5).loglikelihood(requests())
    whole = build(strength=0.5).loglikelihood(requests())
    assert_equal_to_rounding({"": spread}, {"": whole})


def test_the_harnesss_record_names_the_transport(build, transport):
    info = build(strength=0.5).get_model_info()
    known = info["modulation"]["changes"]["transport"]
    assert known["fingerprint"] == LearnedTransport.load(transport).fingerprint


def test_a_strength_outside_the_learned_range_is_warned_of_once(build, caplog):
    change.warn_once.cache_clear()
    for _ in range(2):
        build(strength=[-0.5, 0.5, 1.25])
    warned = [record.message for record in caplog.records if "outside 0 to 1" in record.message]
    assert len(warned) == 1
    assert warned[0].startswith("strength=-0.5, 1.25 lies")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"transport": None}, r"transport= is missing: .*transport=DIR"),
        ({"transport": ""}, "transport= is missing"),
        ({"transport": "no/such/folder"}, "transport='no/such/folder' is no folder"),
        ({"transport": 7}, "transport='7' is no folder"),
        ({"strength": "much"}, "strength='much' is malformed"),
        ({"strength": "nan"}, "strength=.* is not finite"),
        ({"strength": "0:1"}, "a grid is start:stop:step"),
        ({"strength": [0.5, 0.5]}, "holds 0.5 twice"),
        ({"noise_std": [0, -1]}, "noise_std=-1 is negative"),
    ],
    ids=str,
)
def test_bad_arguments_are_named_before_the_model_is_loaded(build, tmp_path, arguments, problem):
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as error:
        build(checkpoint=tmp_path / "no such model", **arguments)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_transport_is_named(build, tmp_path):
    with pytest.raises(ValueError, match=f"transport='{tmp_path}' has no file 'transport.json'"):
        build(transport=str(tmp_path))


def test_a_transport_of_other_weights_is_refused_unless_forced(
    build, tiny_checkpoint, tmp_path, transport
):
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    weights = load_file(checkpoint / "model.safetensors")
    weights = {name: tensor * 1.5 for name, tensor in weights.items()}
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=f"transport='{transport}' is of another model.*force_transport=True"
    ):
        build(checkpoint=checkpoint)
    [first, _] = build(checkpoint=checkpoint, strength=0.5, force_transport=True).loglikelihood(
        requests()
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    lm = build(strength=0)
    with hooked(model, transport, 0.5):
        assert first[0] == pytest.approx(log_likelihood(model, lm, *PAIRS[0]), abs=2e-4)


def test_aim_hf_takes_a_transport_as_act_hf_does(build, transport):
    one, other = build(strength=0.5), build(AimHFLM, transport=str(transport), strength=0.5)
    assert one.loglikelihood(requests()) == other.loglikelihood(requests())
    with pytest.raises(ValueError, match="strength=0.5 has no transport"):
        AimHFLM("no such model", strength=0.5)


def test_strengths_of_two_kinds_make_a_grid_of_single_runs(build):
    grid = build(strength=[0.0, 0.5], noise_std=[0.0, 2.0], noise_seed=3)
    table = grid.score(requests())
    for index, column in enumerate(grid.columns):
        settings = {name: value for name, value in column.settings.items() if name != "transport"}
        alone = build(**settings).loglikelihood(requests())
        found = [grid.answer("loglikelihood", row, index) for row in table]
        assert [greedy for _, greedy in found] == [greedy for _, greedy in alone]
        assert [value for value, _ in found] == pytest.approx([value for value, _ in alone])


@pytest.mark.parametrize(
    ("model", "name", "near"),
    [(ActHFLM, "strenght", "strength"), (ActHFLM, "transprot", "transport")]
    + [(AimHFLM, "noise_sdt", "noise_std")],
)
def test_misspelt_arguments_are_told_from_those_of_transformers(build, tmp_path, model, name, near):
    with pytest.raises(ValueError, match=f"{name}=1 is unknown: did you mean {near}="):
        build(model, **{name: 1})


def test_a_strength_given_for_generation_only_is_refused(build, evaluate):
    with pytest.raises(ValueError, match="strength is an argument of the model"):
        evaluate(build(), ["tiny_generation"], gen_kwargs={"strength": 1.0})


def test_the_stock_command_runs_a_grid_of_strengths(
    build, evaluate, tiny_checkpoint, transport, tasks_folder, tmp_path, monkeypatch, capsys
):
    model_args = f"pretrained={tiny_checkpoint},dtype=float32,transport={transport}"
    monkeypatch.setattr(sys, "argv", sys.argv)
    lm_eval(
        [
            *("--model", "act_hf", "--device", "cpu"),
            *("--model_args", f"{model_args},strength=0:1:0.5", "--batch_size", "4"),
            *("--tasks", "tiny_choice,tiny_generation", "--include_path", str(tasks_folder)),
            *("--output_path", str(tmp_path)),
        ]
    )
    assert "acc@0.5" in capsys.readouterr().out
    [path] = tmp_path.rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    alone = evaluate(build(strength=0.5), ["tiny_choice", "tiny_generation"])["results"]
    for task, metric in (("tiny_choice", "acc"), ("tiny_generation", "exact_match")):
        assert results[task][f"{metric}@0.5,none"] == alone[task][f"{metric},none"]


def test_a_condition_lets_a_transport_act_on_the_documents_that_meet_it(
    build, evaluate, make_condition, tiny_checkpoint, tmp_path
):
    tasks = ["tiny_choice", "tiny_generation"]
    plain, everywhere = (
        evaluate(build(strength=one, batch_size=1), tasks)["samples"] for one in (0, 1)
    )
    documents = [sample["doc"] for sample in plain["tiny_choice"]]
    lm = build(strength=0)
    prompts = [lm.tok_encode(f"Question : {one['question']} Answer :") for one in documents]
    folder = tmp_path / "condition"
    held = make_condition(folder, tiny_checkpoint, prompts)
    assert 3 < sum(held) < len(held) - 3
    for text, turned in ((f"{folder}", False), (f"not {folder}", True)):
        samples = evaluate(build(strength=1, condition=text, batch_size=1), tasks)["samples"]
        for task in tasks:
            for index, sample in enumerate(samples[task]):
                here = held[index] is not turned
                wanted = (everywhere if here else plain)[task][index]
                assert sample["resps"] == wanted["resps"]
                for receipt in (one for answers in sample["receipts"] for one in answers):
                    assert receipt["changes"][0]["held"] is here
    assert plain["tiny_choice"][0]["resps"] != everywhere["tiny_choice"][0]["resps"]


def test_a_condition_of_another_model_is_refused(
    build, make_condition, make_transport, tiny_checkpoint, tmp_path
):
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    weights = load_file(checkpoint / "model.safetensors")
    weights = {name: tensor * 1.5 for name, tensor in weights.items()}
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    own = make_transport(tmp_path / "transport", checkpoint)
    make_condition(tmp_path / "condition", tiny_checkpoint, [[3, 4], [5, 6]])
    asked = {"transport": str(own), "condition": f"{tmp_path / 'condition'}>0.25"}
    with pytest.raises(
        ValueError, match=r"condition='.*>0.25' is of another model.*force_transport=True"
    ) as error:
        build(checkpoint=checkpoint, **asked)
    assert "\n" not in str(error.value)
    build(checkpoint=checkpoint, **asked, force_transport=True)


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("no/such/folder", "condition='no/such/folder' is no folder"),
        ("no/such/folder>2", "'2' is no cosine"),
    ],
)
def test_a_condition_that_is_none_is_refused_before_the_model_is_loaded(
    build, tmp_path, condition, problem
):
    with pytest.raises(ValueError, match=problem) as error:
        build(checkpoint=tmp_path / "no such model", condition=condition)
    assert "\n" not in str(error.value)
