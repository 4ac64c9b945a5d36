"""Registration with lm-eval; installed startup files are tested in `tests/test_packaging.py`."""

from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from aim_plugins import cli

pytest.importorskip("lm_eval")

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter of this environment, without the startup file's help."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "AIM_PLUGINS_AUTOREGISTER": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_registering_before_lm_eval_is_imported_keeps_its_own_models():
    finished = run(
        "from aim_plugins.harnesses.lm_eval.register import register; register(); register()\n"
        "from lm_eval.api.registry import model_registry\n"
        "print([name in model_registry for name in ('hf', 'aim_hf', 'act_hf')])"
    )
    assert finished.stdout == "[True, True, True]\n", finished.stderr


def test_importing_the_module_after_lm_eval_registers_at_once():
    finished = run(
        "import lm_eval.models\n"
        "from lm_eval.api.registry import model_registry\n"
        "print('aim_hf' in model_registry)\n"
        "import aim_plugins.harnesses.lm_eval.register\n"
        "print('aim_hf' in model_registry)"
    )
    assert finished.stdout == "False\nTrue\n", finished.stderr


def test_importing_the_module_first_imports_no_harness():
    finished = run(
        "import sys, aim_plugins.harnesses.lm_eval.register\n"
        "print(sorted({'torch', 'lm_eval', 'transformers'} & set(sys.modules)))"
    )
    assert finished.stdout == "[]\n", finished.stderr


def test_a_name_registered_through_the_entry_point_group_is_left_alone_and_loads():
    # A stand-in of the loader in lm-eval's pull request #4013, which no release has.
    finished = run(
        "import importlib.metadata, lm_eval.models\n"
        "from lm_eval.api.registry import get_model, model_registry\n"
        "for point in importlib.metadata.entry_points(group='lm_eval.models'):\n"
        "    model_registry.register(point.name, target=point)\n"
        "from aim_plugins.harnesses.lm_eval.register import register; register()\n"
        "print(get_model('aim_hf').__name__, get_model('hf').__name__)"
    )
    assert finished.stdout == "AimHFLM HFLM\n", finished.stderr


def test_every_registered_target_exists():
    from lm_eval.api.model import LM
    from lm_eval.api.registry import get_model

    from aim_plugins.harnesses.lm_eval.register import MODELS, register

    register()
    for name in MODELS:
        if name.endswith("_vllm") and find_spec("vllm") is None:
            continue  # they have an environment, and tests, of their own
        assert issubclass(get_model(name), LM)


def test_a_missing_lm_eval_names_the_extra_to_install(monkeypatch):
    from aim_plugins.harnesses.lm_eval.register import register

    real = builtins.__import__

    def without_lm_eval(name, *arguments, **options):
        if name.partition(".")[0] == "lm_eval":
            raise ModuleNotFoundError("No module named 'lm_eval'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_lm_eval)
    with pytest.raises(ImportError, match=re.escape("aim-plugins[lm-eval]")):
        register()


@pytest.mark.parametrize("name", ["aim_vllm", "act_vllm"])
def test_a_missing_vllm_names_the_extra_to_install(name):
    finished = run(
        "import sys\n"
        "sys.modules['vllm'] = None\n"
        "from aim_plugins.harnesses.lm_eval.register import register; register()\n"
        "from lm_eval.api.registry import get_model\n"
        f"get_model({name!r})"
    )
    assert finished.returncode == 1
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and "pip install 'aim-plugins[vllm]'" in last


def words(checkpoint: Path, tasks_folder: Path) -> list[str]:
    return [
        *("--model", "aim_hf", "--device", "cpu", "--tasks", "tiny_choice", "--limit", "2"),
        *("--model_args", f"pretrained={checkpoint},dtype=float32,noise_std=0.5"),
        *("--batch_size", "2", "--include_path", str(tasks_folder)),
    ]


TABLE = re.compile(r"\|tiny_choice\s*\|.*\|acc ")


def test_the_stock_command_runs_our_backend_offline(tiny_checkpoint, tasks_folder, tmp_path):
    # `python -m lm_eval` does so in `test_lm_eval.py`, in two processes.
    finished = subprocess.run(
        [Path(sys.executable).with_name("lm_eval"), *words(tiny_checkpoint, tasks_folder)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert TABLE.search(finished.stdout), finished.stdout


def test_our_command_of_the_same_name_runs_it_too(
    tiny_checkpoint, tasks_folder, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert cli.main(["lm-eval", *words(tiny_checkpoint, tasks_folder)]) == 0
    assert TABLE.search(capsys.readouterr().out)
