"""Which components a model has: filters, rows, heads, neurons, blocks.

The counts are those of the paper: 22,720 filters of the convolutions named conv* of torchvision's
ResNet-50, 82,944 rows of its ViT-B/16 without the head, and 64,512 inputs of GPT-2's layers, whose
weights have a row for each input.

Source: arXiv:2404.11534, section 4.1 and appendix C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard, get_args

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from aim_plugins.core.errors import did_you_mean
from aim_plugins.modulation.components import (
    HEADS,
    IN_PROJECTION,
    OUT_PROJECTION,
    ComponentKind,
    Components,
    Site,
)

_AFTER_HEADS = ("o_proj", "out_proj", "c_proj", "dense", "proj", "wo", "Wo", "out_lin")
"""What the projection behind the heads is called in an attention."""
_BEFORE_HEADS = (
    *("q_proj", "q_b_proj", "c_attn", "query_key_value", "qkv_proj", "qkv", "Wqkv", "query"),
    *("q_lin", "wq", "wqkv"),
)
"""What a projection before the heads is called."""
_DOWN = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "fc_out", "w2", "linear2", "lin2")
"""What the second projection of a feed-forward part is called; "wo" too, beside a first "wi"."""


def find_components(
    model: nn.Module, kind: str, patterns: Sequence[str] = (), *, setting: str = "patterns"
) -> Components:
    """Finds the components of a kind.

    Args:
        model: The model. Its head, which is the last linear layer or what transformers calls the
            output embeddings, has none.
        kind: What a component is: "conv_filters" of convolutions, "linear_rows" (outputs) or
            "linear_inputs" of linear layers, the projections of PyTorch's own attention among
            them, "attention_heads" with all that they give to the output projection, "mlp_neurons",
            the inputs of the second projection of feed-forward parts, or residual "blocks".
        patterns: Regular expressions of names of sites or components; by default all of the kind.
        setting: What holds the patterns, for errors.

    Raises:
        ValueError: If the model has none of the kind, or a pattern matches nothing.

    >>> found = find_components(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), "linear_rows")
    >>> list(found.names())
    ['0[0]', '0[1]']
    """
    if kind not in _FINDERS:
        raise ValueError(f"components={kind!r}: {did_you_mean(kind, get_args(ComponentKind))}")
    experts = _experts(model)
    sites = tuple(
        one for one in _FINDERS[kind](model) if not any(_is_below(one.layer, e) for e in experts)
    )
    if experts and kind in _ALSO_OF_EXPERTS and not (sites and patterns):
        raise ValueError(
            f"components={kind!r}: {type(model).__name__} has them in experts too, such as "
            f"{experts[0]!r}, which see tokens of all rows mixed: choose attention_heads or blocks"
            + (", or give patterns of the other layers" if sites else "")
        )
    found = Components(sites)
    if not len(found):
        others = ", ".join(one for one in get_args(ComponentKind) if one != kind)
        raise ValueError(
            f"components={kind!r}: {type(model).__name__} has none of them that are known here: "
            f"choose one of {others}"
        )
    return found.choose(patterns, setting) if patterns else found


def _experts(model: nn.Module) -> list[str]:
    """Modules that hold experts, each of which sees the tokens that a router sends there."""
    return [
        name
        for name, module in model.named_modules()
        if "Experts" in type(module).__name__
        or (isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "experts")
    ]


def _is_below(layer: str, holder: str) -> bool:
    return layer == holder or layer.startswith(f"{holder}.")


def _conv_filters(model: nn.Module) -> Iterator[Site]:
    for name, layer in model.named_modules():
        if isinstance(layer, _ConvNd):
            yield Site(name, name, layer.out_channels)


def _linear_rows(model: nn.Module) -> Iterator[Site]:
    for name, layer in _layers_but_the_head(model):
        if isinstance(layer, nn.MultiheadAttention):
            width = layer.embed_dim
            yield Site(f"{name}.{IN_PROJECTION}", name, 3 * width, part=IN_PROJECTION)
            yield Site(f"{name}.{OUT_PROJECTION}", name, width, part=OUT_PROJECTION)
        else:
            yield Site(name, name, _outputs(layer))


def _linear_inputs(model: nn.Module) -> Iterator[Site]:
    for name, layer in _layers_but_the_head(model):
        if isinstance(layer, nn.MultiheadAttention):
            # What its output projection reads lies behind the heads; what it reads itself, before.
            yield Site(name, name, layer.embed_dim, side="inputs", part=HEADS)
        else:
            yield Site(name, name, _inputs(layer), side="inputs")


def _attention_heads(model: nn.Module) -> Iterator[Site]:
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            width = module.embed_dim // module.num_heads
            yield Site(name, name, module.num_heads, width, "inputs", HEADS)
            continue
        found = _projection_behind(module)
        if found is not None:
            own, layer = found
            count = _head_count(model, module)
            if count and _inputs(layer) % count == 0:
                yield Site(name, _join(name, own), count, _inputs(layer) // count, "inputs")


def _mlp_neurons(model: nn.Module) -> Iterator[Site]:
    modules = dict(model.named_modules())
    for name, module in modules.items():
        holder, _, own = name.rpartition(".")
        if _is_linear(module) and _is_down(modules[holder], own):
            yield Site(_feed_forward(modules[holder], name), name, _inputs(module), side="inputs")
        elif type(module).__name__ in ("MLPBlock", "MLP") and isinstance(module, nn.Sequential):
            layers = [(own, one) for own, one in module.named_children() if _is_linear(one)]
            if len(layers) == 2:  # torchvision's
                own, layer = layers[1]
                yield Site(name, _join(name, own), _inputs(layer), side="inputs")
        elif own == "intermediate" and _is_linear(modules.get(_join(holder, "output.dense"))):
            layer = modules[_join(holder, "output.dense")]  # BERT's
            yield Site(name, _join(holder, "output.dense"), _inputs(layer), side="inputs")


def _is_down(holder: nn.Module, name: str) -> bool:
    """Whether a projection of that name is the second one of a feed-forward part."""
    if name in ("wo", "Wo"):
        return any(one.lower().startswith("wi") for one, _ in holder.named_children())
    return name in _DOWN and _projection_behind(holder) is None


def _feed_forward(holder: nn.Module, layer: str) -> str:
    """The part that a layer belongs to, or itself where a whole block holds it."""
    plain = all(
        not list(one.children()) or "activations" in type(one).__module__
        for one in holder.children()
    )
    name = layer.rpartition(".")[0]
    return name if plain and name else layer


def _blocks(model: nn.Module) -> Iterator[Site]:
    found = {
        _join(name, own): block
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for own, block in module.named_children()
        if _is_whole(block) and not _is_stage(block)
    }
    for name, block in found.items():
        within = any(name != one and _is_below(name, one) for one in found)
        if _may_be_residual(block) and not within:
            yield Site(name, name, 1, side="residual")


def _is_whole(block: nn.Module) -> bool:
    several = len(list(block.children())) > 1 and not isinstance(block, nn.Sequential)
    return several or _says_residual(block) is not None


def _says_residual(block: nn.Module) -> bool | None:
    """Whether a block adds to its input, in torchvision's and timm's own word."""
    for name in ("use_res_connect", "has_skip"):
        if isinstance(getattr(block, name, None), bool):
            return bool(getattr(block, name))
    return None


def _may_be_residual(block: nn.Module) -> bool:
    """Whether a block may add to its input; one that shortens or widens it adds nothing to it."""
    shortcut = getattr(block, "downsample", None) or getattr(block, "shortcut", None)
    projected = isinstance(shortcut, nn.Module) and len(list(shortcut.children())) > 0
    return _says_residual(block) is not False and not projected


def _is_stage(module: nn.Module) -> bool:
    """Whether a module is a row of blocks."""
    return any(
        isinstance(one, nn.ModuleList | nn.Sequential)
        and len({type(block) for block in one}) == 1
        and all(_is_whole(block) for block in one)
        for one in module.children()
    )


_FINDERS: dict[str, Callable[[nn.Module], Iterator[Site]]] = {
    "conv_filters": _conv_filters,
    "linear_rows": _linear_rows,
    "linear_inputs": _linear_inputs,
    "attention_heads": _attention_heads,
    "mlp_neurons": _mlp_neurons,
    "blocks": _blocks,
}
_ALSO_OF_EXPERTS = ("linear_rows", "linear_inputs", "mlp_neurons")


def _layers_but_the_head(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Linear layers and PyTorch's own attentions, whose projections are no layers of their own."""
    attentions = {
        name for name, one in model.named_modules() if isinstance(one, nn.MultiheadAttention)
    }
    found = [
        (name, one)
        for name, one in model.named_modules()
        if name in attentions or (_is_linear(one) and name.rpartition(".")[0] not in attentions)
    ]
    head = _head(model, [one for _, one in found if _is_linear(one)])
    return [(name, one) for name, one in found if one is not head]


