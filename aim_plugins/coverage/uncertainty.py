"""How unsure a model is of its answers: the baseline that an order by coverage has to beat.

Source: Feng et al., "DeepGini: prioritizing massive tests to enhance the robustness of deep neural
networks", ISSTA 2020.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

Probabilities = Float[Tensor, "inputs classes"]
Scores = Float[Tensor, " inputs"]


def deep_gini(probabilities: Probabilities) -> Scores:
    """DeepGini: 1 − Σ p², the chance that two draws of the answer differ.

    Args:
        probabilities: Of the classes, by the softmax; rows sum to 1.

    Returns:
        From 0, where one class is certain, to 1 − 1/classes.

    Source:
        Feng et al. 2020, the impurity ξ(t).

    >>> import torch
    >>> deep_gini(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist()
    [0.0, 0.5]
    """
    return 1 - probabilities.square().sum(1)


def largest_first(scores: Scores) -> Int[Tensor, " inputs"]:
    """The order of inputs by falling score; equal ones by position.

    Raises:
        ValueError: If a score is not a number.
    """
    if (missing := scores.isnan()).any():
        first = int(missing.nonzero()[0])
        raise ValueError(
            f"scores of {int(missing.sum())} inputs are nan, first of input {first}: leave out "
            "inputs whose logits are not finite"
        )
    return scores.argsort(descending=True, stable=True)
