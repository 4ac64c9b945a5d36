"""`aim-plugins sweep opencompass`: what it refuses, runs, checks and says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("opencompass")

from mmengine.config import Config
from opencompass.utils import get_logger
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.cli import main
from aim_plugins.harnesses.opencompass import command
from aim_plugins.harnesses.opencompass.run import host
from aim_plugins.harnesses.opencompass.run.missing import MissingCell, describe_missing, last_error
from aim_plugins.modulation import changes
from aim_plugins.sweep.front import TABLE
from aim_plugins.sweep.table import read_table

MODEL = "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel"
CUSTOM = "opencompass.datasets.custom.CustomDataset"
RUN = "20260102_030405"
DONE = 0

# Stands for OpenCompass: dumps the configuration where it does, and finishes the cells asked for.
STAND_IN = """
import json, os, pathlib, subprocess, sys, time
from mmengine.config import Config
from aim_plugins.harnesses.opencompass.run.host import end_with_command
end_with_command()
arguments = sys.argv[1:]
stamp = arguments[-1]
cfg = Config.fromfile(arguments[0], format_python_code=False)
cfg["work_dir"] = os.path.join(cfg["work_dir"], stamp)
folder = pathlib.Path(cfg["work_dir"])
(folder / "configs").mkdir(parents=True, exist_ok=True)
cfg.dump(folder / "configs" / f"{stamp}_{os.getpid()}.py")
(folder / "arguments.json").write_text(json.dumps(arguments))
(folder / "command.json").write_text(os.environ["AIM_PLUGINS_COMMAND"])
(folder / "new").write_text(os.environ.get("AIM_PLUGINS_NEW_RUN", ""))
for name in json.loads(os.environ.get("FINISH", "[]")):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
for name, text in json.loads(os.environ.get("LOGS", "{}")).items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
if "HANG" in os.environ:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    # Below a shell, as OpenCompass runs its tasks.
    words = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, code]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    (folder / "child").write_text(child.stdout.readline())
    os.rename(folder / "child", os.environ["HANG"])
    child.wait()
sys.exit(int(os.environ.get("STATUS", "0")))
"""


@pytest.fixture
def stock(tmp_path, monkeypatch) -> Path:
    """A configuration of one entry and two data sets with OpenCompass's own tasks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "?", "answer": "!"}) + "\n")
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    monkeypatch.setattr(command, "_OPENCOMPASS", [sys.executable, str(stand_in)])
    return write_config(tmp_path / "config.py")


def write_config(path: Path, **changes) -> Path:
    model = {"type": MODEL, "abbr": "m", "path": "organisation/model", "run_cfg": {"num_gpus": 0}}
    data = [{"type": CUSTOM, "abbr": name, "path": "data.jsonl"} for name in ("one", "two")]
    content = {"models": [model], "datasets": data, "work_dir": "out", **changes}
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in content.items()))
    return path


def sweep(*arguments: object) -> int:
    return main(["sweep", "opencompass", *map(str, arguments)])


def only_run(folder: Path) -> Path:
    (run,) = (folder / "out").iterdir()
    return run


def only_error(capfd) -> str:
    """The one line on standard error that is no progress."""
    lines = capfd.readouterr().err.splitlines()
    (said,) = [one for one in lines if not one.startswith(("checking ", "starting OpenCompass"))]
    return said


def finish(monkeypatch, *names: str) -> None:
    monkeypatch.setenv("FINISH", json.dumps(names))


EVERYTHING = [
    f"{stage}/m/{name}.json" for stage in ("predictions", "results") for name in ("one", "two")
]


def test_a_finished_run_succeeds_and_says_where_its_results_are(stock, monkeypatch, capfd):
    """The summarizer has said where its report is."""
    finish(monkeypatch, *EVERYTHING, "summary/sweep/m/report.html")
    assert sweep(stock) == DONE
    run = only_run(stock.parent)
    said = capfd.readouterr()
    assert said.out == f"results: out/{run.name}\n"
    assert said.err.splitlines() == [
        f"checking {stock}",
        f"starting OpenCompass, which writes to out/{run.name}",
    ]
    assert not (run / ".lock").exists()


