"""Jobs as processes of this machine: killed, interrupted, started again, merged."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

import numpy as np
import pytest

from aim_plugins import cli
from aim_plugins.jobs.settings import RESULTS
from aim_plugins.jobs.task import RECEIPT
from aim_plugins.sweep.store import SweepStore
from tests.jobs.conftest import Yard, until
from vision_bench import cli as vision_bench

pytest.importorskip("submitit")


def run(yard: Yard, jobs: list, *options: str, **rest: object) -> int:
    return cli.main(["jobs", str(yard.write(jobs, **rest)), *options])


def test_jobs_find_what_one_process_finds(yard: Yard, alone, capsys) -> None:
    jobs = [yard.toy(0), yard.toy(1, 2), yard.toy(3, die="once")]
    assert run(yard, jobs, "--at-once", "2") == 0
    assert yard.rows() == alone(0, 1, 2, 3)
    assert Counter(yard.started()) == {"[0]": 1, "[1, 2]": 1, "[3]": 2}
    assert "job3 killed by signal 9: measuring" in capsys.readouterr().err
    page = (yard.output / "report.html").read_text()
    assert "3 of 3 jobs have finished." in page and "task2: acc" in page


def test_what_has_finished_is_not_run_again(yard: Yard) -> None:
    assert run(yard, [yard.toy(0), yard.toy(1)]) == 0
    assert run(yard, [yard.toy(0), yard.toy(1), yard.toy(2)]) == 0
    assert yard.started() == ["[0]", "[1]", "[2]"]
    (yard.output / "job1" / RECEIPT).write_text('{"sha256": "0", "payload": {}}')
    assert run(yard, [yard.toy(0), yard.toy(1), yard.toy(2)]) == 0
    assert yard.started() == ["[0]", "[1]", "[2]", "[1]"]


def test_a_job_with_other_words_starts_afresh_and_its_old_results_stay(yard: Yard) -> None:
    assert run(yard, [yard.toy(0) | {"name": "one"}]) == 0
    assert run(yard, [yard.toy(1) | {"name": "one"}]) == 0
    assert yard.started() == ["[0]", "[1]"]
    former, kept = sorted((yard.output / "one").glob(f"{RESULTS}*"))
    assert former.name == RESULTS and "task1" in (former / "sweep.csv").read_text()
    assert "task0" in (kept / "sweep.csv").read_text()
    assert "task0" not in (yard.output / "results.csv").read_text()


def test_failures_are_named_with_their_logs_and_what_refuses_is_not_tried_again(
    yard: Yard, capsys
) -> None:
    jobs = [yard.toy(0), yard.toy(1, status=2), yard.toy(2, status=1), yard.toy(3, die="always")]
    later = yard.toy(9)
    assert run(yard, jobs, then=[later]) == 1
    assert Counter(yard.started()) == {"[0]": 1, "[1]": 1, "[2]": 2, "[3]": 2}
    assert yard.states() == {
        **{"job0": "finished", "job1": "refused", "job2": "failed", "job3": "failed"},
        "job9": "not started",
    }
    said = capsys.readouterr()
    for number, how in enumerate(("refused", "failed with status 1", "killed by signal 9"), 1):
        assert f"job{number} {how}: measuring ({yard.output}/job{number}/log.txt)" in said.err
        assert f"{yard.output}/job{number}/log.txt" in said.out
    assert 'href="job3/log.txt"' in (yard.output / "report.html").read_text()
    assert run(yard, [yard.toy(1)], then=[later]) == 0
    assert yard.states() == {"job1": "finished", "job9": "finished"}


def test_a_front_that_is_killed_and_started_again_runs_nothing_twice(yard: Yard, alone) -> None:
    config = yard.write([yard.toy(one, wait=True) for one in range(3)], at_once=2)
    front = yard.front(config)
    until(lambda: len(yard.started()) == 2)
    front.kill()
    front.wait()
    front.stderr.close()
    again = yard.front(config)
    assert len(yard.alive()) == 2  # they go on without the front
    yard.gate.touch()
    assert again.wait(60) == 0, again.stderr.read()
    again.stderr.close()
    assert Counter(yard.started()) == {"[0]": 1, "[1]": 1, "[2]": 1}
    assert yard.rows() == alone(0, 1, 2)


def test_ctrl_c_ends_what_was_started_and_the_same_command_goes_on(yard: Yard) -> None:
    config = yard.write([yard.toy(0), yard.toy(1, wait=True), yard.toy(2)])
    front = yard.front(config)
    until(lambda: len(yard.started()) == 2)
    front.send_signal(signal.SIGINT)
    _, said = front.communicate(timeout=60)
    assert front.returncode == 130
    assert "interrupted; what was finished is kept; the same command goes on from there" in said
    assert "Traceback" not in said
    until(lambda: not yard.alive(), seconds=10)
    yard.gate.touch()
    assert cli.main(["jobs", str(config)]) == 0
    assert yard.started() == ["[0]", "[1]", "[1]", "[2]"]


def test_a_job_ends_with_the_process_that_runs_it(yard: Yard) -> None:
    front = yard.front(yard.write([yard.toy(0, wait=True)], retries=0))
    until(lambda: len(yard.started()) == 1)
    (job,) = yard.alive()
    with open(f"/proc/{job}/stat") as file:
        runner = int(file.read().rpartition(")")[2].split()[1])
    os.kill(runner, signal.SIGKILL)
    _, said = front.communicate(timeout=60)
    assert front.returncode == 1 and "job0 lost" in said
    until(lambda: not yard.alive(), seconds=10)


def test_two_fronts_do_not_share_a_folder(yard: Yard, capsys) -> None:
    config = yard.write([yard.toy(0)])
    with SweepStore.open(yard.output, {"command": "jobs"}, axes=()):
        assert cli.main(["jobs", str(config)]) == 1
    assert "is being written by another process" in capsys.readouterr().err


def test_later_jobs_start_once_all_others_have_finished(yard: Yard) -> None:
    """Shards write into the folder of a later job, which is emptied before them if they change."""
    shard, later = yard.toy(1, die="once"), yard.toy(5)
    shard["options"]["output"] = "{jobs}/job5/results/shard"
    assert run(yard, [shard], then=[later]) == 0
    assert yard.started() == ["[1]", "[1]", "[5]"]
    shard["options"]["seeds"] = [2]
    assert run(yard, [shard], then=[later]) == 0
    assert yard.started()[3:] == ["[2]", "[2]", "[5]"]
    (kept,) = (yard.output / "job5").glob("results-*")
    assert "task1" in (kept / "shard" / "sweep.csv").read_text()
    assert "task2" in (yard.output / "job5" / "results" / "shard" / "sweep.csv").read_text()
    assert yard.states() == {"job1": "finished", "job5": "finished"}


def test_a_job_out_of_time_is_stopped(yard: Yard, monkeypatch) -> None:
    monkeypatch.setattr("aim_plugins.jobs.task.MINUTE", 0.5)
    job = yard.toy(0, wait=True) | {"minutes": 1}
    monkeypatch.setattr("aim_plugins.jobs.study.run_here", in_this_process)
    assert run(yard, [job], retries=0) == 1
    assert "stopped after 1 minutes" in (yard.output / "job0" / "log.txt").read_text()
    assert not yard.alive()


def in_this_process(tasks, settings, folder, ended) -> None:
    for task in tasks:
        task.run()
        ended(task, "")


@pytest.mark.slow
def test_shares_of_strengths_find_what_one_sweep_finds(tmp_path, monkeypatch) -> None:
    """Strengths share their noise, so it does not matter which jobs they are in."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    np.savez("cached.npz", logits=draw.normal(size=(200, 5)), labels=draw.integers(5, size=200))
    words = ["classify-logits", "cached.npz", "--draws", "2", "--noise-std"]
    jobs = [
        {"name": name, "command": ["vision-bench", *words, grid, "--output", "{output}"]}
        for name, grid in (("low", "0,0.5"), ("high", "1,2"))
    ]
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": jobs, "output": "out"}))
    assert cli.main(["jobs", "jobs.json"]) == 0
    assert vision_bench.main([*words, "0,0.5,1,2", "--output", "whole"]) == 0
    with open("whole/sweep.csv") as whole, open("out/results.csv") as merged:
        values = sorted(line.rstrip().split(",")[:7] for line in whole)  # no differences
        assert sorted(line.rstrip().split(",")[2:] for line in merged) == values
    assert "low/results/report.html" in (tmp_path / "out" / "report.html").read_text()
