"""Choosing modules of a model by name, and changing their outputs while a block runs.

A site is an output of a module, written as the module's name, or `name:k` for item k of a tuple.
Everything is attached within a context; leaving it, in whatever way, restores the model exactly.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aim_plugins.core.errors import nearest
from aim_plugins.modulation.sites import compile_site, split_site
from aim_plugins.modulation.witness import SiteNotes, current

OutputFunction = Callable[[Tensor], Tensor | None]
"""Maps an output to what takes its place; None leaves it."""


def choose_sites(model: torch.nn.Module, patterns: str | Sequence[str]) -> list[str]:
    """Lists the sites whose whole module name matches a pattern, in order of registration.

    Args:
        model: The model.
        patterns: A regular expression of module names, or several; `pattern:k` chooses item k of
            the outputs.

    Raises:
        ValueError: If a pattern is no regular expression or matches nothing; the nearest names are
            shown.
    """
    names = [name for name, _ in model.named_modules() if name]
    sites: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        expression, output = compile_site(pattern)
        found = [name for name in names if expression.fullmatch(name)]
        if not found:
            raise ValueError(
                f"modules='{pattern}' matches none of the {len(names)} modules of "
                f"{type(model).__name__}; nearest: {_nearest(expression.pattern, names)}"
            )
        sites.update((f"{name}:{output}" if output else name, None) for name in found)
    order = {name: index for index, name in enumerate(names)}
    return sorted(sites, key=lambda site: (order[split_site(site)[0]], split_site(site)[1]))


def execution_order(
    model: torch.nn.Module, sites: Iterable[str], run: Callable[[], object]
) -> list[str]:
    """Sorts sites by the order in which a forward pass reaches them.

    The order of registration is another one wherever a block applies a module that it declared
    earlier than its neighbours, as most decoders do with the norm behind their attention.

    Args:
        model: The model.
        sites: The sites.
        run: Makes one forward pass of the model.

    Raises:
        ValueError: If a site is not reached, or reached several times in one pass.
    """
    sites = list(sites)
    reached = reached_sites(model, sites, run)
    if missed := [site for site in sites if site not in reached]:
        raise ValueError(
            f"modules: {', '.join(missed[:3])} ({len(missed)} in all) did not run in a forward "
            "pass: leave them out of the pattern"
        )
    if repeated := [site for site in dict.fromkeys(reached) if reached.count(site) > 1]:
        raise ValueError(
            f"modules: {', '.join(repeated[:3])} ({len(repeated)} in all) run several times in one "
            "forward pass, so that no single map fits: leave them out of the pattern"
        )
    return reached


def reached_sites(
    model: torch.nn.Module, sites: Iterable[str], run: Callable[[], object]
) -> list[str]:
    """The sites in the order in which a pass reaches them, each as often as it does."""
    reached: list[str] = []
    with change_outputs(model, {site: _note(reached, site) for site in sites}):
        run()
    return reached


def find_module(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """Finds a module by name, also below the prefix that a wrapper (PEFT, compile) adds.

    Raises:
        ValueError: If there is none, or several.
    """
    with contextlib.suppress(AttributeError):
        return model.get_submodule(name)
    modules = dict(model.named_modules())
    below = [other for other in modules if other.endswith(f".{name}")]
    if len(below) == 1:
        return modules[below[0]]
    if below:
        raise ValueError(f"module {name!r} is ambiguous: {', '.join(below[:3])}")
    raise ValueError(
        f"{type(model).__name__} has no module {name!r}; nearest: {_nearest(name, list(modules))}"
    )


@contextlib.contextmanager
def change_outputs(
    model: torch.nn.Module, functions: Mapping[str, OutputFunction]
) -> Iterator[None]:
    """Lets a function replace the output at each site while the block runs.

    Args:
        model: The model.
        functions: A function for each site, called with the output's tensor in every forward pass.

    Raises:
        ValueError: If the model has no such module, or its output is no tensor; the latter is
            raised in the forward pass.
    """
    witness = current()
    with contextlib.ExitStack() as attached:
        for site, function in functions.items():
            name, output = split_site(site)
            if witness is not None:
                function = _noted(function, witness.site(site))
            handle = find_module(model, name).register_forward_hook(_hook(site, output, function))
            attached.callback(handle.remove)
        yield


def _hook(site: str, index: int, function: OutputFunction) -> Callable[[Any, Any, Any], Any]:
    def hook(module: Any, inputs: Any, outputs: Any) -> Any:
        if isinstance(outputs, Tensor) and index == 0:
            return function(outputs)
        if not isinstance(outputs, tuple | list) or not _holds_tensor(outputs, index):
            raise ValueError(
                f"output {index} of module {site!r} is no tensor but belongs to "
                f"{type(outputs).__name__}: choose another module, or another output by 'name:k'"
            )
        changed = function(outputs[index])
        if changed is None:
            return None
        items = [*outputs[:index], changed, *outputs[index + 1 :]]
        # Named tuples take their items one by one.
        return type(outputs)(*items) if hasattr(outputs, "_fields") else type(outputs)(items)

    return hook


def _noted(function: OutputFunction, notes: SiteNotes) -> OutputFunction:
    def noted(output: Tensor) -> Tensor | None:
        changed = function(output)
        notes.note(output, changed)
        return changed

    return noted


def _holds_tensor(outputs: Sequence[Any], index: int) -> bool:
    return index < len(outputs) and isinstance(outputs[index], Tensor)


def _note(reached: list[str], site: str) -> OutputFunction:
    def note(output: Tensor) -> None:
        reached.append(site)

    return note


def _nearest(pattern: str, names: Sequence[str]) -> str:
    plain = re.sub(r"\.+", ".", re.sub(r"\\[a-z]|[^\w.]", "", pattern)).strip(".")
    last = plain.rsplit(".", 1)[-1]
    # A block repeats its names in every layer: one example of each is enough.
    kinds: dict[str, str] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "0", name), name)
    ends = {name.rsplit(".", 1)[-1]: name for name in reversed(kinds.values())}
    near = [ends[end] for end in nearest(last, ends, count=3, cutoff=0.5)]
    near += nearest(plain, kinds.values(), count=3, cutoff=0.0)
    return ", ".join(repr(name) for name in list(dict.fromkeys(near))[:3])
