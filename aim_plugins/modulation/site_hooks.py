"""Hooks into the layers at which components act, whatever reads or changes them there."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from aim_plugins.core.errors import first_few
from aim_plugins.modulation.attention import Part, replaced_attention
from aim_plugins.modulation.components import Site
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.witness import current


class SiteHook(abc.ABC):
    """What is done at one site.

    Args:
        site: The site.
        token_first: Whether its layer is given tokens before rows, see `TokenFirst`.

    Attributes:
        ran: Whether anything passed by.
    """

    def __init__(self, site: Site, *, token_first: bool) -> None:
        self.site, self.ran, self._token_first = site, False, token_first
        witness = current()
        self._notes = None if witness is None else witness.site(site.name)

    def note(self) -> None:
        """Notes that features pass by."""
        self.ran = True
        if self._notes is not None:
            self._notes.note()

    @abc.abstractmethod
    def plain(self, features: Tensor) -> Tensor:
        """What becomes of features [batch, ..., features] without a bias."""

    @abc.abstractmethod
    def behind(self, layer: nn.Module, output: Tensor) -> Tensor:
        """What becomes of a layer's output, in which its bias is."""

    @abc.abstractmethod
    def residual(self, entered: Tensor, output: Tensor) -> Tensor:
        """What becomes of a residual block's output."""

    def rows_axis(self, features: Tensor) -> int:
        """The axis on which rows of a batch lie."""
        return 1 if self._token_first and features.ndim == 3 else 0

    def attach(self, layer: nn.Module) -> Any:
        """Hooks into the layer; returns the handle that removes the hook."""
        bias = getattr(layer, "bias", None)
        if self.site.side == "outputs" and isinstance(bias, Tensor):
            _check_at_hand(self.site, [bias])
        if self.site.side == "inputs":
            return layer.register_forward_pre_hook(self._before, with_kwargs=True)
        behind = self._residual if self.site.side == "residual" else self._behind
        return layer.register_forward_hook(behind, with_kwargs=True)

    def _before(self, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (self.plain(given[0]), *given[1:]), named
        (first, *_) = named
        return given, {**named, first: self.plain(named[first])}

    def _behind(
        self, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> Tensor:
        return self.behind(layer, output)

    def _residual(
        self, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> Any:
        entered = given[0] if given else named.get("hidden_states", next(iter(named.values()), 0))
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(entered, Tensor) or entered.shape != first.shape:
            raise ValueError(
                f"components={self.site.name!r} is no residual block, since its output has "
                "another shape than its input: leave it out, by a pattern of the others"
            )
        changed = self.residual(entered.to(first.device), first)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


@contextlib.contextmanager
def attached(model: nn.Module, hooks: Sequence[SiteHook]) -> Iterator[Callable[[], None]]:
    """Attaches hooks while the block runs.

    Args:
        model: The model.
        hooks: Those of each site.

    Yields:
        What raises the error of a layer that did not run: to be called after a forward pass of
        parts of the model. Leaving the block calls it where the model itself ran.

    Raises:
        ValueError: If the model lacks a layer, or has one offloaded that is needed; later, if one
            did not run with the model.
    """
    attentions: dict[str, dict[str, Part]] = {}
    runs: list[bool] = []
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            layer = layer_of(model, hook.site)
            if hook.site.part:
                _check_at_hand(hook.site, layer.parameters())
                attentions.setdefault(hook.site.layer, {})[hook.site.part] = hook.plain
            else:
                stack.callback(hook.attach(layer).remove)
        for name, parts in attentions.items():
            stack.enter_context(replaced_attention(find_module(model, name), parts))
        if hooks:
            stack.callback(model.register_forward_hook(lambda *_: runs.append(True)).remove)
        yield lambda: _check_ran(hooks)
    if runs:
        _check_ran(hooks)


class TokenFirst:
    """Which sites' layers are given tokens before rows, as those beside an attention that is.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._holders = {
            name.rpartition(".")[0]
            for name, module in model.named_modules()
            if isinstance(module, nn.MultiheadAttention) and not module.batch_first
        }

    def __contains__(self, site: Site) -> bool:
        # Parts of an attention that is taken apart see rows first, whatever it is given, and
        # convolutions take rows first everywhere.
        if site.part or isinstance(layer_of(self._model, site), _ConvNd):
            return False
        layer = site.layer
        return any(
            layer == one or layer.startswith(f"{one}.") if one else "." not in layer
            for one in self._holders
        )


def layer_of(model: nn.Module, site: Site) -> nn.Module:
    """The layer at which components act.

    Raises:
        ValueError: If the model has none of that name.
    """
    try:
        return find_module(model, site.layer)
    except ValueError as error:
        raise ValueError(
            f"components={site.name!r}: {error}; they are those of another model"
        ) from error


def _check_ran(hooks: Sequence[SiteHook]) -> None:
    if missed := [hook.site.name for hook in hooks if not hook.ran]:
        raise ValueError(
            f"components: {first_few(missed)} did not run with the model, so that it answers as if "
            "nothing were changed there: leave them out, by a pattern of the others"
        )


def _check_at_hand(site: Site, parameters: Iterable[Tensor]) -> None:
    if any(one.is_meta for one in parameters):
        raise ValueError(
            f"components={site.name!r}: parameters of {site.layer!r} that are needed are "
            "offloaded: load the model whole"
        )
