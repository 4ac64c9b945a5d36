"""Edits and random ablation in lm-evaluation-harness, against checkpoints with zeroed weights."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.cli import main
from aim_plugins.harnesses.lm_eval import AimHFLM
from aim_plugins.harnesses.lm_eval.command import lm_eval
from aim_plugins.modulation.ablation import ablation_mask
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.edits import ComponentEdit, baked
from tests.harnesses.conftest import assert_equal_to_rounding, responses

ALL = ["tiny_choice", "tiny_generation", "tiny_perplexity"]
HEADS = [1, 6, 7, 10]
"""Of three layers with four heads of twelve features each."""


def load(checkpoint: Path):
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def edit(tiny_checkpoint, tmp_path_factory) -> Path:
    model = load(tiny_checkpoint)
    components = find_components(model, "attention_heads").take(HEADS)
    found = ComponentEdit.of_model(model, components, method="coar")
    return found.save(tmp_path_factory.mktemp("edit"))


@pytest.fixture(scope="module")
def scaled(tiny_checkpoint, tmp_path_factory):
    """Writes a checkpoint in which the inputs of heads' output projections are scaled by hand."""

    def write(heads, factor: float) -> Path:
        model = load(tiny_checkpoint)
        with torch.no_grad():
            for head in heads:
                projection = model.model.layers[head // 4].self_attn.o_proj
                projection.weight[:, 12 * (head % 4) : 12 * (head % 4 + 1)] *= factor
        folder = tmp_path_factory.mktemp("scaled")
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="module")
def evaluate(tiny_checkpoint, tasks_folder):
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)

    def run(model_class=AimHFLM, checkpoint=tiny_checkpoint, tasks=ALL, **arguments):
        arguments = {"dtype": "float32", "device": "cpu", "batch_size": 4, **arguments}
        return simple_evaluate(
            model_class(str(checkpoint), **arguments),
            tasks=tasks,
            bootstrap_iters=10,
            task_manager=manager,
        )

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_strength_zero_every_response_is_that_of_hf_to_the_bit(evaluate, edit, dtype):
    ours = evaluate(edit=str(edit), edit_strength=0, dtype=dtype)
    theirs = evaluate(HFLM, dtype=dtype)
    assert responses(ours) == responses(theirs)
    assert ours["results"] == theirs["results"]


def test_strengths_of_one_run_are_single_ones_and_scaled_checkpoints_in_stock_hf(
    evaluate, edit, scaled, tiny_checkpoint, tmp_path
):
    together = evaluate(edit=str(edit), edit_strength="0:1:0.5")
    plain = evaluate(HFLM)
    for strength in (0, 0.5, 1):
        alone = evaluate(edit=str(edit), edit_strength=strength)
        by_hand = evaluate(HFLM, scaled(HEADS, 1 - strength))
        assert_equal_to_rounding(responses(together, f"@{strength:g}"), responses(by_hand))
        assert_equal_to_rounding(responses(alone), responses(by_hand))
        for task, metric in (("tiny_choice", "acc"), ("tiny_generation", "exact_match")):
            found = together["results"][task][f"{metric}@{strength:g},none"]
            assert found == by_hand["results"][task][f"{metric},none"]
        assert strength == 0 or responses(alone) != responses(plain)
    copied = baked(load(tiny_checkpoint), ComponentEdit.load(edit), 0.5)
    copied.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    assert_equal_to_rounding(responses(together, "@0.5"), responses(evaluate(HFLM, tmp_path)))


def test_without_a_strength_the_edit_ablates(evaluate, edit):
    one = evaluate(edit=str(edit), tasks=["tiny_choice"])
    other = evaluate(edit=str(edit), edit_strength=1, tasks=["tiny_choice"])
    assert responses(one) == responses(other)


def test_a_share_of_heads_is_ablated_anew_for_every_draw(evaluate, scaled):
    given = {"ablated_components": "attention_heads", "noise_seed": 3}
    drawn = [ablation_mask(12, 0.4, seed).nonzero()[0].tolist() for seed in (3, 4)]
    assert drawn[0] != drawn[1] and all(0 < len(one) < 12 for one in drawn)
    together = evaluate(**given, ablated_share=[0, 0.4], noise_draws=2)
    theirs = [evaluate(HFLM, scaled(heads, 0.0)) for heads in drawn]
    for draw, by_hand in enumerate(theirs):
        alone = evaluate(**{**given, "noise_seed": 3 + draw}, ablated_share=0.4)
        assert_equal_to_rounding(responses(alone), responses(by_hand))
    means = [sum(one["results"]["tiny_choice"]["acc,none"] for one in theirs) / 2]
    assert together["results"]["tiny_choice"]["acc@0.4,none"] == pytest.approx(means[0])
    zero = evaluate(HFLM)["results"]["tiny_choice"]["acc,none"]
    assert together["results"]["tiny_choice"]["acc@0,none"] == zero