def test_the_first_word_comes_before_anything_is_imported(stock):
    code = (
        "import sys\n"
        "from aim_plugins.harnesses.opencompass import command\n"
        "command._load_config = lambda path: print(*sys.modules) or sys.exit()\n"
        f"command.main([{str(stock)!r}])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stderr == f"checking {stock}\n"
    assert not {"torch", "mmengine", "opencompass", "numpy"} & set(said.stdout.split())


def test_opencompass_is_told_a_new_run_from_a_resumed_one(stock, monkeypatch):
    finish(monkeypatch, *EVERYTHING)
    assert sweep(stock) == DONE
    run = only_run(stock.parent)
    assert (run / "new").read_text() == "1"
    assert sweep(stock, "-r") == DONE
    assert (run / "new").read_text() == ""


def test_a_new_run_is_not_said_to_reuse_an_old_one(monkeypatch):
    from opencompass.cli import main as opencompass

    said: list[str] = []
    logger = get_logger()
    monkeypatch.setattr(logger, "filters", list(logger.filters))
    monkeypatch.setattr(logger, "callHandlers", lambda record: said.append(record.getMessage()))

    def run() -> None:
        logger.info("Reusing experiements from 20260102_030405")
        logger.info("Current exp folder: out")

    monkeypatch.setattr(opencompass, "main", run)
    monkeypatch.setattr(sys, "argv", ["host", "config.py"])
    host.main()
    monkeypatch.setenv(host.NEW_RUN_VARIABLE, "1")
    host.main()
    assert [words.split()[0] for words in said] == ["Reusing", "Current", "Current"]


def test_a_missing_cell_fails_and_names_the_log_and_its_error(stock, monkeypatch, capfd):
    finish(monkeypatch, *(name for name in EVERYTHING if "two" not in name))
    log = "Traceback (most recent call last):\n  File ...\nOSError: no such weights\n"
    monkeypatch.setenv("LOGS", json.dumps({"logs/infer/m/two.out": log}))
    assert sweep(stock) == 1
    run = only_run(stock.parent)
    said = capfd.readouterr().err
    assert f"m x two: infer failed, see out/{run.name}/logs/infer/m/two.out\n" in said
    assert "OSError: no such weights" in said
    assert f"run the same command with -r {run.name}" in said
    assert "x one" not in said


def test_a_missing_result_is_told_from_a_missing_prediction(stock, monkeypatch, capfd):
    finish(monkeypatch, *(name for name in EVERYTHING if name != "results/m/one.json"))
    assert sweep(stock) == 1
    assert "m x one: eval failed" in capfd.readouterr().err


def test_inference_alone_needs_no_results(stock, monkeypatch):
    finish(monkeypatch, *(name for name in EVERYTHING if name.startswith("predictions")))
    assert sweep(stock, "-m", "infer") == DONE


def test_parts_that_opencompass_cut_a_data_set_into_count_as_its_prediction(stock, monkeypatch):
    finish(monkeypatch, "predictions/m/one_0.json", "predictions/m/two_0.json")
    assert sweep(stock, "-m", "infer") == DONE


def test_a_file_without_a_fresh_note_is_missing_for_our_partitioners(
    tmp_path, stock, monkeypatch, capfd
):
    partitioner = "aim_plugins.harnesses.opencompass.run.partitioner.SweepInferPartitioner"
    config = write_config(tmp_path / "ours.py", infer={"partitioner": {"type": partitioner}})
    finish(monkeypatch, *EVERYTHING)
    assert sweep(config) == 1
    assert "m x 2 data sets (one, two): infer failed" in capfd.readouterr().err


OURS = "aim_plugins.harnesses.opencompass.run.partitioner.Sweep{}Partitioner"


@pytest.fixture
def ours(stock) -> Path:
    """The same configuration with our partitioners."""
    tasks = {
        name: {"partitioner": {"type": OURS.format(name.title())}} for name in ("infer", "eval")
    }
    return write_config(stock, **tasks)


@pytest.mark.parametrize("scheduler", [["--slurm", "-p", "gpu"], ["--dlc"], ["--sl", "-p", "gpu"]])
def test_files_of_a_scheduler_are_those_of_stock_tasks(ours, monkeypatch, capfd, scheduler):
    finish(monkeypatch, *EVERYTHING)
    assert sweep(ours, *scheduler) == DONE
    shutil.rmtree(only_run(ours.parent))
    finish(monkeypatch, *(name for name in EVERYTHING if "results/m/two" not in name))
    assert sweep(ours, *scheduler) == 1
    assert "m x two: eval failed" in capfd.readouterr().err


def test_a_resumed_run_is_not_refused_for_want_of_gpus(stock, monkeypatch, capfd):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model = {"type": MODEL, "abbr": "m", "path": "o/m", "run_cfg": {"num_gpus": 1}}
    config = write_config(stock, models=[model])
    finish(monkeypatch, *EVERYTHING)
    assert sweep(config) == 2
    assert "0 GPUs are visible" in capfd.readouterr().err
    (stock.parent / "out" / RUN).mkdir(parents=True)
    assert sweep(config, "-r", RUN) == DONE


def test_several_processes_are_refused_before_our_tasks_alone(ours, monkeypatch, capfd):
    model = {"type": MODEL, "abbr": "m", "path": "o/m", "run_cfg": {"num_gpus": 0, "num_procs": 2}}
    finish(monkeypatch, *EVERYTHING)
    assert sweep(write_config(ours, models=[model])) == DONE
    tasks = {"infer": {"partitioner": {"type": OURS.format("Infer")}}}
    config = write_config(ours, models=[model], **tasks)
    assert sweep(config) == 2
    assert "num_procs=2" in capfd.readouterr().err
    assert sweep(config, "--slurm", "-p", "gpu") == DONE


def test_shortened_options_are_understood_as_opencompass_does(stock, monkeypatch, capfd):
    finish(monkeypatch, *EVERYTHING)
    monkeypatch.setattr(command, "_DEFAULT_WORK_DIR", "nowhere")
    assert sweep(stock, "--work", "elsewhere", "--reus", "20000101_000000") == 2
    assert "no such run in elsewhere" in capfd.readouterr().err
    assert sweep(stock, "--re") == 2
    assert "ambiguous option: --re" in capfd.readouterr().err


def test_options_of_opencompass_are_read_as_it_reads_them(monkeypatch):
    from opencompass.cli.main import parse_args

    for words in (
        ["--work", "out", "--reu"],
        ["--dry", "--mod", "infer"],
        ["--dry", "--mode", "eval", "--reuse", RUN, "--models", "a", "b"],
        ["--slu", "-p", "gpu", "--debug", "--read", "--dump-eval-details", "-w", "out"],
    ):
        monkeypatch.setattr("sys.argv", ["opencompass", "config.py", *words])
        try:
            expected = vars(parse_args())
        except SystemExit:  # --mod may be --mode, --models or --model-kwargs
            assert "--mod" in words
            continue
        options = vars(command._read_options(words))
        assert options == {name: expected[name] for name in options}


def test_a_dry_run_is_passed_on_and_checks_no_cells(stock):
    assert sweep(stock, "--dry-run") == DONE
    given = json.loads((only_run(stock.parent) / "arguments.json").read_text())
    assert given[:2] == [str(stock), "--dry-run"]


def test_the_command_reaches_the_report_without_its_secrets(stock):
    assert sweep(stock, "--dry-run", "--token", "hf_secret") == DONE
    words = json.loads((only_run(stock.parent) / "command.json").read_text())
    assert words == [
        "aim-plugins",
        "sweep",
        "opencompass",
        str(stock),
        "--dry-run",
        "--token",
        "***",
    ]


def test_the_latest_run_is_one_of_the_runs_and_no_other_folder(stock, monkeypatch):
    finish(monkeypatch, *EVERYTHING)
    for name in ("20250101_000000", RUN, "zoo"):
        (stock.parent / "out" / name).mkdir(parents=True)
    assert sweep(stock, "-r") == DONE
    assert (stock.parent / "out" / RUN / "arguments.json").exists()


def test_a_run_that_is_named_is_taken(stock, monkeypatch):
    finish(monkeypatch, *EVERYTHING)
    for name in ("20250101_000000", RUN):
        (stock.parent / "elsewhere" / name).mkdir(parents=True)
    config = write_config(stock, work_dir="elsewhere")
    assert sweep(config, "-w", "elsewhere", "-r", "20250101_000000") == DONE
    assert (stock.parent / "elsewhere" / "20250101_000000" / "arguments.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "CONFIG: nothing stands"),
        (["--debug"], "CONFIG: '--debug' stands"),
        (["none.py"], "CONFIG='none.py' is not there"),
        (["config.py", "-m", "eval"], "--mode eval works on a run that is there: add -r"),
        (["config.py", "-m", "fly"], "--mode='fly' is not one of all, infer, eval, viz"),
        (["config.py", "-r", "20000101_000000"], "no such run in out"),
        (["config.py", "-m", "viz", "-r"], "there is no run in out"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(stock, capfd, arguments, words):
    assert sweep(*arguments) == 2
    said = only_error(capfd)
    assert words in said
    assert said.startswith("error: ")
    assert not (stock.parent / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": []}, "has no models: set models = "),
        ({"datasets": [{"path": "none.jsonl"}]}, "path='none.jsonl', and there is no such file"),
        (
            {"datasets": [{"path": "data.jsonl", "abbr": "d", "template": "{quesiton}"}]},
            "d: its prompt_template has {quesiton}, and the data have no such column",
        ),
    ],
)
def test_a_bad_config_is_one_line_and_status_2(stock, capfd, changes, words):
    assert sweep(write_config(stock, **changes)) == 2
    said = only_error(capfd)
    assert words in said


def test_calling_an_imported_function_in_a_config_names_the_line(stock, capfd):
    stock.write_text("from numpy import linspace\n\nstds = linspace(0, 1, 3)\n" + stock.read_text())
    assert sweep(stock) == 2
    assert "line 3: it calls something it has imported" in capfd.readouterr().err


def test_a_syntax_error_in_a_config_names_file_and_line(stock, capfd):
    stock.write_text("models = []\ndatasets = [\n")
    assert sweep(stock) == 2
    said = only_error(capfd)
    assert f"CONFIG='{stock}', line 2: '[' was never closed" in said


def test_arguments_that_opencompass_refuses_are_not_worth_going_on_with(stock, monkeypatch, capfd):
    monkeypatch.setenv("STATUS", "2")
    assert sweep(stock, "--no-such") == 2
    said = only_error(capfd)
    assert "does not take these arguments" in said and "-r" not in said


def test_a_failure_of_opencompass_itself_is_a_failure(stock, monkeypatch, capfd):
    monkeypatch.setenv("STATUS", "3")
    assert sweep(stock) == 1
    assert "opencompass ended with status 3" in capfd.readouterr().err


@pytest.fixture
def hanging(stock):
    """Starts a command in another process, whose task hangs, and gives both and the task's id."""
    code = (
        "import sys; from aim_plugins.harnesses.opencompass import command\n"
        f"command._OPENCOMPASS = {command._OPENCOMPASS!r}\n"
        "command._load_config = lambda path: dict(work_dir='out')\n"
        "command._check = lambda *_: None\n"
        f"sys.exit(command.main([{str(stock)!r}]))"
    )
    started = stock.parent / "started"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "HANG": str(started)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: started.exists() or process.poll() is not None)
    task = int(started.read_text())
    assert is_alive(task)
    yield process, task
    for number in (process.pid, task):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_command_ends_the_tasks_too(stock, hanging, number):
    process, task = hanging
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"with -r {only_run(stock.parent).name}" in said
    assert not is_alive(task)


def test_killing_the_command_ends_the_tasks_too(hanging):
    process, task = hanging
    process.kill()
    wait_until(lambda: not is_alive(task))


def test_killing_opencompass_ends_its_tasks(stock, hanging):
    process, task = hanging
    os.kill(int((only_run(stock.parent) / ".lock").read_text()), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "opencompass ended with status -9" in said
    assert not is_alive(task)


def test_a_run_that_is_at_work_is_not_resumed_beside(stock, hanging, capfd):
    process, task = hanging
    run = only_run(stock.parent)
    holder = int((run / ".lock").read_text())
    assert os.getpgid(task) == holder != process.pid
    assert sweep(stock, "-r", run.name) == 1
    said = only_error(capfd)
    assert f"out/{run.name} is being written by OpenCompass, process {holder}" in said
    # What the message tells to write ends it all, and the run can be resumed.
    words = said.rpartition("with ")[2].split()
    subprocess.run(words, check=True)
    process.communicate(timeout=60)
    assert not is_alive(task)
    assert sweep(stock, "-r", run.name) == 1
    assert "unfinished cells" in capfd.readouterr().err


def test_a_hang_up_stays_ignored_under_nohup():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with host.stopping_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, but its new parent has not asked yet


LOG = """\
11/21 08:00:01 - OpenCompass - INFO - start
11/21 08:00:02 - OpenCompass - ERROR - /a/b.py - run - 12 - mmlu_anatomy failed
Traceback (most recent call last):
  File "x.py", line 1, in <module>
KeyError: 'first'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
ValueError: the file has no column A
11/21 08:00:03 - OpenCompass - ERROR - /a/b.py - run - 12 - mmlu_anatomy_2 failed
FileNotFoundError: no such file
11/21 08:00:04 - OpenCompass - INFO - gsm8k: 32 entries in 4.0 s
Traceback (most recent call last):
RuntimeError: inference failed for mmlu_anatomy, mmlu_anatomy_2
"""


@pytest.mark.parametrize(
    ("data_set", "line"),
    [
        ("mmlu_anatomy", "ValueError: the file has no column A"),
        ("mmlu_anatomy_2", "FileNotFoundError: no such file"),
        ("gsm8k", "RuntimeError: inference failed for mmlu_anatomy, mmlu_anatomy_2"),
    ],
)
def test_the_error_of_a_data_set_is_found_in_the_log_of_many(tmp_path, data_set, line):
    log = tmp_path / "task.out"
    log.write_text(LOG)
    assert last_error(log, data_set) == line


def test_a_log_without_errors_has_no_last_error(tmp_path):
    log = tmp_path / "task.out"
    log.write_text("11/21 08:00:01 - OpenCompass - INFO - start\n 40%|####      | 2/5\n")
    assert last_error(log, "gsm8k") == ""


def test_many_cells_of_one_cause_are_one_line(tmp_path):
    log = tmp_path / "task.out"
    log.write_text(LOG)
    cells = [
        MissingCell(f"m-noise{std}", data_set, "infer", log)
        for std in range(32)
        for data_set in ("mmlu_anatomy", "mmlu_anatomy_2")
    ]
    lines = describe_missing(cells)
    assert len(lines) == 4
    assert lines[0] == (
        f"32 entries (m-noise0, m-noise1, m-noise2, ...) x mmlu_anatomy: infer failed, see {log}"
    )
    assert lines[3].strip() == "FileNotFoundError: no such file"


TOY = """
from dataclasses import dataclass
from aim_plugins.core.strengths import Axis
from aim_plugins.modulation.changes import Change

@dataclass(frozen=True)
class Temperature(Change):
    name = "temperature"
    axis = Axis("temperature", "τ", "temperature", low=0.01)
    acts_on = "logits"
    arguments = {"logit_temperature": "what logits are divided by"}
    neutral = 1.0
    strength: float

    def modulate(self, logits, keys, scratch):
        return logits / self.strength
"""


@pytest.fixture
def installed_kind(tmp_path, monkeypatch):
    """A package with a kind of change of its own, for this process and all it starts."""
    folder = tmp_path / "site"
    (folder / "toy-1.dist-info").mkdir(parents=True)
    (folder / "toy.py").write_text(TOY, encoding="utf-8")
    (folder / "toy-1.dist-info" / "METADATA").write_text("Name: toy\nVersion: 1\n")
    (folder / "toy-1.dist-info" / "entry_points.txt").write_text(
        f"[{changes.ENTRY_POINTS}]\ntemperature = toy:Temperature\n"
    )
    paths = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.syspath_prepend(folder)
    known = dict(changes._kinds)
    changes._load_entry_points.cache_clear()
    yield
    changes._kinds.clear()
    changes._kinds.update(known)
    sys.modules.pop("toy", None)


def perplexity_by_hand(checkpoint: Path, prompt: str, temperature: float) -> float:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(checkpoint)(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        law = (model(ids).logits[0, :-1].double() / temperature).log_softmax(-1)
    return -float(law[torch.arange(len(law)), ids[0, 1:]].sum()) / ids.shape[1]


@pytest.mark.slow
def test_a_broken_data_set_fails_a_grid_and_mending_it_completes_it(
    tiny_checkpoint, make_transport, opencompass_data, installed_kind, tmp_path, monkeypatch, capfd
):
    """A sweep of noise and transport by the stock command, at a temperature of a user's package."""
    monkeypatch.chdir(tmp_path)
    make_transport(tmp_path / "transport", tiny_checkpoint)
    question = json.dumps({"question": "Paris is the capital of", "answer": "France"}) + "\n"
    # The first line, which OpenCompass reads beforehand, is sound.
    (tmp_path / "broken.jsonl").write_text(question + "{\n")
    config = tmp_path / "config.py"
    config.write_text(
        "from mmengine.config import read_base\n"
        "from aim_plugins.harnesses.opencompass import HuggingFaceAcTModel\n"
        "with read_base():\n"
        "    from aim_plugins.harnesses.opencompass.sweep import infer, eval, summarizer\n"
        f"models = [dict(type=HuggingFaceAcTModel, path={str(tiny_checkpoint)!r},\n"
        "    model_kwargs=dict(torch_dtype='torch.float32', device_map='cpu'),\n"
        "    abbr=f'tiny-noise{x}-act{y}', noise_std=x, strength=y,\n"
        "    transport='transport', generation_kwargs=dict(logit_temperature=2.0),\n"
        "    max_out_len=4, batch_size=4, run_cfg=dict(num_gpus=0))\n"
        "    for x in (0, 1) for y in (0, 0.5)]\n"
        f"datasets = [{opencompass_data[0]!r}, dict(abbr='broken', path='broken.jsonl')]\n"
        "work_dir = 'out'\n"
    )
    assert sweep(config) == 1
    said = capfd.readouterr().err
    run = only_run(tmp_path)
    assert (
        "4 entries (tiny-noise0-act0, tiny-noise0-act0.5, tiny-noise1-act0, ...) x broken: "
        "infer failed, see out/" in said
    )
    assert "JSONDecodeError" in said
    assert (run / "results" / "tiny-noise1-act0.5" / "choice.json").exists()

    (tmp_path / "broken.jsonl").write_text(question * 2)
    assert sweep(config, "-r", run.name) == DONE
    said = capfd.readouterr().out
    assert (
        said.count("report:") == said.count(f"out/{run.name}/summary/sweep/tiny/report.html") == 1
    )
    predictions = run / "predictions"
    assert len(json.loads((predictions / "tiny-noise1-act0.5" / "broken.json").read_text())) == 2
    folder = run / "summary" / "sweep" / "tiny"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"][:4] == ["aim-plugins", "sweep", "opencompass", str(config)]
    dumped = sorted((run / "configs").iterdir(), key=lambda path: path.stat().st_mtime)[-1]
    names = ["choice", "broken"]
    assert [data["abbr"] for data in Config.fromfile(dumped).datasets] == names

    places = {(row.task, row.strength, row.second_strength) for row in read_table(folder / TABLE)}
    assert places == {(name, x, y) for name in names for x in (0, 1) for y in (0, 0.5)}
    assert "transport strength λ" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "curves" / "choice-accuracy.png").exists()
    assert manifest["arguments"]["logit_temperature"] == [2.0]
    answers = json.loads((predictions / "tiny-noise0-act0" / "choice.json").read_text())
    answer = answers["0"]["label: A"]
    by_hand = perplexity_by_hand(tiny_checkpoint, answer["prompt"], 2.0)
    assert answer["PPL"] == pytest.approx(by_hand, rel=1e-5)
