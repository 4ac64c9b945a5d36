"""A kind of change that a user registers sweeps like our own, and kinds combine into grids."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList, TemperatureLogitsWarper

from aim_plugins.cli import main
from aim_plugins.core.strengths import Axis
from aim_plugins.engines.engine import Prompts
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.harnesses.lm_eval import AimHFLM
from aim_plugins.modulation import changes
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.changes import Change, register


@dataclass(frozen=True)
class Temperature(Change):
    """The whole of a toy kind of change: logits divided by a temperature."""

    name = "temperature"
    axis = Axis("temperature", "τ", "temperature", low=0.01)
    acts_on = "logits"
    arguments = {"logit_temperature": "what logits are divided by"}
    neutral = 1.0
    strength: float

    def modulate(self, logits, keys, scratch):
        return logits / self.strength


@dataclass(frozen=True)
class HeadScale(Change):
    """A toy change of weights: the head scaled, which scales all logits."""

    name = "head"
    axis = Axis("head_scale", "s", "head scale", low=0.01)
    acts_on = "weights"
    arguments = {"head_scale": "factor of the head's weights"}
    neutral = 1.0
    strength: float

    @classmethod
    def applied(cls, model, changes, layout=None):
        (change,) = changes
        return _scaled(model.lm_head.weight, change.strength)


class _scaled:
    def __init__(self, weight, factor):
        self.weight, self.factor = weight, factor

    def __enter__(self):
        self.kept = self.weight.data.clone()
        self.weight.data.mul_(self.factor)

    def __exit__(self, *exception):
        self.weight.data.copy_(self.kept)


@pytest.fixture(autouse=True, scope="module")
def registered():
    known = dict(changes._kinds)
    register(Temperature)
    register(HeadScale)
    yield
    changes._kinds.clear()
    changes._kinds.update(known)


def words(output, checkpoint, tasks_folder, *swept, model_args=""):
    return [
        *("sweep", "lm-eval", "--model", "aim_hf", "--device", "cpu", "--batch-size", "8"),
        *("--model-args", f"pretrained={checkpoint},dtype=float32{model_args}"),
        *("--tasks", "tiny_choice,tiny_generation", "--include-path", str(tasks_folder)),
        *("--output", str(output), *swept),
    ]


def table(output: Path) -> list[dict[str, str]]:
    with open(output / "sweep.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_toy_kind_sweeps_with_its_own_axis_and_resumes(
    tiny_checkpoint, tasks_folder, tmp_path, capsys
):
    output = tmp_path / "run"
    command = words(output, tiny_checkpoint, tasks_folder, "--logit-temperature", "0.5,1,2")
    assert main(command) == 0
    assert {path.name for path in (output / "cells").iterdir()} == {
        f"temperature={temperature},draw=0" for temperature in (0.5, 1, 2)
    }
    assert "temperature τ" in (output / "report.html").read_text(encoding="utf-8")
    assert "temperature τ" in (output / "curves" / "tiny_choice-acc.svg").read_text("utf-8")
    # Dividing all logits alike changes no choice and no greedy text.
    by_task = {}
    for row in table(output):
        assert not row["metric"].endswith("_expected")  # no law is known of it
        if row["metric"] != "acc_norm":  # which divides by the choices' lengths
            by_task.setdefault((row["task"], row["metric"]), set()).add(row["value"])
    assert all(len(values) == 1 for values in by_task.values())
    capsys.readouterr()
    assert main(command) == 0
    assert "3 of 3 cells are finished" in capsys.readouterr().err
    assert main(words(output, tiny_checkpoint, tasks_folder, "--logit-temperature", "3")) == 2


def test_a_toy_kinds_log_likelihoods_are_those_of_a_softmax_by_hand(tiny_checkpoint):
    lm = AimHFLM(str(tiny_checkpoint), logit_temperature=[0.5, 2.0], dtype="float32", device="cpu")
    context, continuation = [3, 5, 9], [7, 11]
    [row] = lm._loglikelihood_tokens([(None, context, continuation)], disable_tqdm=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([context + continuation])).logits[0].double()
    for temperature, found in zip((0.5, 2.0), row.log_likelihoods, strict=True):
        law = (logits / temperature).log_softmax(-1)
        wanted = sum(law[len(context) - 1 + i, token] for i, token in enumerate(continuation))
        assert found == pytest.approx(float(wanted), abs=1e-4)


def test_noise_then_a_toy_kind_decodes_as_transformers_own_warper_after_the_noise(tiny_checkpoint):
    from aim_plugins.modulation.logits import GaussianNoiseLogitsProcessor

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    engine = HuggingFaceEngine(model, None, max_length=64)
    prompt = torch.tensor([[3, 5, 9, 4]])
    found = engine.generate(
        Prompts(prompt, torch.ones_like(prompt)),
        columns_of(noise_std=[0, 2], noise_seed=7, logit_temperature=[1, 0.25]),
        max_length=16,
        do_sample=False,
    )
    for index, (temperature, std) in enumerate([(1, 0), (1, 2), (0.25, 0), (0.25, 2)]):
        processors = LogitsProcessorList([GaussianNoiseLogitsProcessor(float(std), seed=7)])
        processors.append(TemperatureLogitsWarper(float(temperature)))
        wanted = model.generate(
            prompt, max_length=16, do_sample=False, logits_processor=processors
        )[0, 4:].tolist()
        assert found[0][index][: len(wanted)] == wanted


def test_changes_of_weights_take_a_pass_each_and_leave_the_model_as_it_was(tiny_checkpoint):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lm = AimHFLM(model, tokenizer=str(tiny_checkpoint), head_scale=[1, 2], noise_std=[0, 1.5])
    halved = AimHFLM(model, tokenizer=str(tiny_checkpoint), logit_temperature=[1, 0.5])
    request = (None, [3, 5, 9], [7, 11])
    [row] = lm._loglikelihood_tokens([request], disable_tqdm=True)
    [same] = halved._loglikelihood_tokens([request], disable_tqdm=True)
    without_noise = row.log_likelihoods[0], row.log_likelihoods[2]
    assert without_noise == pytest.approx(same.log_likelihoods, abs=1e-4)
    assert len(set(row.log_likelihoods)) == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_misspelt_argument_of_a_toy_kind_is_answered_with_its_name(tiny_checkpoint):
    with pytest.raises(ValueError, match="did you mean logit_temperature="):
        AimHFLM(str(tiny_checkpoint), logit_temprature=0.5)


def test_noise_and_transport_sweep_as_a_grid(
    tiny_checkpoint, tasks_folder, make_transport, tmp_path, capsys
):
    transport, output = make_transport(tmp_path / "transport", tiny_checkpoint), tmp_path / "run"
    command = words(
        *(output, tiny_checkpoint, tasks_folder, "--noise-std", "0,2", "--strength", "0,0.5,1"),
        *("--draws", "2", "--transport", str(transport)),
    )
    assert main(command) == 0
    assert {path.name for path in (output / "cells").iterdir()} == {
        f"std={std},strength={strength},draw={draw}"
        for std in (0, 2)
        for strength in (0, 0.5, 1)
        for draw in (0, 1)
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["std", "strength"]
    assert (output / "curves" / "tiny_choice-acc.png").exists()
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "2 noise stds × 3 transport strengths" in page
    values = {
        (row["strength"], row["second_strength"], row["draw"], row["metric"]): float(row["value"])
        for row in table(output)
        if row["task"] == "tiny_choice"
    }
    # Without noise the law is the accuracy itself, of each transported model.
    for strength in ("0.0", "0.5", "1.0"):
        assert values["0.0", strength, "", "acc_expected"] == values["0.0", strength, "0", "acc"]
        assert 0 < values["2.0", strength, "", "acc_expected"] < 1
    manifest = json.loads((output / "manifest.json").read_text())
    assert [axis["name"] for axis in manifest["axes"]] == ["std", "strength"]
    (output / "cells" / "std=2,strength=1,draw=0" / "cell.json").write_text("{}")
    with pytest.warns(UserWarning, match="is damaged"):
        assert main(command) == 0
    assert "11 of 12 cells are finished" in capsys.readouterr().err
