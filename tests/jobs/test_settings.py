"""What a config of jobs may say, and what tells one job from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from aim_plugins import cli
from aim_plugins.core.settings import read_settings
from aim_plugins.jobs.identity import named_files
from aim_plugins.jobs.plan import plan
from aim_plugins.jobs.settings import Job, JobsSettings, as_jobs

GRID = """
_MODELS = {"small": "models/small", "large": "models/large"}
_GROUPS = {"a": ["gsm8k"], "b": ["mmlu", "arc_easy"]}
output = "out"
gpus = 1
jobs = [
    dict(
        name=f"{model}-{group}",
        command="aim-plugins sweep lm-eval",
        options=dict(model_args=f"pretrained={path}", tasks=",".join(tasks), strength="-1:1:0.5"),
        memory_gb=32 if model == "large" else 8,
    )
    for model, path in _MODELS.items()
    for group, tasks in _GROUPS.items()
]
then = [["vision-bench", "coverage", "combine", "a", "b", "--seed", 3, "--output", "{output}"]]
"""


def read(text: str, folder: Path) -> JobsSettings:
    path = folder / "jobs.py"
    path.write_text(text)
    return read_settings(JobsSettings, path, resolve=as_jobs)


def test_a_comprehension_is_a_grid(tmp_path: Path) -> None:
    settings = read(GRID, tmp_path)
    assert [job.label for job in settings.jobs] == ["small-a", "small-b", "large-a", "large-b"]
    assert settings.jobs[3].words == (
        *("aim-plugins", "sweep", "lm-eval", "--model-args", "pretrained=models/large"),
        *("--tasks", "mmlu,arc_easy", "--strength=-1:1:0.5"),
    )
    first, then = plan(settings)
    assert [task.memory_gb for task in first] == [8, 8, 32, 32] and first[0].gpus == 1
    assert then[0].argv[1:3] == ("-m", "vision_bench.cli")
    assert then[0].argv[-1] == str(then[0].results) and "3" in then[0].argv


def test_options_become_words_as_their_program_has_them() -> None:
    options = dict(model_args="a=b", limit=None, fast=True, slow=False, names=["x", 2])
    ours = Job("aim-plugins attribute", options).words[2:]
    assert ours == ("--model-args", "a=b", "--fast", "--no-slow", "--names", "x", "2")
    assert Job("lm_eval", dict(model_args="a=b")).words == ("lm_eval", "--model_args", "a=b")


def test_a_name_does_not_depend_on_the_place_in_the_list() -> None:
    job = Job(["aim-plugins", "sweep", "lm-eval", "--tasks", "t"])
    assert job.label == Job("aim-plugins sweep lm-eval --tasks t").label
    assert job.label.startswith("sweep-lm-eval-") and job.label != Job("aim-plugins sweep x").label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs = []", "jobs is empty"),
        ("jobs = [['aim-plugin', 'sweep']]", "did you mean 'aim-plugins'"),
        ("jobs = [['rm', '-r', 'x']]", "choose one of 'aim-plugins'"),
        ("jobs = [[]]", "calls no program"),
        ("jobs = [dict(comand='lm_eval')]", "did you mean 'command'"),
        ("jobs = [dict(name='a')]", "jobs holds no command"),
        ("jobs = 'aim-plugins sweep'", "jobs='aim-plugins sweep': give a list"),
        ("jobs = [dict(name='../a', command='lm_eval')]", "cannot name a folder"),
        ("jobs = [['lm_eval'], ['lm_eval']]", "the second with the same words"),
        ("jobs = [dict(name=n, command=['lm_eval', n]) for n in 'aA']", "with other words"),
        ("jobs = [['aim-plugins', 'jobs', 'x.py']]", "starts jobs itself"),
        ("jobs = [['lm_eval']]; gpus = 0.5; on = 'slurm'", "Slurm gives whole ones"),
        ("jobs = [['lm_eval']]; gpus = 1; at_once = 2", "the same GPUs"),
        ("jobs = [['lm_eval']]; on = 'ray'; at_once = 2", "at_once=2 on ray"),
        ("jobs = [['lm_eval']]; on = 'slrm'", "did you mean 'slurm'"),
        ("jobs = [['lm_eval']]; tries = 2", "did you mean 'retries'"),
        ("jobs = [dict(command='lm_eval', gpus=-1)]", "gpus=-1"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs.py").write_text(f"{text}\n")
    status = cli.main(["jobs", str(tmp_path / "jobs.py"), "--output", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert status == 2 and message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_files_that_a_command_names_are_told_with_what_they_build_on(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("seed = 0\n")
    (tmp_path / "top.py").write_text("_base_ = ['base.py']\n")
    (tmp_path / "learned").mkdir()
    (tmp_path / "learned" / "transport.json").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{}")
    words = ["--config", "top.py", "--model-args", "pretrained=m,transport=learned", "", "x" * 999]
    words += ["--output", "out", "--output=out", "-o", "out"]
    found = named_files(words, tmp_path)
    assert list(found) == ["base.py", "learned/transport.json", "top.py"]
    (tmp_path / "base.py").write_text("seed = 1\n")
    assert {one for one, told in named_files(words, tmp_path).items() if told != found[one]} == {
        "base.py"
    }


def test_later_jobs_are_others_once_earlier_ones_are(tmp_path: Path) -> None:
    (_, before), (_, after) = (
        plan(read(GRID.replace("gsm8k", name), tmp_path)) for name in ("gsm8k", "arc_easy")
    )
    assert before[0].argv == after[0].argv and before[0].identity != after[0].identity
