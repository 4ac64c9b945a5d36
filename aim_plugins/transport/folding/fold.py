"""Folding a transport at one strength into the weights, where that is exact.

At strength λ an affine map without support is x -> a x + b with a = 1 + λ (scale - 1) and b =
λ shift. A norm's weight takes a, and so do the rows of a linear layer; b goes into the layer's own
bias, or, behind a norm without one, into the biases of the linear layers that read it, as W b. A
low-rank map x -> x + U (V x + c) turns the weight W of a linear layer into W + λ U V W. What is
left is a plain checkpoint that any tool loads, and no hook runs.

Not exact, and refused by name: supports, positions "last", a shift that reaches anything but linear
layers (a residual stream), weights that other modules share, and biases that the architecture's
configuration cannot express.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from aim_plugins.core.errors import first_few
from aim_plugins.core.files import refuse_filled, temporary_path, write_atomic
from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.freezing import evaluating
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.low_rank import LowRankMap
from aim_plugins.modulation.sites import split_site
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.folding.biases import expressible_biases
from aim_plugins.transport.folding.norms import Obstacle, norm_parameters
from aim_plugins.transport.folding.readers import (
    LINEAR_LAYERS,
    Readers,
    find_readers,
    probe_tokens,
)

NOTE_FILE = "folded_transport.json"

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
_HALF_TOLERANCE = 0.05  # in half precision folded weights and transported activations both round


class FoldError(ValueError):
    """A transport cannot be folded exactly.

    Attributes:
        reasons: Why, for each site that cannot be folded.
    """

    def __init__(self, reasons: Mapping[str, str], sites: int) -> None:
        self.reasons = dict(reasons)
        sites_of: dict[str, list[str]] = {}
        for site, reason in self.reasons.items():
            sites_of.setdefault(reason, []).append(site)
        listed = "; ".join(f"{reason}: {first_few(sites)}" for reason, sites in sites_of.items())
        super().__init__(
            f"{len(self.reasons)} of {sites} sites cannot be folded exactly; {listed}. Run this "
            "transport with hooks, or fit one without them"
        )


@dataclass(frozen=True)
class Folded:
    """A model whose weights carry a transport at one strength.

    Attributes:
        model: The changed model; it shares all other weights with the one it was made from.
        original: That one.
        maps: The transport's maps.
        strength: The strength.
        config_changes: What had to be switched on in the configuration to hold the biases.
    """

    model: Any
    original: Any
    maps: ActivationMaps
    strength: float
    config_changes: Mapping[str, bool]

    def save(self, folder: str | Path, tokenizer: Any = None, *, check: bool = True) -> Path:
        """Writes a plain checkpoint, which appears whole or not at all.

        Args:
            folder: A new folder.
            tokenizer: Saved beside the weights, if given.
            check: Whether to load the checkpoint again and compare its logits with those of the
                original under hooks. Takes the memory of one more model.

        Returns:
            The folder.

        Raises:
            ValueError: If the folder exists and is not empty, or the check fails; nothing is left
                behind then.
        """
        folder = Path(folder)
        refuse_filled(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary_path(folder)
        try:
            self.model.save_pretrained(partial)
            if tokenizer is not None:
                tokenizer.save_pretrained(partial)
            write_atomic(partial / NOTE_FILE, json.dumps(self._note(), indent=2) + "\n")
            if check:
                self._check(partial)
            if folder.is_dir():  # an empty one; some systems rename onto none
                folder.rmdir()
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return folder

    def _note(self) -> dict[str, Any]:
        return {
            "transport": self.maps.fingerprint,
            "strength": self.strength,
            "base_model": str(getattr(self.original, "name_or_path", "")),
            "sites": list(self.maps.maps),
            "config_changes": dict(self.config_changes),
        }

    def _check(self, folder: Path) -> None:
        dtype = self.original.dtype
        loaded = type(self.original).from_pretrained(
            folder, dtype=dtype, attn_implementation=self.original.config._attn_implementation
        )
        loaded = loaded.to(self.original.device).eval()
        token_ids = probe_tokens(self.original)
        with torch.no_grad(), evaluating(self.original):
            found = loaded(token_ids).logits.double()
            with self.maps.applied(self.original, self.strength):
                expected = self.original(token_ids).logits.double()
        difference = float((found - expected).abs().max())
        bound = _TOLERANCE.get(dtype, _HALF_TOLERANCE) * max(1.0, float(expected.abs().max()))
        if not difference <= bound:
            raise ValueError(
                f"the folded checkpoint's logits differ from the hooked model's by "
                f"{difference:.2g}: this architecture does something with these modules that "
                "folding does not see; run the transport with hooks"
            )


def fold_transport(
    model: Any,
    transport: LearnedTransport | ActivationMaps,
    strength: float,
    *,
    force: bool = False,
) -> Folded:
    """Folds a transport at one strength into a model's weights.

    The given model stays as it is; the folded one shares its unchanged weights.

    Args:
        model: A `PreTrainedModel` of a causal language model.
        transport: The transport.
        strength: Its strength λ.
        force: Whether a learned transport may be folded into another model than its own, such as
            a fine-tune.

    Raises:
        FoldError: If it cannot be folded exactly; it names the reasons.
        ValueError: If the strength is not finite, or the model is not the transport's, lacks a
            site or is not a plain one (PEFT, quantised, offloaded).
    """
    if not math.isfinite(strength):
        raise ValueError(f"strength={strength!r} must be a finite number")
    maps = transport.maps if isinstance(transport, LearnedTransport) else transport
    if isinstance(transport, LearnedTransport):
        transport.check_model(model, force=force)
    _refuse_special(model)
    if maps.positions != "all":
        reason = f"weights act on all tokens, and positions={maps.positions!r}"
        raise FoldError(dict.fromkeys(maps.maps, reason), len(maps.maps))
    readers = find_readers(model, maps.maps, probe_tokens(model))
    folding = _Folding(model, readers)
    # In the order of execution: a shift enters a linear layer before that layer's own map.
    for site in [*readers, *(maps.maps.keys() - readers.keys())]:
        folding.add(site, maps.maps[site], strength)
    changes, added = expressible_biases(model, folding.missing_biases())
    folding.refuse_inexpressible(added)
    if folding.reasons:
        raise FoldError(folding.reasons, len(maps.maps))
    return Folded(folding.folded_model(changes, added), model, maps, strength, changes)


def _refuse_special(model: Any) -> None:
    mend = "fold into the plain model in full or half precision"
    if not hasattr(model, "save_pretrained") or hasattr(model, "get_base_model"):
        raise ValueError(f"{type(model).__name__} is a wrapper: merge its adapter and {mend}")
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError(f"the model is quantised: {mend}")
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ValueError(
            f"the model is spread over devices or offloaded: load it on one and {mend}"
        )


class _Folding:
    """Collects the changed weights of a model, and what stands against them."""

    def __init__(self, model: Any, readers: Mapping[str, Readers]) -> None:
        self.model = model
        self.reasons: dict[str, str] = {}
        self._readers = readers
        self._changed: dict[str, Tensor] = {}
        self._needs: dict[str, list[str]] = {}  # for each site, layers that lack a bias
        self._modules = dict(model.named_modules())
        self._names = {id(module): name for name, module in self._modules.items()}
        self._owners: dict[int, list[str]] = {}
        for name, module in self._modules.items():
            for parameter in module.parameters(recurse=False):
                self._owners.setdefault(id(parameter), []).append(name)

    def add(self, site: str, one: ActivationMap, strength: float) -> None:
        """Folds one map, or notes why it cannot be."""
        name, output = split_site(site)
        module = find_module(self.model, name)
        try:
            if isinstance(one, AffineMap):
                self._add_affine(site, module, one, strength)
                return
            self._refuse_unread(site, output)
            if not isinstance(one, LowRankMap):
                raise Obstacle(f"{one.KIND} maps are not affine")
            self._fold_low_rank(module, one, strength)
        except Obstacle as obstacle:
            self.reasons[site] = str(obstacle)

    def _add_affine(self, site: str, module: Any, one: AffineMap, strength: float) -> None:
        scale = 1 + strength * (one.scale.cpu().double() - 1)
        shift = strength * one.shift.cpu().double()
        if bool((scale == 1).all()) and not bool(shift.any()):
            return
        if one.is_bounded:
            raise Obstacle("maps with a support are not affine (fit with --support none)")
        self._refuse_unread(site, split_site(site)[1])
        if isinstance(module, LINEAR_LAYERS):
            self._fold_linear(site, module, scale, shift)
        else:
            self._fold_norm(site, module, scale, shift)

    def _refuse_unread(self, site: str, output: int) -> None:
        if output or site not in self._readers:
            raise Obstacle("only the first output of modules that run is a weight's")

    def missing_biases(self) -> set[str]:
        """Linear layers that need a bias and have none."""
        return {name for names in self._needs.values() for name in names}

    def refuse_inexpressible(self, added: set[str]) -> None:
        config = type(self.model.config).__name__
        for site, names in self._needs.items():
            if lacking := [name for name in names if name not in added]:
                self.reasons.setdefault(
                    site, f"{config} cannot express a bias of {', '.join(_last_parts(lacking))}"
                )

    def folded_model(self, config_changes: Mapping[str, bool], added: set[str]) -> Any:
        """The changed model; weights that stay the same are shared with the original."""
        changed_ids = {id(self._parameter(key)) for key in self._changed if self._has(key)}
        kept = [*self.model.parameters(), *self.model.buffers()]
        memo: dict[int, Any] = {id(one): one for one in kept if id(one) not in changed_ids}
        folded = copy.deepcopy(self.model, memo)
        for flag, chosen in config_changes.items():
            setattr(folded.config.get_text_config(), flag, chosen)
        for name in added:
            layer = folded.get_submodule(name)
            rows = layer.weight.shape[0]
            layer.bias = torch.nn.Parameter(layer.weight.new_zeros(rows), requires_grad=False)
        for key, value in self._changed.items():
            module, parameter = key.rsplit(".", 1)
            held: Tensor = getattr(folded.get_submodule(module), parameter)
            held.data = value.to(held.device, held.dtype)
        return folded

    def _fold_linear(self, site: str, module: Any, scale: Tensor, shift: Tensor) -> None:
        name = self._names[id(module)]
        if bool((scale != 1).any()):
            self._refuse_shared(module.weight, name)
            rows = scale if isinstance(module, Conv1D) else scale[:, None]
            weight = self._value(f"{name}.weight") * rows
            # Matrices are rounded at once: in double precision a model's would fill the memory.
            self._changed[f"{name}.weight"] = weight.to(module.weight.dtype)
        bias = self._bias(name)
        if bias is not None or bool(shift.any()):
            before = torch.zeros_like(shift) if bias is None else bias
            self._set_bias(site, name, before * scale + shift)

    def _fold_low_rank(self, module: Any, one: LowRankMap, strength: float) -> None:
        """Moves what a layer returns of each input: W becomes W + λ U V W, b + λ U (V b + c) b."""
        if not strength:
            return
        if not isinstance(module, (*LINEAR_LAYERS, torch.nn.Embedding)):
            raise Obstacle(
                f"{type(module).__name__} has no weight that mixes its neurons, as linear layers "
                "and embeddings have"
            )
        name = self._names[id(module)]
        up, down, bias = (strength * one.up, one.down, one.bias)
        up, down, bias = (part.cpu().double() for part in (up, down, bias))
        self._refuse_shared(module.weight, name)
        weight = self._value(f"{name}.weight")
        embeds = isinstance(module, torch.nn.Embedding)
        turned = embeds or isinstance(module, Conv1D)  # a row for each input
        columns = weight.T if turned else weight
        moved = columns + up @ (down @ columns + (bias[:, None] if embeds else 0.0))
        moved = moved.T.contiguous() if turned else moved
        self._changed[f"{name}.weight"] = moved.to(module.weight.dtype)
        before = None if embeds else self._bias(name)
        if before is not None or (not embeds and bool(bias.any())):
            before = torch.zeros_like(up[:, 0]) if before is None else before
            self._set_bias(name, name, before + up @ (down @ before + bias))

    def _fold_norm(self, site: str, module: Any, scale: Tensor, shift: Tensor) -> None:
        name = self._names[id(module)]
        changes = norm_parameters(module, scale, shift)
        for parameter, value in changes.items():
            self._refuse_shared(getattr(module, parameter), name)
            self._changed[f"{name}.{parameter}"] = value
        if bool(shift.any()) and "bias" not in changes:
            self._shift_readers(site, shift)

    def _shift_readers(self, site: str, shift: Tensor) -> None:
        readers = self._readers[site]
        if readers.operations or not readers.linears:
            what = ", ".join(f"{one!r}" for one in readers.operations) or "nothing"
            raise Obstacle(
                f"its shift has no bias to go into: the output is read by {what}, not by linear "
                "layers only"
            )
        if readers.shared:
            raise Obstacle(f"{', '.join(readers.shared)} also read other tensors")
        for reader in readers.linears:
            weight = self._value(f"{reader}.weight")
            if isinstance(self._modules[reader], Conv1D):
                weight = weight.T
            moved = weight @ shift
            bias = self._bias(reader)
            self._set_bias(site, reader, moved if bias is None else bias + moved)

    def _set_bias(self, site: str, name: str, value: Tensor) -> None:
        module = self._modules[name]
        if module.bias is None:
            self._needs.setdefault(site, []).append(name)
        else:
            self._refuse_shared(module.bias, name)
        self._changed[f"{name}.bias"] = value

    def _refuse_shared(self, parameter: Tensor, name: str) -> None:
        if others := [owner for owner in self._owners[id(parameter)] if owner != name]:
            raise Obstacle(f"its weights are shared with {', '.join(others)}")

    def _bias(self, name: str) -> Tensor | None:
        key = f"{name}.bias"
        if self._modules[name].bias is None and key not in self._changed:
            return None
        return self._value(key)

    def _value(self, key: str) -> Tensor:
        """The weight as it stands after the folds so far, in double precision."""
        held = self._changed[key] if key in self._changed else self._parameter(key)
        return held.detach().cpu().double()  # some devices know no double precision

    def _has(self, key: str) -> bool:
        module, parameter = key.rsplit(".", 1)
        return getattr(self._modules[module], parameter) is not None

    def _parameter(self, key: str) -> Tensor:
        module, parameter = key.rsplit(".", 1)
        return getattr(self._modules[module], parameter)


def _last_parts(names: list[str]) -> list[str]:
    """The ends of the names, once each: every layer repeats them."""
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
