"""What an installation brings, tried in scratch environments that borrow the installed packages."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Installation:
    """A scratch environment with aim-plugins installed from a copy of the checkout."""

    python: Path
    source: Path
    packages: Path

    def run(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs Python code there, from a folder where the checkout cannot be imported."""
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [self.python, "-c", code],
            cwd=self.packages,
            env={**inherited, "HF_HUB_OFFLINE": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )


def install(folder: Path, *options: str) -> Installation:
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("aim_plugins", "vision_bench", "startup"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    packages = Path(
        sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}, scheme="venv")
    )
    # Packages listed this way can be imported, but their own .pth files are not read.
    (packages / "zz_borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", "--quiet", *options, str(source)]
    subprocess.run(command, check=True)
    return Installation(python, source, packages)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installation(request, tmp_path_factory) -> Installation:
    options = ["-e"] if request.param == "editable" else []
    return install(tmp_path_factory.mktemp(request.param), *options)


NAMES = """
import json, sys
import lm_eval.models
from lm_eval.api.registry import model_registry
print(json.dumps([sorted(model_registry.keys()), "torch" in sys.modules]))
"""


def test_lm_eval_knows_our_backend_and_its_own(installation):
    finished = installation.run(NAMES)
    names, _ = json.loads(finished.stdout)
    assert {"aim_hf", "hf", "dummy"} <= set(names)


def test_an_interpreter_start_imports_neither_torch_nor_lm_eval_nor_our_packages(installation):
    finished = installation.run("import sys; print(*sys.modules)")
    started = {name.partition(".")[0] for name in finished.stdout.split()}
    assert "_aim_plugins_startup" in started
    assert not started & {"torch", "transformers", "numpy", "lm_eval", "aim_plugins"}


def test_autoregistration_can_be_turned_off(installation):
    finished = installation.run(NAMES, AIM_PLUGINS_AUTOREGISTER="0")
    names, _ = json.loads(finished.stdout)
    assert "aim_hf" not in names
    assert "hf" in names


def test_the_loaded_module_keeps_its_own_loader(installation):
    finished = installation.run(
        "import lm_eval.models as m, importlib, sys\n"
        "print(type(m.__spec__.loader).__name__, type(m.__loader__).__name__)\n"
        "print(any('HostFinder' in repr(finder) for finder in sys.meta_path))\n"
        "importlib.reload(m)"
    )
    assert finished.stdout.split() == ["SourceFileLoader", "SourceFileLoader", "False"]
    assert finished.returncode == 0


def test_templates_and_type_markers_are_installed(installation):
    finished = installation.run(
        "import aim_plugins, vision_bench, pathlib\n"
        "for package in (aim_plugins, vision_bench):\n"
        "    folder = pathlib.Path(package.__file__).parent\n"
        "    print(*sorted(str(p.relative_to(folder)) for p in folder.rglob('*')))"
    )
    ours, vision = (set(line.split()) for line in finished.stdout.splitlines())
    expected = {
        str(path.relative_to(ROOT / "aim_plugins"))
        for path in (ROOT / "aim_plugins" / "sweep" / "templates").glob("*")
    }
    assert expected and expected <= ours
    assert "py.typed" in ours and "py.typed" in vision


def test_commands_and_entry_points_are_declared(installation):
    finished = installation.run(
        "from importlib.metadata import distribution\n"
        "for point in distribution('aim-plugins').entry_points:\n"
        "    print(point.group, point.name, point.value)"
    )
    assert set(finished.stdout.splitlines()) == {
        "console_scripts aim-plugins aim_plugins.cli:main",
        "console_scripts vision-bench vision_bench.cli:main",
        "inspect_ai aim_plugins aim_plugins.harnesses.inspect_ai",
        "lm_eval.models act_hf aim_plugins.harnesses.lm_eval:ActHFLM",
        "lm_eval.models act_vllm aim_plugins.harnesses.lm_eval.vllm:ActVLLM",
        "lm_eval.models aim_hf aim_plugins.harnesses.lm_eval:AimHFLM",
        "lm_eval.models aim_vllm aim_plugins.harnesses.lm_eval.vllm:AimVLLM",
        "vllm.general_plugins aim_plugins aim_plugins.engines.vllm.plugin:register",
        "vllm.logits_processors aim_changes "
        "aim_plugins.engines.vllm.processor:ChangesVLLMProcessor",
    }


@pytest.mark.parametrize("kind", ["wheel", "editable"])
@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_damaged_installation_leaves_lm_eval_working_and_warns_once(tmp_path, kind, damage):
    there = install(tmp_path, *(["-e"] if kind == "editable" else []))
    package = (there.source if kind == "editable" else there.packages) / "aim_plugins"
    if damage == "missing":
        shutil.rmtree(package)
    else:
        (package / "__init__.py").write_text("def broken(:\n")
    plain = there.run("print('started')")
    assert (plain.stdout, plain.stderr) == ("started\n", "")
    finished = there.run(NAMES)
    names, _ = json.loads(finished.stdout)
    assert "hf" in names and "aim_hf" not in names
    assert finished.stderr.count("aim-plugins could not register") == 1


def test_version_of_the_package_is_the_version_of_the_distribution(installation):
    finished = installation.run(
        "import aim_plugins, importlib.metadata as md\n"
        "print(aim_plugins.__version__ == md.version('aim-plugins'))"
    )
    assert finished.stdout == "True\n"


def requirements(*extras: str) -> dict[str, Requirement]:
    """What the installed package needs with any of the extras; `""` is the package alone."""
    wanted = [Requirement(text) for text in requires("aim-plugins") or []]
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in wanted
        if not requirement.marker or any(requirement.marker.evaluate({"extra": e}) for e in extras)
    }


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pinned.items()}


WITHOUT_OPENCOMPASS = "constraints-lm-eval.txt", ["lm-eval", "transport", "vision", "demo"]


@pytest.mark.parametrize(
    ("file", "extras"), [("constraints.txt", ["all", "dev"]), WITHOUT_OPENCOMPASS]
)
def test_constraints_satisfy_every_requirement_of_their_environment(file, extras):
    pinned = pins(file)
    wanted = requirements(*extras)
    assert wanted
    for name, requirement in wanted.items():
        assert pinned[name] in requirement.specifier, requirement


def test_constraints_without_opencompass_hold_nothing_back_for_it():
    here, common = pins(WITHOUT_OPENCOMPASS[0]), pins("constraints.txt")
    assert "opencompass" not in here
    assert Version(here["numpy"]) >= Version("2")
    for name in ("numpy", "datasets", "pyarrow"):
        assert Version(here[name]) > Version(common[name])
    assert here["torch"] == common["torch"]


def test_only_the_demo_and_control_vectors_need_gguf():
    assert "gguf" not in requirements("", "lm-eval", "opencompass", "vision", "transport")
    for extra in ("demo", "gguf", "all"):
        assert "gguf" in requirements(extra)


def test_both_harnesses_and_torchvision_live_in_one_environment():
    modules = "lm_eval, mmengine, opencompass, opencompass.registry, torchvision.ops"
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
