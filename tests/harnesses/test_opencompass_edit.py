"""Edits and random ablation in OpenCompass: perplexities are those of zeroed weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("opencompass")

from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.harnesses.opencompass import HuggingFaceNoiseModel
from aim_plugins.harnesses.opencompass.config.entries import sweep_groups
from aim_plugins.modulation.ablation import ablation_mask
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.edits import ComponentEdit

HEADS = [0, 5, 11]
NAMES = "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel"


def load(checkpoint: Path):
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def edit(tiny_checkpoint, tmp_path_factory) -> Path:
    model = load(tiny_checkpoint)
    components = find_components(model, "attention_heads").take(HEADS)
    found = ComponentEdit.of_model(model, components, method="coar")
    return found.save(tmp_path_factory.mktemp("edit"))


def entry(checkpoint: Path, abbr: str, **settings) -> dict:
    return {
        "type": NAMES,
        "abbr": abbr,
        "path": str(checkpoint),
        "model_kwargs": {"torch_dtype": "torch.float32", "device_map": "cpu"},
        "max_out_len": 6,
        "batch_size": 4,
        "run_cfg": {"num_gpus": 0},
        **settings,
    }


def perplexity(checkpoint: Path, text: str, heads, factor: float) -> float:
    """With the heads' inputs of the output projections scaled by hand, four of twelve a layer."""
    model = load(checkpoint)
    with torch.no_grad():
        for head in heads:
            projection = model.model.layers[head // 4].self_attn.o_proj
            projection.weight[:, 12 * (head % 4) : 12 * (head % 4 + 1)] *= factor
        ids = AutoTokenizer.from_pretrained(checkpoint)(text, return_tensors="pt")["input_ids"]
        law = model(ids).logits[0, :-1].double().log_softmax(-1)
    return -float(law[torch.arange(len(law)), ids[0, 1:]].sum()) / ids.shape[1]


def test_a_sweep_answers_as_scaled_weights(
    run_opencompass, tiny_checkpoint, edit, read_answers, tmp_path
):
    models = [
        entry(tiny_checkpoint, f"edit-{strength}", edit=str(edit), edit_strength=strength)
        for strength in (0.0, 0.5, 1.0)
    ]
    given = {"ablated_components": "attention_heads", "noise_seed": 2}
    models += [
        entry(tiny_checkpoint, f"ablated-{share}", ablated_share=share, **given)
        for share in (0.0, 0.4)
    ]
    run = run_opencompass(tmp_path / "run", models, ["choice"])
    assert run.tasks == [
        ["edit-0.0", "edit-0.5", "edit-1.0"],
        ["ablated-0.0", "ablated-0.4"],
    ]
    drawn = ablation_mask(12, 0.4, 2).nonzero()[0]
    assert 0 < len(drawn) < 12
    cases = {"edit-0.0": ([], 1.0), "edit-0.5": (HEADS, 0.5), "edit-1.0": (HEADS, 0.0)}
    cases |= {"ablated-0.0": ([], 1.0), "ablated-0.4": (drawn, 0.0)}
    for abbr, (heads, factor) in cases.items():
        for answer in read_answers(run, "predictions", abbr, "choice").values():
            expected = perplexity(tiny_checkpoint, answer["label: A"]["prompt"], heads, factor)
            assert answer["label: A"]["PPL"] == pytest.approx(expected, abs=1e-4)


def test_other_components_are_another_sweep(tiny_checkpoint):
    models = [
        entry(tiny_checkpoint, f"{kind}-{share}", ablated_share=share, ablated_components=kind)
        for kind in ("attention_heads", "mlp_neurons")
        for share in (0.1, 0.2)
    ]
    assert [len(group.entries) for group in sweep_groups(models)] == [2, 2]


def test_an_edit_of_another_model_is_refused(tiny_checkpoint, edit, tmp_path):
    model = load(tiny_checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    settings = {"path": str(tmp_path), "model_kwargs": {"device_map": "cpu"}, "edit": str(edit)}
    with pytest.raises(ValueError, match="the edit was learned on another.*force_edit=True"):
        HuggingFaceNoiseModel(**settings).get_ppl(["the capital"])
    HuggingFaceNoiseModel(**settings, force_edit=True).get_ppl(["the capital"])
