"""Reading neurons: every layer's activations of a batch, from one forward pass.

A neuron is a channel of a layer: a convolution's filter, of which the mean over space is taken, or
a feature of a linear layer, of which the mean over tokens is taken. DeepXplore (arXiv:1705.06640)
and the works after it take these means.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aim_plugins.core.errors import first_few
from aim_plugins.coverage.layers import Layers
from aim_plugins.modulation.hooks import (
    change_outputs,
    choose_sites,
    execution_order,
    find_module,
    reached_sites,
)
from aim_plugins.modulation.sites import split_site

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSFORMERS_LINEAR = "Conv1D"
"""The linear layer of GPT-2 in transformers, which is no convolution."""


def channel_dim_of(module: nn.Module) -> int:
    """The dimension of a module's output that counts neurons: 1 of a convolution, else the last."""
    return 1 if isinstance(module, _CONVOLUTIONS) else -1


def neuron_means(
    output: Float[Tensor, "rows ..."],
    channel_dim: int,
    mask: Bool[Tensor, "inputs tokens"] | None = None,
) -> Float[Tensor, "inputs neurons"]:
    """Activation of each neuron: the mean over all positions that share a channel.

    Args:
        output: What a module returns.
        channel_dim: The dimension of the neurons, as `channel_dim_of` says.
        mask: Which tokens of outputs [inputs, tokens, ..., neurons] count; by default all. The
            tokens of a batch may also be the rows of a matrix, as some feed-forward parts see them.

    Raises:
        ValueError: If there is a mask, and the output is not one of its tokens.
    """
    values = output.movedim(channel_dim, -1)
    if mask is not None and values.dim() == 2 and len(values) == mask.numel():
        values = values.unflatten(0, mask.shape)
    if values.dim() == 2:
        return values
    if mask is None:
        return values.flatten(1, -2).mean(1)
    if values.shape[:2] != mask.shape:
        raise ValueError(
            f"an output of shape {list(output.shape)} does not begin with the {len(mask)} inputs "
            f"and {mask.shape[1]} tokens of its batch, so that padding cannot be left out: choose "
            "other modules"
        )
    kept = mask.reshape(*mask.shape, *[1] * (values.dim() - 2))
    # `where` and not a product, since padding may hold infinities; and a sum over many tokens would
    # exceed float16.
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    positions = mask.sum(1, keepdim=True) * values.shape[2:-1].numel()
    return torch.where(kept, wide, 0.0).flatten(1, -2).sum(1) / positions


def neuron_layers(
    model: nn.Module, run: Callable[[], object], modules: str | Sequence[str] | None = None
) -> Layers:
    """Finds the layers whose neurons are looked at, in the order of execution.

    Args:
        model: The model.
        run: Makes one forward pass of it.
        modules: Patterns of module names, see `choose_sites`; by default every convolution and
            linear layer that runs once in a pass.

    Raises:
        ValueError: If a pattern matches nothing or a module that does not run once, or the model
            has no layer to look at.
    """
    if modules is not None:
        sites = execution_order(model, choose_sites(model, modules), run)
    else:
        sites = _default_sites(model, run)
    sizes: dict[str, int] = {}
    with read_outputs(model, sites) as outputs, torch.no_grad():
        run()
        for site in sites:
            sizes[site] = neuron_means(outputs[site], _channel_dim(model, site)).shape[-1]
    return Layers(tuple(sites), tuple(sizes[site] for site in sites))


def _default_sites(model: nn.Module, run: Callable[[], object]) -> list[str]:
    kinds = (*_CONVOLUTIONS, nn.Linear)
    candidates = [
        name
        for name, module in model.named_modules()
        if name and (isinstance(module, kinds) or type(module).__name__ == _TRANSFORMERS_LINEAR)
    ]
    with torch.no_grad():
        reached = reached_sites(model, candidates, run)
    sites = [name for name in dict.fromkeys(reached) if reached.count(name) == 1]
    if not sites:
        raise ValueError(
            f"{type(model).__name__} has no convolution or linear layer that runs once in a pass: "
            "name the layers to look at as modules"
        )
    return sites


def _channel_dim(model: nn.Module, site: str) -> int:
    return channel_dim_of(find_module(model, split_site(site)[0]))


@contextlib.contextmanager
def read_outputs(model: nn.Module, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keeps what each site returned in the last forward pass, with its graph.

    Args:
        model: The model, which is left as it is.
        sites: The sites.

    Yields:
        The outputs by site, filled by every forward pass in the block.
    """
    outputs: dict[str, Tensor] = {}

    def keep(site: str) -> Callable[[Tensor], None]:
        def hook(output: Tensor) -> None:
            outputs[site] = output

        return hook

    with change_outputs(model, {site: keep(site) for site in sites}):
        yield outputs


class NeuronReader:
    """Reads all neurons of a model in each forward pass of a block.

        with NeuronReader(model, layers).attached() as reader:
            logits = model(images)
            neurons = reader.neurons()

    Means are taken as each layer returns, so that no feature map outlives its layer.

    Args:
        model: The model, which is left as it is.
        layers: What is read.
    """

    def __init__(self, model: nn.Module, layers: Layers) -> None:
        self.model, self.layers = model, layers
        self._dims = {site: _channel_dim(model, site) for site in layers.names}
        self._means: dict[str, Tensor] = {}
        self.mask: Bool[Tensor, "inputs tokens"] | None = None

    @contextlib.contextmanager
    def attached(self) -> Iterator[NeuronReader]:
        """Reads while the block runs."""
        with change_outputs(self.model, {site: self._keep(site) for site in self.layers.names}):
            yield self

    def neurons(self) -> Float[Tensor, "inputs neurons"]:
        """Activations of the last forward pass, float32 on the CPU.

        Raises:
            ValueError: If a layer did not run, or returned NaN or infinity.
        """
        if missing := [site for site in self.layers.names if site not in self._means]:
            raise ValueError(f"layers {first_few(missing, 3)} did not run in this forward pass")
        parts = [self._means[site].float().cpu() for site in self.layers.names]
        self._means = {}
        neurons = torch.cat(parts, 1)
        if not neurons.isfinite().all():
            column = int((~neurons.isfinite()).any(0).nonzero()[0])
            row = int((~neurons[:, column].isfinite()).nonzero()[0])
            raise ValueError(
                f"neuron {self.layers.neuron_name(column)} is {float(neurons[row, column])} for "
                f"input {row} of its batch: check the weights, or run the model in float32"
            )
        return neurons

    def _keep(self, site: str) -> Callable[[Tensor], None]:
        def hook(output: Tensor) -> None:
            self._means[site] = neuron_means(output.detach(), self._dims[site], self.mask)

        return hook
