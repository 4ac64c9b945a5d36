"""Captum's attributors of layers, by the short names of the WISDOM tool.

Each explains one layer at a time, and most run the model many times for it. Captum attaches hooks
and attributes to modules and leaves some behind after an error, so a model is restored here.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.attributor import (
    Attributor,
    check_scores,
    logits_of,
)
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.sites import split_site

_SEED = 0
"""Of GradientShap's random points: the same batch gets the same scores."""

_VALUES_AT_ONCE = 2**22
"""Values of inputs between baseline and input that a model gets at once: 27 images of ImageNet."""

_EXPLODED = 1e3
"""Relevance is shared out, not made: a layer's sum is near a logit, but for shares of biases."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class CaptumAttributor(Attributor):
    """An attributor of captum.

    Args:
        reduction: See `Attributor`.
        baseline: Value of every input feature that stands for an input without content; only some
            compare with one. Images normalised within the model: 0 is black.

    Attributes:
        captum_name: Its class in `captum.attr`.
    """

    captum_name: ClassVar[str]

    def __init__(self, reduction: str = "mean", baseline: float = 0.0) -> None:
        super().__init__(reduction)
        self.baseline = baseline

    def attribute(
        self, model: nn.Module, layers: Layers, inputs: Any, targets: Int[Tensor, " inputs"]
    ) -> Float[Tensor, "inputs neurons"]:
        kind = _load(self.name, self.captum_name)
        if isinstance(inputs, Mapping) or not inputs.is_floating_point():
            raise ValueError(
                f"attributor={self.name!r} moves inputs towards a baseline, which only a tensor "
                "of numbers allows: choose 'lrp-epsilon'"
            )
        parts = []
        for site in layers.names:
            name, item = split_site(site)
            with _restored(model), _seeded(), torch.enable_grad(), self._explaining(model):
                scores = kind(model, find_module(model, name)).attribute(
                    inputs, **self.arguments(inputs, targets)
                )
            one = scores if isinstance(scores, Tensor) else scores[item]
            self.check_layer(model, site, one, inputs)
            parts.append(self.reduce(model, site, one))
        scores = torch.cat(parts, 1)
        check_scores(scores, layers, self.name)
        return scores

    def arguments(self, inputs: Tensor, targets: Int[Tensor, " inputs"]) -> dict[str, Any]:
        """What captum's `attribute` gets besides the inputs."""
        return {"target": targets}

    def baselines(self, inputs: Tensor, count: int) -> Tensor:
        """Inputs without content."""
        return torch.full_like(inputs[:1], self.baseline).expand(count, *inputs.shape[1:]).clone()

    @contextlib.contextmanager
    def _explaining(self, model: nn.Module) -> Iterator[None]:
        try:
            yield
        except (TypeError, RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(
                f"attributor={self.name!r}: captum's {self.captum_name} cannot explain "
                f"{type(model).__name__}{self.hint()}: choose 'lrp-epsilon', which explains any "
                f"model ({reason})"
            ) from error

    def hint(self) -> str:
        """The usual reason for which captum refuses a model."""
        return ""

    def check_layer(
        self, model: nn.Module, site: str, scores: Float[Tensor, "inputs ..."], inputs: Tensor
    ) -> None:
        """Refuses scores of a layer that cannot be right; most attributors know of none.

        Raises:
            ValueError: If they are.
        """


class _OnTheWay(CaptumAttributor):
    """One that integrates on the straight way from the baseline, in 50 steps."""

    def arguments(self, inputs: Tensor, targets: Int[Tensor, " inputs"]) -> dict[str, Any]:
        rows = max(len(inputs), _VALUES_AT_ONCE // max(1, inputs[0].numel()))
        baselines = self.baselines(inputs, len(inputs))
        return {"target": targets, "baselines": baselines, "internal_batch_size": rows}


class Conductance(_OnTheWay):
    name, captum_name = "lc", "LayerConductance"
    summary = "flow of integrated gradients through a neuron"
    source = "Dhamdhere et al., arXiv:1805.12233"


class Activation(CaptumAttributor):
    name, captum_name = "la", "LayerActivation"
    summary = "the activation itself, whatever it does to a logit"
    source = "captum"

    def arguments(self, inputs: Tensor, targets: Int[Tensor, " inputs"]) -> dict[str, Any]:
        return {}


class Influence(_OnTheWay):
    name, captum_name = "ii", "InternalInfluence"
    summary = "gradient of a neuron, averaged on the way from the baseline"
    source = "Leino et al., arXiv:1802.03788"


class IntegratedGradients(_OnTheWay):
    name, captum_name = "lig", "LayerIntegratedGradients"
    summary = "integrated gradients of a layer, from the layer's own baseline"
    source = "Sundararajan et al., arXiv:1703.01365"


class DeepLift(CaptumAttributor):
    name, captum_name = "ldl", "LayerDeepLift"
    summary = "difference from the baseline, by DeepLIFT's rescale rule"
    source = "Shrikumar et al., arXiv:1704.02685"

    def arguments(self, inputs: Tensor, targets: Int[Tensor, " inputs"]) -> dict[str, Any]:
        return {"target": targets, "baselines": self.baselines(inputs, len(inputs))}

    def hint(self) -> str:
        return ", as where a module runs twice in one pass"


class DeepLiftShap(DeepLift):
    """DeepLIFT averaged over baselines; with a single baseline value it equals DeepLIFT."""

    name, captum_name = "ldls", "LayerDeepLiftShap"
    summary = "DeepLIFT averaged over baselines"
    source = "Lundberg and Lee, arXiv:1705.07874"

    def arguments(self, inputs: Tensor, targets: Int[Tensor, " inputs"]) -> dict[str, Any]:
        # Captum pairs every input with every baseline and wants two or more; all are alike.
        return {"target": targets, "baselines": self.baselines(inputs, 2)}


class GradientShap(DeepLiftShap):
    name, captum_name = "lgs", "LayerGradientShap"
    summary = "gradients at random points between baseline and input, drawn by place in the batch"
    source = "Lundberg and Lee, arXiv:1705.07874; captum"

    def hint(self) -> str:
        return ""


class CaptumLRP(CaptumAttributor):
    """Captum's LRP-ε: `LRPEpsilon` gives the same on ReLU networks, for every layer at once.

    It sees only modules: where a model adds or concatenates by a function, its relevance explodes
    without an error, by many powers of ten in torchvision's ResNets, and is refused here.
    """

    name, captum_name = "lrp", "LayerLRP"
    summary = "LRP-ε by captum's rules for modules"
    source = "Bach et al., doi:10.1371/journal.pone.0130140, eq. 58"

    def hint(self) -> str:
        return ", as where a module has no rule (Flatten, LayerNorm, GELU, ...)"

    def check_layer(
        self, model: nn.Module, site: str, scores: Float[Tensor, "inputs ..."], inputs: Tensor
    ) -> None:
        with torch.no_grad():
            largest = float(logits_of(model, inputs).abs().max())
        total = float(scores.detach().double().flatten(1).sum(1).abs().max())
        if total > _EXPLODED * largest:
            raise ValueError(
                f"attributor={self.name!r}: the relevance of {site!r} adds up to {total:.1e} and "
                f"no logit exceeds {largest:.1e}, since captum's rules do not see what "
                f"{type(model).__name__} adds or concatenates outside modules: choose 'lrp-epsilon'"
            )


CAPTUM_ATTRIBUTORS: tuple[type[CaptumAttributor], ...] = (
    Conductance,
    Activation,
    Influence,
    DeepLift,
    DeepLiftShap,
    GradientShap,
    IntegratedGradients,
    CaptumLRP,
)


def _load(name: str, captum_name: str) -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError(
            f"attributor={name!r} needs captum: pip install 'aim-plugins[coverage]'"
        ) from error
    return getattr(captum.attr, captum_name)


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Takes from a model whatever hooks and attributes it gets while the block runs.

    In-place activations write to copies meanwhile: captum would read what they overwrite.
    """
    before = [
        (one, dict(vars(one)), {hooks: dict(vars(one)[hooks]) for hooks in _HOOKS})
        for one in model.modules()
    ]
    for one, attributes, _ in before:
        if attributes.get("inplace") is True:
            vars(one)["inplace"] = False
    try:
        yield
    finally:
        for one, attributes, hooks in before:
            vars(one).clear()
            vars(one).update(attributes)
            for name, former in hooks.items():
                # Emptied and filled, not replaced: handles of others refer to the dictionary.
                vars(one)[name].clear()
                vars(one)[name].update(former)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    # Captum draws from torch's and from numpy's generator of the process.
    state = np.random.get_state()
    with torch.random.fork_rng(), warnings.catch_warnings():
        # Captum announces the hooks that it sets, which `_restored` removes.
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(_SEED)
        np.random.seed(_SEED)
        try:
            yield
        finally:
            np.random.set_state(state)
