"""The documentation: its links lead somewhere, its commands are what their parsers take, it runs.

A comment before a block says what is done with it: `<!-- run -->` runs it (`make docs-check`) and
`<!-- file: NAME -->` writes it for later blocks. Every other block is only parsed.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from aim_plugins.core import settings
from aim_plugins.modulation import arguments, changes

pytest.importorskip("lm_eval")

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*DOCS, ROOT / "CONTRIBUTING.md"]

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>.+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PROGRAMS = {
    "aim-plugins": "aim_plugins.cli",
    "vision-bench": "vision_bench.cli",
    "lm_eval": "lm_eval.__main__",
}
ELSEWHERE = {"vllm", "curl", "inspect", "grep"}
"""Programs of vLLM's environment, where `tests/vllm` runs what the page on it shows, of an extra
that not everyone has, and of the system."""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what its comment says, its language and text."""

    page: Path
    mark: str
    language: str
    text: str
    number: int

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.number}-{self.language}"


def blocks_of(page: Path) -> list[Block]:
    return [
        Block(page, found["mark"] or "", found["language"], found["text"], number)
        for number, found in enumerate(BLOCK.finditer(page.read_text("utf-8")))
    ]


BLOCKS = [block for page in DOCS for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
RUNNABLE = [block for block in BLOCKS if block.mark == "run" or block.mark.startswith("file: ")]


def spans_of(page: Path) -> list[str]:
    """The code in a page's sentences and tables."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text("utf-8")))


# Links, files and names ---------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text("utf-8"))):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_and_modules_in_the_text_exist(page: Path) -> None:
    for span in spans_of(page):
        if re.fullmatch(
            r"(aim_plugins|vision_bench|benchmarks|eval_configs|tests|docs|startup)/\S*", span
        ):
            assert any(ROOT.glob(span)), span
        if (
            re.fullmatch(r"(aim_plugins|vision_bench)(\.\w+)+", span)
            and span != changes.ENTRY_POINTS
        ):
            assert resolves(span), span


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        importlib.import_module(name)
        return True
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)


def test_every_page_is_named_in_the_readme() -> None:
    readme = DOCS[0].read_text("utf-8")
    assert all(f"(docs/{page.name})" in readme for page in DOCS[1:])


# Commands -----------------------------------------------------------------------------------------


def commands_in(text: str) -> list[list[str]]:
    """The words of each command of a shell's text, as the shell makes them; nothing is run."""
    stub = r"""
        command_not_found_handle() {
            printf '%s\0' "$#" "$@" >&3
            if [ "$*" = "aim-plugins demo-model" ]; then echo demo-model; fi
        }
    """
    read, write = os.pipe()
    with open(read, "rb") as reader:
        done = subprocess.run(
            [str(shutil.which("bash")), "-c", f"exec 3>&{write}\nPATH=/nowhere\n{stub}\n{text}"],
            pass_fds=[write],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(write)
        words = reader.read().decode().split("\0")[:-1]
    assert not done.stderr, done.stderr
    commands = []
    while words:
        count = int(words.pop(0))
        commands.append(words[:count])
        del words[:count]
    return commands


class Parsed(BaseException):
    """A command has read its arguments, and is not to go on."""

    def __init__(self, found: Any, rest: list[str] | None = None) -> None:
        self.found, self.rest = found, rest or []


def outermost(function: Callable[..., Any], stop: Callable[[Any], Parsed]) -> Callable[..., Any]:
    """A function whose outermost call ends with an exception that brings its result."""
    depth = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            found = function(*arguments, **options)
        finally:
            depth -= 1
        if depth == 0:
            raise stop(found)
        return found

    return call


def named(value: Any) -> Any:
    """A setting as a config has it, but for the demo's data set, whose name is checked."""
    return "digits" if value == "demo:dataset" else value


@contextmanager
def only_parsing(*, has_settings: bool) -> Iterator[None]:
    """Ends commands once their parser has taken the words, or once their settings are checked."""
    parser = argparse.ArgumentParser
    known = outermost(parser.parse_known_args, lambda found: Parsed(*found))

    def whole(self: Any, words: Any = None, namespace: Any = None) -> Any:
        try:
            known(self, words, namespace)
        except Parsed as parsed:
            if parsed.rest:
                self.error(f"unrecognized arguments: {' '.join(parsed.rest)}")
            raise

    if has_settings:
        checked = patch.object(settings, "make_settings", outermost(settings.make_settings, Parsed))
        # A word of the demo would train its model.
        unknown = patch("vision_bench.demo.names.PREFIX", "no word starts like this")
        with checked, unknown, patch("vision_bench.commands.resolve", named):
            yield
    else:
        with patch.multiple(parser, parse_args=whole, parse_known_args=known):
            yield


def parse(module: str, words: list[str], *, has_settings: bool = False) -> Parsed:
    """Lets a module's command read its words."""
    with (
        warnings.catch_warnings(),
        patch.object(sys, "argv", [module, *words]),
        only_parsing(has_settings=has_settings),
        pytest.raises(Parsed) as caught,
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # it is imported already
        runpy.run_module(module, run_name="__main__")
    return caught.value


def check(words: list[str]) -> None:
    """Checks a command: that it exists, takes its options, and names files that are there."""
    program, *rest = words
    if program in ELSEWHERE:
        return
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "pip":
        check_installation(rest)
    elif program == "accelerate":
        check_launched(rest)
    elif program == "opencompass":
        check_opencompass(rest)
    elif rest[:1] == ["-m"] and rest[1].startswith("benchmarks."):
        source = (ROOT / f"{rest[1].replace('.', '/')}.py").read_text("utf-8")
        assert all(f'"{word}"' in source for word in rest[2:] if not word.isdigit())
    else:
        module = rest[1] if program == "python" else PROGRAMS[program]
        check_ours(module, rest[2:] if program == "python" else rest)


def check_installation(words: list[str]) -> None:
    extras = (ROOT / "setup.py").read_text("utf-8").split("extras_require={")[1].split("}")[0]
    assert words[0] == "install"
    for word in words[1:]:
        assert not word.endswith(".txt") or (ROOT / word).is_file()
        if asked := re.fullmatch(r"(?:\.|aim-plugins)\[(.+)\]", word):
            assert all(f'"{extra}": ' in extras for extra in asked[1].split(","))


def check_launched(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    launched = launch_command_parser().parse_args(words[1:])
    assert launched.module
    check(["python", "-m", launched.training_script, *launched.training_script_args])


def check_opencompass(words: list[str]) -> None:
    config, *rest = words
    assert config.isupper() or (ROOT / config).is_file()
    # Its parser would take ten seconds to import.
    source = Path(str(find_spec("opencompass").submodule_search_locations[0])) / "cli" / "main.py"
    options = set(re.findall(r"'(--?[\w-]+)'", source.read_text("utf-8")))
    assert {word for word in rest if word.startswith("-")} <= options


def check_ours(module: str, words: list[str]) -> None:
    has_settings = words[:1] == ["transport"] and words[1] != "show"
    has_settings |= words[:1] == ["jobs"]
    has_settings |= module.startswith("vision_bench.") and words[0] != "demo-models"
    parsed = parse(module, words, has_settings=has_settings)
    if words[:2] == ["sweep", "lm-eval"]:
        from aim_plugins.harnesses.lm_eval.arguments import parse_harness_arguments

        options = {k: v for k, v in vars(parsed.found).items() if k != "output" and v is not None}
        check_harness(parse_harness_arguments(parsed.rest), options)
    elif words[:2] == ["sweep", "opencompass"]:
        check_opencompass(words[2:])
    elif module == PROGRAMS["lm_eval"]:
        from lm_eval.config.evaluate_config import EvaluatorConfig

        check_harness(EvaluatorConfig.from_cli(parsed.found), {})


def check_harness(config: Any, options: dict[str, Any]) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import __file__ as tasks

    from aim_plugins.harnesses.lm_eval.register import MODELS

    assert config.model in {"hf", *MODELS}
    given, rest = arguments.split_arguments(config.model_args)
    assert rest.keys() <= inspect.signature(HFLM.__init__).parameters.keys()
    assert not given.keys() & options.keys()
    for kind in changes.kinds():
        strength = next(iter(kind.arguments))
        if (given := given | options).get(strength) not in (None, *kind.words):
            kind.axis.parse(given[strength], strength)
    for task in config.tasks:
        own = config.include_path and (ROOT / config.include_path / f"{task}.yaml").is_file()
        assert own or (Path(tasks).parent / task).is_dir(), task


@pytest.fixture(scope="module")
def kinds_of_the_pages() -> Iterator[None]:
    """The kinds of change that a page's files register."""
    known = dict(changes._kinds)
    for block in PYTHON:
        if block.mark.startswith("file: "):
            code = compile(block.text, str(block), "exec", dont_inherit=True)
            exec(code, {"__name__": "example"})
    yield
    changes._kinds.clear()
    changes._kinds.update(known)


@pytest.mark.usefixtures("kinds_of_the_pages")
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=str)
def test_commands_are_taken_by_their_parsers(block: Block, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = commands_in(block.text)
    assert commands
    for words in commands:
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_text_exist(page: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    for span in spans_of(page):
        text = span.removeprefix(".venv-vllm/bin/")
        if re.match(r"(\w+=\S+ )*(make|pip install|opencompass|python -m benchmarks)\b.", text):
            for words in commands_in(text.rstrip("…")):
                check(words)


@pytest.mark.parametrize(
    "command",
    [
        "make coffee",
        "aim-plugins sweep lm-eval --tasks gsm8k --noise-stdd 1 --output x",
        "aim-plugins sweep lm-eval --model aim_hf --tasks gsm8k --noise-std 1:0:1 --output x",
        "aim-plugins transport fit --pretrained m --modules x --source a -o b",
        "aim-plugins transport fit --config eval_configs/transport/demo_sea.py --methd mean -o b",
        "lm_eval --model aim_hf --model_args pretrained=m,noise_sdt=1 --tasks gsm8k",
        "lm_eval --model aim_hf --tasks gsm9k",
        "opencompass eval_configs/opencompass/eval_noise_demo.py --reused",
        "opencompass eval_configs/opencompass/none.py",
        "vision-bench classify eval_configs/vision/demo_scenes.py",
        "vision-bench classify eval_configs/vision/cifar10_resnet56.py --cfg-options dataroot=x",
        "accelerate launch --num_proc 2 -m aim_plugins.cli demo-model",
        "pip install '.[lmeval]'",
        "python -m benchmarks.sweep scorings",
    ],
)
def test_a_wrong_command_is_found(command: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    (words,) = commands_in(command)
    with pytest.raises((AssertionError, SystemExit, ValueError, pytest.fail.Exception)):
        check(words)


# Python -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_imports_what_is_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(
            ("aim_plugins", "vision_bench")
        ):
            for alias in node.names:
                assert resolves(f"{node.module}.{alias.name}"), alias.name


def test_the_example_for_opencompass_is_a_configuration(tmp_path: Path) -> None:
    pytest.importorskip("opencompass")
    from aim_plugins.harnesses.opencompass.command import _load_config

    (text,) = (block.text for block in PYTHON if "read_base" in block.text)
    (tmp_path / "example.py").write_text(text)
    assert len(_load_config(str(tmp_path / "example.py"))["models"]) == 32


# Tables -------------------------------------------------------------------------------------------


def first_cells(page: str, heading: str) -> set[str]:
    """The names in the first column of the tables below a heading, without their arguments."""
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)[^`]*`", cell)}


def test_the_table_of_act_hf_has_every_argument() -> None:
    from lm_eval.models.huggingface import HFLM

    ours = [
        name for kind in map(changes.kind_of, ("noise", "transport")) for name in kind.arguments
    ]
    known = {*inspect.signature(HFLM.__init__).parameters, *ours, changes.SEED, changes.DRAWS}
    assert first_cells("steering", "Arguments of `act_hf`") == known - {"self", "kwargs"}


def test_the_table_of_slots_has_every_slot() -> None:
    public = {name for name in vars(changes.Change) if not name.startswith("_")}
    slots = public | set(changes.Change.__annotations__)
    assert first_cells("new-modulation", "What each slot means") == slots - {"drawn"}


SETTINGS = {
    "## Settings of `run`": "coverage vision_bench.coverage.settings:RunSettings",
    "## Settings of `reengineer run`": (
        "reengineering vision_bench.reengineering.settings:ReengineerSettings"
    ),
    "### Settings of `reengineer compose`": (
        "reengineering vision_bench.reengineering.composition.settings:ComposeSettings"
    ),
    "### Settings of `reengineer defects`": (
        "reengineering vision_bench.reengineering.defects.settings:DefectsSettings"
    ),
    "## Settings of `attribute run`": (
        "attribution vision_bench.attribution.settings:AttributionSettings"
    ),
    "## Settings of `attribute edit`": (
        "attribution-edit vision_bench.attribution.editing.settings:EditSettings"
    ),
    "### Settings of a job": "jobs aim_plugins.jobs.settings:Job",
    "### Settings of the file": "jobs aim_plugins.jobs.settings:JobsSettings",
    "### Preprocessing": "vision vision_bench.models.preprocessing:Preprocessing",
    "### `classify`": "vision vision_bench.classification.settings:ClassifySettings",
    "### `classify-logits`": "vision vision_bench.classification.settings:LogitsSettings",
    "### `top-classes`": "vision vision_bench.classification.settings:TopClassesSettings",
    "### `segment evaluate` and `segment infer`": (
        "vision vision_bench.segmentation.settings:SegmentSettings"
    ),
    "## Settings of `images fit`": "text-to-image vision_bench.text_to_image.settings:FitSettings",
    "## Settings of `images generate`": (
        "text-to-image vision_bench.text_to_image.settings:GenerateSettings"
    ),
    "## Settings of `images evaluate`": (
        "text-to-image vision_bench.text_to_image.settings:EvaluateSettings"
    ),
    "## Segmentation and focus": (
        "vision vision_bench.segmentation.perturbation_config:Perturbation"
    ),
}
"""By heading, the page, and what the table below it describes."""


def settings_table(page: str, heading: str) -> list[tuple[list[str], str, str]]:
    """Names, default and example of each line of a table of settings."""
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    section = re.split(r"^##", text.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    table = section.split("| default | example | meaning |\n|---|---|---|---|\n")[1]
    rows = [line.split(" | ") for line in table.split("\n\n")[0].splitlines()]
    return [(re.findall(r"`(\w+)`", row[0]), row[1].strip("`"), row[2].strip("`")) for row in rows]


@pytest.mark.parametrize("heading", SETTINGS)
def test_the_tables_of_settings_have_every_setting_its_default_and_a_working_example(
    heading: str,
) -> None:
    page, place = SETTINGS[heading].split()
    module, _, name = place.partition(":")
    kind = getattr(importlib.import_module(module), name)
    rows = settings_table(page, heading)
    own = {one.name: one for one in dataclasses.fields(kind)}
    if name == "Preprocessing":
        del own["reduce_labels"]  # a setting of its own, of segmentation
    assert sorted(one for names, *_ in rows for one in names) == sorted(own)
    examples = {}
    for names, default, example in rows:
        if len(names) > 1:  # as of another command
            continue
        one = own[names[0]]
        factory = one.default_factory
        value = one.default if factory is dataclasses.MISSING else factory()
        held = "needed" if value is dataclasses.MISSING else repr(value).replace("'", '"')
        assert default == held, names
        examples[names[0]] = eval(example, {"dict": dict})
        assert examples[names[0]] != value, names
    assert settings.make_settings(kind, examples, f"docs/{page}.md")


def test_the_block_of_a_perturbation_is_one() -> None:
    from vision_bench.segmentation.perturbation_config import Perturbation

    (text,) = (block.text for block in PYTHON if "PERTURBATION" in block.text)
    held: dict[str, Any] = {}
    exec(text, held)
    block = settings.make_settings(Perturbation, held["PERTURBATION"], "docs/vision.md")
    assert len(block.TARGETS) == 2


# Running ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the blocks run, with the files of the repository that they name."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "eval_configs").symlink_to(ROOT / "eval_configs")
    return folder


# Other pages steer by the transport that the page on steering fits.
@pytest.mark.docs
@pytest.mark.parametrize(
    "block", sorted(RUNNABLE, key=lambda block: block.page.stem != "steering"), ids=str
)
def test_marked_blocks_run(block: Block, folder: Path) -> None:
    if block.mark.startswith("file: "):
        file = folder / block.mark.removeprefix("file: ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
        return
    packages = str(folder / "packages")  # an example installs a package of its own
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), packages]),
        "HF_HUB_OFFLINE": "1",
        "PIP_TARGET": packages,
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round: nothing is downloaded
    }
    shell = [str(shutil.which("bash")), "-e", "-c"]
    command = {"sh": shell, "python": [sys.executable, "-c"]}[block.language]
    subprocess.run([*command, block.text], cwd=folder, env=environment, check=True)


# Receipts -----------------------------------------------------------------------------------------


def test_the_faults_on_the_page_are_those_of_the_tests() -> None:
    page = (ROOT / "docs/receipts.md").read_text("utf-8").partition("## Faults")[2]
    rows = re.findall(r"^\| ([^|]+) \|", page.partition("##")[0], re.MULTILINE)[1:]
    named = {re.sub(r"[^a-z0-9]+", "_", row.lower()).strip("_") for row in rows}
    sources = [path.read_text("utf-8") for path in ROOT.glob("tests/*/test_*receipts.py")]
    tested = re.findall(r"^def test_caught_(\w+)\(", "\n".join(sources), re.MULTILINE)
    assert named == set(tested) and len(rows) == len(tested) >= 25
