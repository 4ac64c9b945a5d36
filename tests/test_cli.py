"""The command line: what a failure looks like, and what reaches the results."""

from __future__ import annotations

import subprocess
import sys
import warnings
from types import ModuleType

import pytest

from aim_plugins import cli
from aim_plugins.core.commands import guarded, keeping_finished_work, speak_plainly
from aim_plugins.demo_model import DemoModelError
from aim_plugins.sweep import store
from aim_plugins.sweep.store import SweepLockedError


def raising(error: BaseException, module: str):
    """A command whose error is raised by a function of the named module."""
    place = ModuleType(module)
    place.__dict__["error"] = error
    exec("def run():\n    raise error\n", place.__dict__)
    return lambda: place.run()


LIBRARY = "some_library.tasks"
OURS = "aim_plugins.core.strengths"


def test_a_finished_command_keeps_its_own_status(capsys):
    assert [guarded(lambda: 0), guarded(lambda: 3)] == [0, 3]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "module", "status"),
    [
        (ValueError("noise_std is negative"), OURS, 2),
        (ZeroDivisionError("no documents"), OURS, 2),
        (NotImplementedError("no such engine"), "vision_bench.logits.classes", 2),
        (FileNotFoundError("a.npz: no such file"), "vision_bench.logits.classes", 2),
        (ValueError("Tasks not found: x"), "lm_eval.config.evaluate_config", 2),
        (ValueError("no such model"), "lm_eval.api.registry", 2),
        (ImportError("install the extra"), OURS, 1),
        (SweepLockedError("is being written"), "aim_plugins.sweep.store", 1),
        (DemoModelError("is damaged"), "aim_plugins.demo_model", 1),
        (OSError(28, "No space left on device"), OURS, 1),
        (OSError(28, "No space left on device"), LIBRARY, 1),
        (FileNotFoundError("no such weights"), LIBRARY, 1),
    ],
)
def test_a_foreseen_failure_is_one_line(capsys, error, module, status):
    assert guarded(raising(error, module)) == status
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    ("error", "module"),
    [
        (ZeroDivisionError("division by zero"), LIBRARY),
        (ValueError("too many values to unpack"), LIBRARY),
        (ValueError("broken task"), "lm_eval.configuration"),
        (ImportError("no such symbol"), LIBRARY),
        (RuntimeError("shapes differ"), LIBRARY),
        (KeyError("acc"), OURS),
        (RuntimeError("shapes differ"), OURS),
    ],
)
def test_a_bug_keeps_its_traceback(capsys, error, module):
    assert guarded(raising(error, module)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == f"{type(error).__name__}: {error}"


@pytest.fixture()
def plainly(monkeypatch):
    """A program that speaks plainly; what it hands on to Python's own hooks is kept."""
    handed_on = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: handed_on.append(error))
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: handed_on.append(message)
        speak_plainly()
        yield handed_on


@pytest.mark.parametrize(
    ("error", "module", "in_a_line"),
    [
        (ValueError("noise_std is negative"), OURS, True),
        (ImportError("install the extra"), OURS, True),
        (DemoModelError("is damaged"), "aim_plugins.demo_model", True),
        (KeyError("acc"), OURS, False),
        (ValueError("Tasks not found: x"), "lm_eval.config.evaluate_config", False),
        (FileNotFoundError("no such weights"), LIBRARY, False),
    ],
)
def test_a_command_of_others_prints_what_our_code_foresees_in_a_line(
    plainly, capsys, error, module, in_a_line
):
    try:
        raising(error, module)()
    except Exception as raised:
        sys.excepthook(type(raised), raised, raised.__traceback__)
    assert capsys.readouterr().err == (f"error: {error}\n" if in_a_line else "")
    assert plainly == ([] if in_a_line else [error])


def test_a_warning_of_ours_names_neither_code_nor_file(plainly, capsys):
    warnings.warn_explicit("a.json is damaged", UserWarning, store.__file__, 7)
    assert capsys.readouterr().err == "warning: a.json is damaged\n"
    for place in ("/lib/other.py", "/home/me/aim_plugins/.venv/lib/torch/other.py"):
        warnings.warn_explicit("of others", UserWarning, place, 7)
    assert [str(message) for message in plainly] == ["of others"] * 2


def test_ctrl_c_speaks_of_finished_work_only_where_it_is_kept(capsys):
    interrupted = raising(KeyboardInterrupt(), LIBRARY)
    assert guarded(interrupted) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"

    def keeping() -> int:
        with keeping_finished_work():
            return interrupted()

    assert guarded(keeping) == 130
    kept = "what was finished is kept; the same command goes on from there"
    assert capsys.readouterr().err == f"\ninterrupted; {kept}\n"


