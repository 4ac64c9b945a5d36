"""The numbers that are attributed: what a model says of an example, as one real value.

Source: arXiv:2404.11534, section 2 and appendix C (margins of classes, mean margins of tokens).
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def margin(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """The logit of the right class minus the largest of the others.

    It is above zero where the prediction is right.

    Args:
        logits: Of two classes at least.
        labels: The right classes.

    Raises:
        ValueError: If there is but one class.
    """
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits: {logits.shape[1]} classes have no margin between them: give two or more"
        )
    logits, places = logits.float(), labels[:, None]
    others = logits.scatter(1, places, -float("inf")).max(1).values
    return logits.gather(1, places)[:, 0] - others


def log_likelihood(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Log-probability of the right class, in nats."""
    return logits.float().log_softmax(1).gather(1, labels[:, None])[:, 0]


def choice_margin(
    log_likelihoods: Float[Tensor, "rows choices"], right: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Log-likelihood of the right choice minus the largest of the others, in nats.

    Args:
        log_likelihoods: Of each question's choices; where there are fewer, -inf behind them.
        right: The place of the right one.

    Raises:
        ValueError: If there is but one choice.
    """
    return margin(log_likelihoods, right)


def mean_token_margin(
    logits: Float[Tensor, "tokens vocabulary"],
    tokens: Int[Tensor, " tokens"],
    texts: Int[Tensor, " tokens"],
) -> Float[Tensor, " texts"]:
    """Mean over a text's tokens of the margin of each, given those before it.

    Args:
        logits: Those that predict each token.
        tokens: The tokens.
        texts: The text that each belongs to, counted from 0.

    Raises:
        ValueError: If a text before the last one has no token.
    """
    counts = texts.bincount()
    if not counts.all():
        raise ValueError(
            f"texts: no token belongs to text {int(counts.argmin())}: leave that text out"
        )
    margins = margin(logits, tokens)
    return margins.new_zeros(len(counts)).index_add(0, texts, margins) / counts
