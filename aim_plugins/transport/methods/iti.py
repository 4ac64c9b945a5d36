"""ITI: a shift along the normal of a linear probe."""

from __future__ import annotations

import torch
from torch import Tensor

from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import probe_direction


class ITI(Method):
    """ITI-c: T(x) = x + σ θ, along the direction θ of a linear probe.

    The probe is a logistic regression of target against source on the module's standardised
    activations; θ is its unit normal in activation space and points from source to target. σ is
    the standard deviation of all samples projected on θ. λ is the paper's α (15 for LLaMA-7B), so
    useful strengths may well exceed 1.

    Source: arXiv 2306.03341, section 4. There a probe belongs to one attention head, only the heads
    whose probes are most accurate on held-out data (48 of LLaMA-7B's) are shifted, and the main
    results take the difference of means for θ; the probe's normal is the variant that the AcT paper
    calls ITI-c. Here every chosen module's output is probed and shifted as a whole.
    """

    name = "iti"
    title = "ITI-c"
    joint = True
    aimed = False
    pooling = "last"
    positions = "last"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        samples = torch.cat([source, target]).cpu()
        direction = probe_direction(samples, len(source))
        deviation = (samples @ direction).std(correction=0)
        return torch.ones_like(source[0]), (deviation * direction).to(source.device)