def test_lm_eval_itself_fails_as_it_always_does(monkeypatch):
    fail = raising(ValueError("of lm_eval"), "lm_eval.config")
    monkeypatch.setattr("aim_plugins.harnesses.lm_eval.command.lm_eval", lambda rest: fail())
    with pytest.raises(ValueError, match="of lm_eval"):
        cli.main(["lm-eval", "run"])


@pytest.mark.parametrize("spec", ["-1,0", "-1", "-1:3:1", "-.5,1"])
def test_a_negative_strength_is_called_negative_also_as_a_word_of_its_own(tmp_path, capsys, spec):
    command = ["sweep", "lm-eval", "--noise-std", spec, "--output", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert "is negative" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_transport_hands_everything_behind_it_to_its_own_command(monkeypatch):
    module, received = ModuleType("aim_plugins.steering.commands.parser"), []
    monkeypatch.setattr(module, "main", lambda arguments: received.append(arguments) or 3, False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert cli.main(["transport", "generate", "DIR", "--strength", "-1:1:0.5", "--help"]) == 3
    assert received == [["generate", "DIR", "--strength", "-1:1:0.5", "--help"]]


def test_a_failure_of_a_transport_command_is_one_line(monkeypatch, capsys):
    module = ModuleType("aim_plugins.steering.commands.parser")
    fail = raising(ValueError("strength='x' is malformed"), "aim_plugins.transport.fit")
    monkeypatch.setattr(module, "main", lambda arguments: fail(), False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert cli.main(["transport", "fit"]) == 2
    assert capsys.readouterr().err == "error: strength='x' is malformed\n"


def test_every_command_is_listed(capsys):
    assert cli.main(["--help"]) == 0
    words = capsys.readouterr().out.split()
    assert {"demo-model", "lm-eval", "sweep", "transport"} <= set(words)


def test_a_strength_may_be_negative_as_a_word_of_its_own(monkeypatch, tmp_path):
    pytest.importorskip("lm_eval")
    received = {}
    monkeypatch.setattr(
        "aim_plugins.harnesses.lm_eval.study.run_sweep",
        lambda rest, **named: received.update(named),
    )
    monkeypatch.setattr("aim_plugins.harnesses.lm_eval.command.read_columns", lambda given: ())
    words = ["sweep", "lm-eval", "--strength", "-1:1:0.5", "--output", str(tmp_path)]
    model = ["--model", "act_hf", "--model-args", "pretrained=gpt2"]
    assert cli.main([*words, "--tasks", "quiz", *model]) == 0
    assert received["modulation"] == {"strength": "-1:1:0.5"}


def test_a_mistyped_grid_is_refused_at_once(tmp_path):
    words = ["sweep", "lm-eval", "--output", str(tmp_path / "run"), "--noise-std", "0:much:1"]
    code = (
        "import sys; from aim_plugins.cli import main\n"
        f"assert main({words!r}) == 2\n"
        "print(sorted({'torch', 'lm_eval'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    assert "'much' is not a number" in done.stderr


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    assert cli.main(["transprot", "fit"]) == 2
    assert "did you mean 'transport'" in capsys.readouterr().err
    assert cli.main(["sweep"]) == 2
    assert "sweep opencompass" in capsys.readouterr().err


def test_every_kind_of_change_has_its_options(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sweep", "lm-eval", "--help"])
    words = capsys.readouterr().out.split()
    assert {"--noise-std", "--noise-mean", "--noise-seed", "--draws"} <= set(words)
    assert {"--strength", "--transport", "--force-transport"} <= set(words)


def test_a_module_started_by_name_words_its_own_errors(tmp_path):
    command = ["sweep", "lm-eval", "--noise-std", "1", "--output", str(tmp_path / "run")]
    code = (
        "import importlib.util as util, runpy, sys\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'lm_eval' else find(name, *rest)\n"
        f"sys.argv[1:] = {command!r}\n"
        "runpy.run_module('aim_plugins.cli', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: lm_eval is not installed: pip install 'aim-plugins[lm-eval]'\n"


def test_the_guard_imports_no_torch():
    code = (
        "import sys, aim_plugins.core.commands\n"
        "print(sorted({'torch', 'lm_eval'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_token_on_the_command_line_does_not_reach_the_results(monkeypatch, tmp_path):
    pytest.importorskip("lm_eval")

    received = {}
    monkeypatch.setattr(
        "aim_plugins.harnesses.lm_eval.study.run_sweep",
        lambda rest, **named: received.update(named),
    )
    words = ["--model-args", "pretrained=gpt2,token=hf_x", "--noise-std", "1", "--tasks", "quiz"]
    words = ["--model", "aim_hf", *words]
    assert cli.main(["sweep", "lm-eval", *words, "--output", str(tmp_path)]) == 0
    assert received["command"] == [
        *("aim-plugins", "sweep", "lm-eval", "--model", "aim_hf"),
        *("--model-args", "pretrained=gpt2,token=***"),
        *("--noise-std", "1", "--tasks", "quiz", "--output", str(tmp_path)),
    ]