def _head(model: nn.Module, layers: Sequence[nn.Module]) -> nn.Module | None:
    embeddings: Any = getattr(model, "get_output_embeddings", None)
    found = embeddings() if callable(embeddings) else None
    return found if found is not None else (layers[-1] if layers else None)


def _projection_behind(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The projection behind an attention's heads, by its own name; None of other modules."""
    children = dict(module.named_children())
    if any(one in children for one in _BEFORE_HEADS):
        for own in _AFTER_HEADS:
            if _is_linear(children.get(own)):
                return own, children[own]
    behind = getattr(children.get("output"), "dense", None)  # BERT's, beside what has the heads
    if _is_linear(behind) and any(hasattr(one, "query") for one in children.values()):
        return "output.dense", behind
    return None


def _head_count(model: nn.Module, attention: nn.Module) -> int:
    config: Any = getattr(attention, "config", None) or getattr(model, "config", None)
    for holder in (attention, *attention.children(), config):
        for name in ("num_heads", "num_attention_heads", "n_head", "n_heads", "n_local_heads"):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return 0


def _is_linear(layer: Any) -> TypeGuard[nn.Linear | Conv1D]:
    return isinstance(layer, nn.Linear | Conv1D)


def _outputs(layer: Any) -> int:
    # Weights of quantised layers have another shape.
    return int(layer.nf if isinstance(layer, Conv1D) else layer.out_features)


def _inputs(layer: Any) -> int:
    return int(layer.nx if isinstance(layer, Conv1D) else layer.in_features)


def _join(*names: str) -> str:
    return ".".join(one for one in names if one)
