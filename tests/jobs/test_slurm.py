"""Jobs as arrays of Slurm, which `fake_slurm` plays where there is none."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from aim_plugins import cli
from tests.jobs import fake_slurm
from tests.jobs.conftest import Yard, until

pytest.importorskip("submitit")


@pytest.fixture
def slurm(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Slurm's state."""
    state, commands = yard.folder / "slurm", yard.folder / "bin"
    state.mkdir()
    commands.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(state))
    path = f"{fake_slurm.install(commands)}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    return state


def test_jobs_of_one_kind_are_one_array_and_find_what_one_process_finds(
    slurm: Path, yard: Yard, alone
) -> None:
    jobs = [yard.toy(one) for one in range(5)] + [yard.toy(5) | {"gpus": 2}]
    jobs[3] = yard.toy(3, die="once")
    config = yard.write(
        jobs, gpus=1, memory_gb=64, cpus=8, minutes=90, slurm={"slurm_partition": "long"}
    )
    assert cli.main(["jobs", str(config), "--on", "slurm", "--at-once", "4"]) == 0
    assert yard.rows() == alone(*range(6))
    first, second, again = (
        set(path.read_text().splitlines()) for path in sorted((slurm / "scripts").iterdir())
    )
    options = ["array=0-4%4", "gpus-per-node=1", "mem=64GB", "cpus-per-task=8", "time=90"]
    assert {f"#SBATCH --{one}" for one in [*options, "partition=long"]} <= first
    assert "#SBATCH --gpus-per-node=2" in second and not any("--array" in one for one in second)
    assert not any("--array" in one for one in again)  # the one that died
    assert cli.main(["jobs", str(config), "--on", "slurm"]) == 0
    assert len(list((slurm / "scripts").iterdir())) == 3


def test_a_front_that_is_killed_finds_its_jobs_in_the_queue(slurm: Path, yard: Yard, alone) -> None:
    config = yard.write([yard.toy(one, wait=True) for one in range(3)], on="slurm")
    front = yard.front(config)
    until(lambda: len(yard.started()) == 3)
    front.kill()
    front.communicate()
    again = yard.front(config)
    assert "3 are queued or running already" in again.stderr.readline() + again.stderr.readline()
    yard.gate.touch()
    assert again.wait(60) == 0, again.stderr.read()
    again.stderr.close()
    assert Counter(yard.started()) == {"[0]": 1, "[1]": 1, "[2]": 1}
    assert len(list((slurm / "scripts").iterdir())) == 1
    assert yard.rows() == alone(0, 1, 2)


def test_ctrl_c_cancels_the_arrays(slurm: Path, yard: Yard) -> None:
    config = yard.write([yard.toy(one, wait=True) for one in range(2)], on="slurm")
    front = yard.front(config)
    until(lambda: len(yard.started()) == 2)
    front.send_signal(signal.SIGINT)
    front.communicate(timeout=60)
    assert front.returncode == 130
    until(lambda: not yard.alive(), seconds=10)


def test_what_submitit_does_not_know_is_refused(slurm: Path, yard: Yard, capsys) -> None:
    config = yard.write([yard.toy(0)], on="slurm", slurm={"slurm_partitoin": "x"})
    assert cli.main(["jobs", str(config)]) == 2
    assert "slurm={'slurm_partitoin': 'x'}: Unknown argument" in capsys.readouterr().err


def test_without_slurm_nothing_is_begun(yard: Yard, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["jobs", str(yard.write([yard.toy(0)], on="slurm"))]) == 1
    assert "sbatch and srun are not there" in capsys.readouterr().err
