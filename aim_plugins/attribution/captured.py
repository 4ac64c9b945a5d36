"""What components compute in a forward pass, kept so that derivatives by it can be asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from aim_plugins.modulation.components import Components, Site
from aim_plugins.modulation.site_hooks import SiteHook, TokenFirst, attached


@contextlib.contextmanager
def captured(model: nn.Module, components: Components) -> Iterator[list[Captured]]:
    """Keeps what each site computes while the block runs, which is one forward pass.

    Args:
        model: The model, in eval mode.
        components: Components of it.

    Yields:
        What is kept at each site.

    Raises:
        ValueError: If the model lacks a layer; later, if one did not run, or ran more than once.
    """
    token_first = TokenFirst(model)
    kept = [Captured(site, token_first=site in token_first) for site in components.sites]
    with attached(model, kept) as check_ran:
        yield kept
        check_ran()


class Captured(SiteHook):
    """What one site computes.

    Biases are in the values: they change neither derivatives nor differences between inputs.
    """

    def __init__(self, site: Site, *, token_first: bool) -> None:
        super().__init__(site, token_first=token_first)
        # A leaf makes a graph even where neither inputs nor parameters ask for gradients.
        self._leaf = torch.zeros((), requires_grad=True)
        self.values = self._leaf
        self._convolution = False

    def plain(self, features: Tensor) -> Tensor:
        return self._keep(features)

    def behind(self, layer: nn.Module, output: Tensor) -> Tensor:
        self._convolution = isinstance(layer, _ConvNd)
        return self._keep(output)

    def residual(self, entered: Tensor, output: Tensor) -> Tensor:
        return entered + self._keep(output - entered)

    def _keep(self, values: Tensor) -> Tensor:
        if self.ran:
            raise ValueError(
                f"components={self.site.name!r} runs more than once in a pass, so that no single "
                "value is its own: leave it out, by a pattern of the others"
            )
        self.ran, self.values = True, values + self._leaf.to(values)
        return self.values.clone()  # since a layer behind it may work in place

    def summed(self, values: Float[Tensor, ...], rows: int) -> Float[Tensor, "{rows} components"]:
        """Sums over what belongs to each component: positions, and the features of a head.

        Args:
            values: Of the shape of what the site computes.
            rows: Rows of the batch, of which the layer may see a multiple.

        Raises:
            ValueError: If the layer sees another number of rows.
        """
        values = values.movedim(self.rows_axis(values), 0)
        if len(values) % rows:
            raise ValueError(
                f"components={self.site.name!r}: the layer runs on {len(values)} rows where the "
                f"batch has {rows}: leave it out, by a pattern of the others"
            )
        if self.site.side == "residual":
            return values.reshape(rows, -1).sum(1, keepdim=True)
        if self._convolution:
            values = values.movedim(1, -1)
        return values.reshape(rows, -1, self.site.count, self.site.width).sum((1, 3))


def summed(
    kept: list[Captured], components: Components, values: list[Tensor], rows: int
) -> Float[Tensor, "{rows} components"]:
    """Sums of all sites over what belongs to each component.

    Args:
        kept: What `captured` yielded.
        components: The components.
        values: Of each site, of the shape of what it computes.
        rows: Rows of the batch.

    Raises:
        ValueError: If a layer sees rows that are not those of the batch.
    """
    columns = [
        site.summed(own, rows)[:, list(places)]
        for site, places, own in zip(kept, components.places, values, strict=True)
    ]
    return torch.cat(columns, 1)
