"""LRP-ε as gradient × activation: one forward and one backward pass score every layer.

In networks whose nonlinearities are ReLUs and max-pooling, LRP with the rule z_ij/(z_j + ε) in the
limit of a small ε is the product of a neuron's activation and the gradient of the logit (Ancona et
al., arXiv:1711.06104, proposition 1; Shrikumar et al., arXiv:1605.01713, section 2). It holds with
biases, which take a share and pass nothing on. Of other nonlinearities it is the first-order term
of the logit around zero, and still defined: no layer needs a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.core.errors import first_few
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.attributor import Attributor, check_scores, logits_of
from aim_plugins.modulation.hooks import change_outputs


class LRPEpsilon(Attributor):
    """LRP-ε, started at the logit of the target."""

    name = "lrp-epsilon"
    summary = "LRP-ε as gradient × activation, all layers in one pass"
    source = "Bach et al., doi:10.1371/journal.pone.0130140, eq. 58; arXiv:1711.06104, prop. 1"

    def attribute(
        self, model: nn.Module, layers: Layers, inputs: Any, targets: Int[Tensor, " inputs"]
    ) -> Float[Tensor, "inputs neurons"]:
        scores, _ = self._attribute(model, layers, inputs, targets)
        return scores

    def attribute_correct(
        self, model: nn.Module, layers: Layers, inputs: Any, labels: Int[Tensor, " inputs"]
    ) -> tuple[Float[Tensor, "correct neurons"], Int[Tensor, " correct"]]:
        # The pass that explains also predicts, so that no second one is needed.
        scores, logits = self._attribute(model, layers, inputs, labels)
        correct = logits.argmax(1) == labels
        return scores[correct.cpu()], labels[correct]

    def _attribute(
        self, model: nn.Module, layers: Layers, inputs: Any, targets: Int[Tensor, " inputs"]
    ) -> tuple[Float[Tensor, "inputs neurons"], Float[Tensor, "inputs classes"]]:
        outputs: dict[str, Tensor] = {}
        keepers = {site: _keep(outputs, site) for site in layers.names}
        with torch.inference_mode(False), torch.enable_grad(), change_outputs(model, keepers):
            logits = logits_of(model, inputs)
            chosen = logits.gather(1, targets[:, None]).sum()
        if missed := [site for site in layers.names if site not in outputs]:
            raise ValueError(f"layers {first_few(missed)} did not run in this forward pass")
        kept = [outputs[site] for site in layers.names]
        # The layers of an auxiliary head lie on no way to the logits.
        gradients = torch.autograd.grad(chosen, kept, allow_unused=True, materialize_grads=True)
        parts = [
            self.reduce(model, site, output.detach() * gradient)
            for site, output, gradient in zip(layers.names, kept, gradients, strict=True)
        ]
        scores = torch.cat(parts, 1)
        check_scores(scores, layers, self.name)
        return scores, logits.detach()


def _keep(outputs: dict[str, Tensor], site: str) -> Callable[[Tensor], Tensor]:
    def hook(output: Tensor) -> Tensor:
        if site in outputs:
            raise ValueError(
                f"layer {site!r} runs several times in one forward pass: leave it out of the layers"
            )
        # The first layers of a frozen model have no graph yet; it begins here.
        outputs[site] = output if output.requires_grad else output.detach().requires_grad_()
        # A copy, since an in-place activation behind the layer would overwrite what is kept.
        return outputs[site].clone()

    return hook
