"""Fresh masks, which nothing was fitted to, and how well attributions predict what they do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aim_plugins.attribution.evaluation import correlations, fresh_masks
from vision_bench.attribution.findings import Method
from vision_bench.attribution.settings import AttributionSettings
from vision_bench.attribution.truth import Truth


class Fresh:
    """Fresh masks, the true outputs under them, and how well weights predict these.

    Args:
        truth: Where outputs come from.
        components: How many components there are.
        settings: How many masks, of which shares.

    Attributes:
        masks: Which components each mask ablates, by share.
        outputs: True outputs, by share.
        whole: Outputs of the whole model.
        varied: Images whose outputs differ between masks, at every share.
    """

    masks: Mapping[float, Bool[np.ndarray, "masks components"]]
    outputs: Mapping[float, Float[Tensor, "masks images"]]

    def __init__(self, truth: Truth, components: int, settings: AttributionSettings) -> None:
        self.masks = {
            alpha: fresh_masks(components, alpha, settings.eval_masks, settings.seed)
            for alpha in settings.eval_alphas
        }
        self.outputs = {
            alpha: truth.under(f"fresh masks of {alpha!r}", ablated)
            for alpha, ablated in self.masks.items()
        }
        self.whole = truth.kept("whole", lambda: truth.subject.whole()[None])[0][0]
        differ = torch.stack([(one != one[0]).any(0) for one in self.outputs.values()]).all(0)
        self.varied: list[int] = differ.nonzero()[:, 0].tolist()
        if not self.varied:
            raise ValueError(
                f"patterns={list(settings.patterns)}: ablating these components changes no output: "
                "choose others"
            )

    def method(
        self, name: str, passes: float, weights: Float[Tensor, "images components"]
    ) -> Method:
        """How well weights predict; one that predicts the same of every mask does not at all."""
        found = {}
        for alpha, ablated in self.masks.items():
            own = correlations(weights[self.varied], ablated, self.outputs[alpha][:, self.varied])
            found[alpha] = [0.0 if math.isnan(one) else one for one in own.tolist()]
        return Method(name, passes, found)
