"""The rules of the house: imports run downwards, in no circle, and core needs no torch.

A room is a package or module right below `aim_plugins` or `vision_bench`, and stands on a floor. It
may import rooms of its own package that stand lower. Imports inside functions count. Those for type
checkers alone count too, except that they close no circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import aim_plugins

FLOORS = {
    "aim_plugins": 0,
    "aim_plugins.core": 1,
    "aim_plugins.modulation": 2,
    "aim_plugins.sweep": 2,
    "aim_plugins.transport": 3,
    "aim_plugins.attribution": 3,
    "aim_plugins.coverage": 3,
    "aim_plugins.comparison": 3,
    "aim_plugins.demo_model": 3,
    "aim_plugins.task_documents": 3,
    "aim_plugins.engines": 4,
    "aim_plugins.task_questions": 4,
    "aim_plugins.steering": 5,
    "aim_plugins.task_coverage": 5,
    "aim_plugins.reengineering": 5,
    "aim_plugins.heads": 5,
    "aim_plugins.jobs": 5,
    "aim_plugins.harnesses": 5,
    "aim_plugins.systems": 6,
    "aim_plugins.cli": 7,
    "vision_bench": 0,
    "vision_bench.models": 1,
    "vision_bench.data": 2,
    "vision_bench.logits": 3,
    "vision_bench.confusion": 3,
    "vision_bench.perturbators": 3,
    "vision_bench.focus": 3,
    "vision_bench.attacks": 3,
    "vision_bench.published": 3,
    "vision_bench.pictures": 3,
    "vision_bench.diffusion": 3,
    "vision_bench.demo": 4,
    "vision_bench.changes": 4,
    "vision_bench.commands": 5,
    "vision_bench.classifiers": 5,
    "vision_bench.classification": 6,
    "vision_bench.segmentation": 6,
    "vision_bench.reengineering": 6,
    "vision_bench.coverage": 6,
    "vision_bench.attribution": 6,
    "vision_bench.text_to_image": 6,
    "vision_bench.systems": 7,
    "vision_bench.cli": 8,
}

SHARED = {
    "aim_plugins",
    *(
        f"aim_plugins.{one}"
        for one in ("core", "modulation", "sweep", "transport", "attribution", "coverage")
    ),
    "aim_plugins.demo_model",
}
"""Rooms that `vision_bench` may import."""


def read_sources() -> dict[str, str]:
    """The text of every module of both packages, by the module's name."""
    root = Path(aim_plugins.__file__).parents[1]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): (
            path.read_text()
        )
        for package in ("aim_plugins", "vision_bench")
        for path in sorted((root / package).rglob("*.py"))
    }


def walk(node: ast.AST, for_types: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node of a syntax tree, and whether only type checkers read it."""
    yield node, for_types
    guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walk(child, for_types or (guard and name == "body"))


def imports(module: str, sources: Mapping[str, str], *, types: bool = True) -> set[str]:
    """The modules among the sources that a module imports."""
    found: set[str] = set()
    for node, for_types in walk(ast.parse(sources[module])):
        if for_types and not types:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in sources else str(node.module))
    return found & sources.keys() - {module}


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other in turn; empty if there are none."""
    graph = {module: imports(module, sources, types=False) for module in sources}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def broken_rules(sources: Mapping[str, str]) -> list[str]:
    """Imports that the house forbids, and modules outside of its rooms, in words."""
    lost = [f"{module} stands in no room" for module in sources if room(module) not in FLOORS]
    pairs = ((one, other) for one in sources for other in imports(one, sources))
    return lost or [
        f"{one} imports {other}"
        for one, other in pairs
        if room(one) != room(other) and not allowed(room(one), room(other))
    ]


def allowed(one: str, other: str) -> bool:
    if one.split(".")[0] == other.split(".")[0]:
        return FLOORS[one] > FLOORS[other]
    return other in SHARED


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_sources()


def test_no_modules_import_each_other_in_a_circle(sources: dict[str, str]) -> None:
    assert circle(sources) == []


def test_imports_run_downwards(sources: dict[str, str]) -> None:
    assert broken_rules(sources) == []


def test_core_imports_no_torch(sources: dict[str, str]) -> None:
    modules = sorted(module for module in sources if room(module) == "aim_plugins.core")
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "sys.exit('torch' in sys.modules)"
    assert len(modules) > 5
    subprocess.run([sys.executable, "-c", code, *modules], check=True)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import aim_plugins.core.z", True),
        ("from aim_plugins.core import z", True),
        ("def late():\n    from aim_plugins.core.z import name", True),
        ("if DEBUG:\n    pass\nelse:\n    from aim_plugins.core.z import name", True),
        ("if TYPE_CHECKING:\n    from aim_plugins.core.z import name", False),
        ("text = 'import aim_plugins.core.z'", False),
    ],
)
def test_a_made_up_circle_is_found(source: str, found: bool) -> None:
    made_up = {
        "aim_plugins.core.x": "from aim_plugins.core.y import name",
        "aim_plugins.core.y": source,
        "aim_plugins.core.z": "import aim_plugins.core.x",
    }
    assert set(circle(made_up)) == (set(made_up) if found else set())


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("aim_plugins.core.x", "from aim_plugins.engines.c import name", True),
        ("aim_plugins.core.x", "def late():\n    import aim_plugins.engines.c", True),
        ("aim_plugins.core.x", "if TYPE_CHECKING:\n    import aim_plugins.engines.c", True),
        ("aim_plugins.modulation.x", "from aim_plugins.sweep import b", True),
        ("aim_plugins.transport.x", "from aim_plugins.demo_model import name", True),
        ("aim_plugins.transport.x", "from aim_plugins.sweep import b", False),
        ("aim_plugins.engines.x", "from aim_plugins.demo_model import name", False),
        ("aim_plugins.cli", "import vision_bench.models.d", True),
        ("vision_bench.cli", "import aim_plugins.engines.c", True),
        ("vision_bench.models.x", "from aim_plugins.sweep import b", False),
        ("vision_bench.data.x", "import vision_bench.models.d", False),
        ("vision_bench.segmentation.x", "from vision_bench.classification.e import name", True),
        ("vision_bench.demo.x", "from vision_bench.classification import e", True),
        ("vision_bench.corridor", "", True),
    ],
)
def test_a_made_up_import_upwards_is_found(module: str, source: str, found: bool) -> None:
    others = (
        "aim_plugins.sweep.b",
        "aim_plugins.engines.c",
        "aim_plugins.demo_model",
        "vision_bench.models.d",
        "vision_bench.classification.e",
    )
    assert len(broken_rules(dict.fromkeys(others, "") | {module: source})) == found
