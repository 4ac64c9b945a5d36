"""What a transport does, in a few numbers for each map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.metadata import MapsMetadata

_MOVES = 5


def summarise(
    metadata: MapsMetadata, maps: Mapping[str, ActivationMap], fingerprint: str
) -> dict[str, Any]:
    """Summarises a transport, ready for JSON.

    Args:
        metadata: What is known of its origin.
        maps: Its maps by name.
        fingerprint: Their fingerprint.

    Returns:
        What is known of its origin; for each map the mean of |scale - 1| and |shift|, and the
        share of neurons with a support; and the neurons that are moved most. A neuron's move is
        what is added at strength 1 to an activation in the middle of its support, or to 0 where
        it has none.
    """
    known = dataclasses.asdict(metadata)
    known["architecture"] = known.pop("model_signature").get("architecture", "")
    constant = known.pop("constant_neurons")
    known["sites"] = [
        {
            "site": site,
            "neurons": one.neurons,
            **_does(one),
            "constant_neurons": constant.get(site, 0),
        }
        for site, one in maps.items()
    ]
    affine = {site: one for site, one in maps.items() if isinstance(one, AffineMap)}
    return {"fingerprint": fingerprint, **known, "largest_moves": _moves(affine)}


def _does(one: ActivationMap) -> dict[str, Any]:
    """What a map does, in a few numbers; of one that mixes neurons, in its kind and sizes."""
    if not isinstance(one, AffineMap):
        return {"kind": one.KIND, "shapes": {part: list(v.shape) for part, v in one.parts.items()}}
    return {
        "mean_scale_change": float((one.scale - 1).abs().mean()),
        "mean_shift": float(one.shift.abs().mean()),
        "supported_share": float(_has_support(one).float().mean()),
    }


def summary_text(summary: dict[str, Any], metadata: MapsMetadata) -> str:
    """The summary for people: facts, a line for each map, the largest moves."""
    model = " ".join(filter(None, [summary["architecture"], summary["base_model"]]))
    facts = {
        "method": summary["method"],
        "model": model or "unknown",
        "data": f"{metadata.n_source} source and {metadata.n_target} target {metadata.INPUTS}"
        f", SHA-256 {summary['data_sha256'][:12] or 'unknown'}",
        "fitted": metadata.fitted,
        "moves": f"source responses by {moves_text(metadata)}",
        "applied": metadata.applied,
        "fingerprint": summary["fingerprint"][:12],
        "versions": ", ".join(f"{name} {one}" for name, one in summary["versions"].items()),
    }
    lines = [f"{name + ':':13}{value}" for name, value in facts.items()]
    width = max(len(entry["site"]) for entry in summary["sites"])
    affine = [entry for entry in summary["sites"] if "kind" not in entry]
    if affine:
        head = "neurons  mean |scale-1|  mean |shift|  support  constant"
        lines += ["", f"{'site':{width}}  {head}"]
    lines += [
        f"{entry['site']:{width}}  {entry['neurons']:7}  {entry['mean_scale_change']:14.4g}"
        f"  {entry['mean_shift']:12.4g}  {entry['supported_share']:7.0%}"
        f"  {entry['constant_neurons']:8}"
        for entry in affine
    ]
    if len(affine) < len(summary["sites"]):
        lines += ["", f"{'site':{width}}  neurons  map"]
    lines += [
        f"{entry['site']:{width}}  {entry['neurons']:7}  {entry['kind']} ({_sizes(entry)})"
        for entry in summary["sites"]
        if "kind" in entry
    ]
    if summary["largest_moves"]:
        lines += ["", "largest moves at strength 1, in the middle of the support or at 0:"]
    lines += [
        f"  {move['site']} neuron {move['neuron']}: {move['move']:+.4g}"
        f" (scale {move['scale']:.4g}, shift {move['shift']:+.4g})"
        for move in summary["largest_moves"]
    ]
    return "\n".join(lines)


def moves_text(metadata: MapsMetadata) -> str:
    """How far source responses are moved, and how much of that holds on other inputs."""
    moved, held = metadata.moved, metadata.held
    if moved is None:
        return "an unknown share of their spread"
    text = f"{moved:.2f} of their spread on average"
    if held is None:
        return text
    return f"{text}; {share_text(held)} of it holds on held-out {metadata.INPUTS}"


def share_text(held: float) -> str:
    """A share that holds, as a percentage; below none there is none."""
    return f"{max(held, 0.0):.0%}"


def _sizes(entry: Mapping[str, Any]) -> str:
    shapes = entry["shapes"].items()
    return ", ".join(f"{part} {' x '.join(map(str, shape))}" for part, shape in shapes)


def _has_support(one: AffineMap) -> torch.Tensor:
    return one.support_min.isfinite() | one.support_max.isfinite()


def _moves(maps: Mapping[str, AffineMap]) -> list[dict[str, Any]]:
    moves = []
    for site, one in maps.items():
        bounded = one.support_min.isfinite() & one.support_max.isfinite()
        middle = torch.where(bounded, (one.support_min + one.support_max) / 2, 0.0)
        move = (one.scale - 1) * middle + one.shift
        for neuron in move.abs().topk(min(_MOVES, len(move))).indices.tolist():
            moves.append(
                {
                    "site": site,
                    "neuron": neuron,
                    "move": float(move[neuron]),
                    "scale": float(one.scale[neuron]),
                    "shift": float(one.shift[neuron]),
                }
            )
    return sorted(moves, key=lambda entry: -abs(entry["move"]))[:_MOVES]
