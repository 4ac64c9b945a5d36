"""Finding out what reads a module's output, by watching one forward pass.

Names do not tell: blocks of different families wire the same names differently. So the very tensor
that a module returned is followed through the operations of a small forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.freezing import evaluating
from aim_plugins.modulation.hooks import find_module, split_site

LINEAR_LAYERS = (torch.nn.Linear, Conv1D)

# They keep every value and the last dimension, so that a shift passes through them.
_VIEWS = frozenset({"view", "reshape", "contiguous", "to", "type_as", "clone", "__getitem__"})


@dataclass
class Readers:
    """What reads a module's output in a forward pass.

    Attributes:
        linears: Names of the linear layers whose input it is.
        operations: Names of whatever else takes it.
        shared: Names of those linear layers that read other tensors too.
    """

    linears: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)


def find_readers(
    model: torch.nn.Module, sites: Iterable[str], token_ids: Int[Tensor, "rows tokens"]
) -> dict[str, Readers]:
    """Runs a model on some tokens and lists what reads the output of each site.

    Args:
        model: A causal language model.
        sites: Module outputs, see `hooks`.
        token_ids: The tokens to run; any will do.

    Returns:
        Readers of each site that ran, in the order in which the pass reached them.
    """
    watch = _Watch()
    with contextlib.ExitStack() as attached:
        for name, module in model.named_modules():
            if isinstance(module, LINEAR_LAYERS):
                attached.enter_context(watch.linear(name, module))
        for site in sites:
            attached.enter_context(watch.site(site, model))
        attached.enter_context(torch.no_grad())
        attached.enter_context(evaluating(model))
        attached.enter_context(watch)
        model(token_ids, use_cache=False)
    return watch.readers()


def probe_tokens(model: Any) -> Tensor:
    """Some tokens on a model's device, the same at every call: two rows of seven."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return torch.randint(0, vocabulary, (2, 7), generator=generator).to(model.device)


class _Watch(TorchFunctionMode):
    """Follows tensors through the operations of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        # Tensors are kept alive, since an id may be given again once its tensor is gone.
        self._followed: dict[int, tuple[Tensor, str]] = {}
        self._found: dict[str, Readers] = {}
        self._inputs: dict[str, set[str | None]] = {}
        self._inside_linear = 0

    @contextlib.contextmanager
    def site(self, site: str, model: torch.nn.Module) -> Iterator[None]:
        name, index = split_site(site)

        def follow(module: Any, inputs: Any, outputs: Any) -> None:
            output = outputs if isinstance(outputs, Tensor) else outputs[index]
            self._followed[id(output)] = (output, site)
            self._found.setdefault(site, Readers())

        handle = find_module(model, name).register_forward_hook(follow)
        try:
            yield
        finally:
            handle.remove()

    @contextlib.contextmanager
    def linear(self, name: str, module: torch.nn.Module) -> Iterator[None]:
        def enter(module: Any, inputs: Any, named: Any) -> None:
            source = self._site_of([*inputs, *named.values()][0])
            self._inputs.setdefault(name, set()).add(source)
            if source is not None and name not in self._found[source].linears:
                self._found[source].linears.append(name)
            self._inside_linear += 1

        def leave(module: Any, inputs: Any, outputs: Any) -> None:
            self._inside_linear -= 1

        handles = [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, prepend=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def readers(self) -> dict[str, Readers]:
        for site, found in self._found.items():
            found.shared = [name for name in found.linears if self._inputs[name] != {site}]
        return self._found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._inside_linear:
            return result
        taken = {self._site_of(leaf) for leaf in tree_leaves((args, kwargs))} - {None}
        # Questions for a shape, dtype or device read no values.
        if taken and any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            for site in taken:
                self._note(str(site), func, args, result)
        return result

    def _note(self, site: str, func: Any, args: Any, result: Any) -> None:
        name = getattr(func, "__name__", str(func))
        if (
            name in _VIEWS
            and isinstance(result, Tensor)
            and result.shape[-1:] == args[0].shape[-1:]
            and not (name == "__getitem__" and _holds_tensor(args[1]))
        ):
            self._followed[id(result)] = (result, site)
        elif name not in self._found[site].operations:
            self._found[site].operations.append(name)

    def _site_of(self, value: Any) -> str | None:
        if not isinstance(value, Tensor):
            return None
        known = self._followed.get(id(value))
        return None if known is None else known[1]


def _holds_tensor(index: Any) -> bool:
    return any(isinstance(part, Tensor | list) for part in tree_leaves(index))
