"""RepE's reading vector: along which pairs differ most."""

from __future__ import annotations

import torch
from torch import Tensor

from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import principal_direction


class PCA(Method):
    """RepE's reading vector: T(x) = x + v, along which pairs of sentences differ most.

    v is the first principal component of the differences target less source of pairs, of length 1;
    it points to where the target's mean projects further; λ is the paper's coefficient, so useful
    strengths may well exceed 1.

    Source: arXiv 2310.01405, section 3.1 (Linear Artificial Tomography, last token) and 3.2 (linear
    combination R + v, at every token). Its code shuffles which sentence of a pair comes first
    before it centres the differences, so that their mean goes to 0 as pairs grow; here it is left
    out of the component exactly, and no draw decides. repeng's `pca_diff` centres differences that
    all point one way, and so takes from them what they have in common.
    """

    name = "pca"
    title = "RepE (PCA)"
    joint = True
    paired = True
    aimed = False
    pooling = "last"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        direction = principal_direction(source.cpu(), target.cpu())
        return torch.ones_like(source[0]), direction.to(source.device)
