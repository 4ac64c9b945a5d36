"""The script for GPUs, with its tiny model: on the CPU, and on an accelerator that is pretended."""

from __future__ import annotations

import json

import pytest

from benchmarks import gpu

CHECKS = {"a fit", "noise, eager", "sampled tokens"} | {
    *(f"{what} under {kind}" for what in ("scores", "texts") for kind in ("noise", "transport")),
    *(f"{what} at {name} = 0" for what in ("scores", "texts") for name in ("σ", "λ")),
}


@pytest.fixture(params=["cpu", "pretended"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "pretended":
        request.getfixturevalue("accelerator")
    return request.param


def test_all_is_checked_measured_and_written(device, tmp_path, capsys):
    output = tmp_path / "gpu.json"
    assert gpu.main(["--small", "--device", device, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert set(found["checks"]) == CHECKS and not found["left out"]
    assert set(found["measured"]) == {"scoring", "generation", "fit"}
    scoring = found["measured"]["scoring"]
    assert list(scoring) == ["plain forward", "1 strength of noise", "4 strengths of noise"]
    assert scoring["plain forward"]["against plain forward"] == 1
    assert "FAIL" not in capsys.readouterr().out


def test_parts_that_do_not_begin_in_time_are_named(tmp_path):
    output = tmp_path / "gpu.json"
    words = ["--small", "--device", "cpu", "--seconds", "0", "--output", str(output)]
    assert gpu.main(["measures", *words]) == 0
    assert json.loads(output.read_text())["left out"] == ["scoring", "generation", "fit"]


def test_a_failed_check_fails_the_script(monkeypatch):
    monkeypatch.setattr(gpu, "NOISE_TOLERANCE", -1.0)
    assert gpu.main(["checks", "--small", "--device", "cpu"]) == 1


def test_the_large_model_is_refused_without_a_gpu():
    with pytest.raises(SystemExit, match="there is no GPU here: give --small"):
        gpu.main(["--device", "cpu"])