def test_the_record_names_the_edit(tiny_checkpoint, edit):
    info = AimHFLM(str(tiny_checkpoint), edit=str(edit), device="cpu").get_model_info()
    known = info["modulation"]["changes"]["edit"]
    assert known["fingerprint"] == ComponentEdit.load(edit).fingerprint


def test_an_edit_of_other_weights_is_refused_unless_forced(tiny_checkpoint, edit, tmp_path):
    model = load(tiny_checkpoint)
    model.save_pretrained(tmp_path)
    weights = {
        name: tensor * 1.5 for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the edit was learned on another.*force_edit=True"):
        AimHFLM(str(tmp_path), edit=str(edit), device="cpu")
    AimHFLM(str(tmp_path), edit=str(edit), force_edit=True, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"edit_strength": 0.5}, "edit= is missing: .*edit=DIR"),
        ({"edit": "no/such/folder"}, "edit='no/such/folder': no such folder"),
        ({"edit_strenght": 0.5}, "did you mean edit_strength="),
        ({"ablated_share": 0.5}, "ablated_components= is missing"),
        ({"ablated_share": 0.5, "ablated_components": "heads"}, "of no kind that is known"),
    ],
    ids=str,
)
def test_bad_arguments_are_named_before_the_model_is_loaded(tmp_path, arguments, problem):
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as error:
        AimHFLM(str(tmp_path / "no such model"), **arguments)
    assert "\n" not in str(error.value)


def test_components_that_the_model_lacks_are_refused(tiny_checkpoint):
    for named, problem in (
        ("conv_filters", "ablated_components='conv_filters': LlamaForCausalLM has none"),
        ("attention_heads:.*attention", r"ablated_components='.*attention' matches none of the 12"),
    ):
        with pytest.raises(ValueError, match=problem):
            AimHFLM(str(tiny_checkpoint), ablated_share=0.1, ablated_components=named, device="cpu")


def test_the_stock_command_evaluates_an_edit(
    tiny_checkpoint, edit, scaled, evaluate, tasks_folder, tmp_path, monkeypatch
):
    model_args = (
        f"pretrained={tiny_checkpoint},dtype=float32,edit={edit},edit_strength=0:1:0.25,"
        "ablated_share=0.3,ablated_components=mlp_neurons:model.layers.1.*"
    )
    monkeypatch.setattr(sys, "argv", sys.argv)
    lm_eval(
        [
            *("--model", "aim_hf", "--device", "cpu", "--batch_size", "4"),
            *("--model_args", model_args, "--tasks", "tiny_choice"),
            *("--include_path", str(tasks_folder), "--output_path", str(tmp_path)),
        ]
    )
    [path] = tmp_path.rglob("results_*.json")
    found = json.loads(path.read_text())["results"]["tiny_choice"]
    given = {"ablated_share": 0.3, "ablated_components": "mlp_neurons:model.layers.1.*"}
    for strength in (0, 0.25, 0.5, 0.75, 1):
        alone = evaluate(checkpoint=scaled(HEADS, 1 - strength), tasks=["tiny_choice"], **given)
        accuracy = alone["results"]["tiny_choice"]["acc,none"]
        assert found[f"acc@{strength:g},none"] == accuracy


def test_edits_and_ablations_sweep(tiny_checkpoint, edit, scaled, evaluate, tasks_folder, tmp_path):
    words = [
        *("sweep", "lm-eval", "--model", "aim_hf", "--device", "cpu", "--batch-size", "8"),
        *("--model-args", f"pretrained={tiny_checkpoint},dtype=float32"),
        *("--tasks", "tiny_choice", "--include-path", str(tasks_folder)),
    ]
    swept = [*words, "--output", str(tmp_path / "edit"), "--edit", str(edit)]
    assert main([*swept, "--edit-strength", "0:1:0.5"]) == 0
    ablated = [*words, "--output", str(tmp_path / "ablated"), "--ablated-share", "0,0.3"]
    assert main([*ablated, "--ablated-components", "attention_heads", "--draws", "2"]) == 0
    values = {}
    for name in ("edit", "ablated"):
        with open(tmp_path / name / "sweep.csv", newline="") as lines:
            for row in csv.DictReader(lines):
                if row["metric"] == "acc":
                    values[name, float(row["strength"]), int(row["draw"] or 0)] = row["value"]
    for strength in (0.0, 0.5, 1.0):
        by_hand = evaluate(HFLM, scaled(HEADS, 1 - strength), ["tiny_choice"])
        expected = by_hand["results"]["tiny_choice"]["acc,none"]
        assert float(values["edit", strength, 0]) == pytest.approx(expected)
    for draw in (0, 1):
        heads = ablation_mask(12, 0.3, draw).nonzero()[0]
        by_hand = evaluate(HFLM, scaled(heads, 0.0), ["tiny_choice"])
        expected = by_hand["results"]["tiny_choice"]["acc,none"]
        assert float(values["ablated", 0.3, draw]) == pytest.approx(expected)
    page = (tmp_path / "ablated" / "report.html").read_text(encoding="utf-8")
    assert "ablated share α" in page
    assert "edit strength s" in (tmp_path / "edit" / "report.html").read_text(encoding="utf-8")
