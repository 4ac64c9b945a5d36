"""What steering costs on plain text: how far next-token distributions move, and the loss they give.

At every token of a text but its first, with p the plain model's distribution given the tokens
before and q the changed one's, the cost is KL(p || q) = sum p (log p - log q), in nats. A text that
stands before, such as an instruction, is one more change of the model: its q is given the prompt
too, and p is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.caches import keeps_positions, repeats
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.columns import Column, applied
from aim_plugins.modulation.token_weights import Layout
from aim_plugins.modulation.windows import reaches_prompt
from aim_plugins.sweep.estimates import Estimate, ratio

Tokens = Sequence[int]
PLAIN = Column()


@dataclass(frozen=True)
class Changed:
    """A changed model: other activations, a text before every text, or both.

    Attributes:
        column: What is changed of the model.
        prefix: Token ids that stand before every text.
    """

    column: Column = PLAIN
    prefix: tuple[int, ...] = ()

    @property
    def identity(self) -> list[object]:
        """What tells it from others, in the keys of records."""
        return [self.column.fingerprint, list(self.prefix)]

    @property
    def kind(self) -> tuple[object, ...]:
        """What is changed, at whatever strength."""
        changes = tuple((change.name, change.fingerprint) for change in self.column.forward)
        return changes, self.prefix


UNCHANGED = Changed()


@dataclass(frozen=True)
class TextCosts:
    """Costs of a changed model, by text.

    Attributes:
        divergences: Sum of KL over the tokens of each text, in nats.
        losses: Negative log-likelihood of each text under the changed model, in nats.
        reference_losses: The same under the model that it is held against.
        tokens: Tokens of each text that were predicted.
    """

    divergences: tuple[float, ...]
    losses: tuple[float, ...]
    reference_losses: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def divergence(self) -> Estimate:
        """KL in nats per token, with its standard error over texts."""
        return _per_token(self.divergences, self.tokens)

    @property
    def growth(self) -> Estimate:
        """Log of the ratio of perplexities, with its standard error over texts."""
        pairs = zip(self.losses, self.reference_losses, strict=True)
        return _per_token([one - other for one, other in pairs], self.tokens)


def _per_token(values: Sequence[float], tokens: Sequence[int]) -> Estimate:
    if not all(map(math.isfinite, values)):
        return Estimate(math.inf, None, len(tokens))
    return ratio(values, tokens)


def encode_texts(engine: HuggingFaceEngine, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts.

    Raises:
        ValueError: If one has less than two tokens, or more than the model's window.
    """
    encoded = [list(engine.tokenizer(text).input_ids) for text in texts]
    for text, tokens in zip(texts, encoded, strict=True):
        if not 2 <= len(tokens) <= engine.max_length:
            raise ValueError(
                f"the plain text {text[:40]!r} has {len(tokens)} tokens: give texts of 2 to "
                f"{engine.max_length}, the model's window"
            )
    return encoded


def measure_costs(
    engine: HuggingFaceEngine,
    texts: Sequence[Tokens],
    changed: Sequence[Changed],
    *,
    reference: Changed = UNCHANGED,
    batch_size: int = 8,
) -> list[TextCosts]:
    """Costs of changed models on texts, from one pass of the reference for all of them.

    Strengths of one change are rows of one batch. A batch of texts that the engine's journal holds
    is not computed again.

    Args:
        engine: Runs the model.
        texts: Token ids of each text, at least two.
        changed: The changed models.
        reference: What they are held against.
        batch_size: Rows of a forward pass, texts times strengths.

    Returns:
        The costs of each, in its order; those of a model that a change broke are infinite.
    """
    found: list[dict[int, tuple[float, float, float]]] = [{} for _ in changed]
    for members in _batches(texts, batch_size):
        rows = [texts[index] for index in members]
        keys = [_key(engine, rows, one, reference) for one in changed]
        known = [None if engine.journal is None else engine.journal.read_batch(key) for key in keys]
        missing = [place for place, record in enumerate(known) if record is None]
        answers = {place: record["costs"] for place, record in enumerate(known) if record}
        for place, costs in _compute(
            engine, rows, [changed[place] for place in missing], reference, batch_size
        ):
            answers[missing[place]] = costs
            if engine.journal is not None:
                engine.journal.write_batch(keys[missing[place]], {"costs": costs})
        for place, costs in answers.items():
            for index, (divergence, loss, plain) in zip(members, costs, strict=True):
                found[place][index] = divergence, loss, plain
    counts = tuple(len(tokens) - 1 for tokens in texts)
    by_text = [[one[index] for index in range(len(texts))] for one in found]
    return [_by_kind(one, counts) for one in by_text]


def _by_kind(rows: Sequence[tuple[float, float, float]], counts: tuple[int, ...]) -> TextCosts:
    divergences, losses, reference_losses = zip(*rows, strict=True)
    return TextCosts(divergences, losses, reference_losses, counts)


def _batches(texts: Sequence[Tokens], size: int) -> Iterator[list[int]]:
    """Indices of texts of like length."""
    order = sorted(range(len(texts)), key=lambda index: (-len(texts[index]), list(texts[index])))
    yield from (order[start : start + size] for start in range(0, len(order), size))


def _key(
    engine: HuggingFaceEngine, rows: Sequence[Tokens], one: Changed, reference: Changed
) -> str:
    return fingerprint(
        {
            "kind": "costs",
            "model": engine.fingerprint,
            "changed": one.identity,
            "reference": reference.identity,
            "texts": [list(row) for row in rows],
        }
    )


def _compute(
    engine: HuggingFaceEngine,
    rows: Sequence[Tokens],
    changed: Sequence[Changed],
    reference: Changed,
    batch_size: int,
) -> Iterator[tuple[int, list[list[float]]]]:
    """Costs of each changed model on a batch of texts: divergence, loss and reference loss."""
    if not changed:
        return
    [plain] = log_probabilities(engine, rows, [reference])
    targets = torch.cat([torch.tensor(list(row[1:])) for row in rows])[:, None].to(plain.device)
    weights, plain_losses = plain.exp(), -plain.gather(1, targets)
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, one in enumerate(changed):
        groups.setdefault(one.kind, []).append(place)
    step = max(1, batch_size // len(rows))
    for members in groups.values():
        for start in range(0, len(members), step):
            part = members[start : start + step]
            for place, moved in zip(
                part, log_probabilities(engine, rows, [changed[one] for one in part]), strict=True
            ):
                parts = torch.stack(
                    [
                        (weights * (plain - moved)).sum(1),
                        -moved.gather(1, targets)[:, 0],
                        plain_losses[:, 0],
                    ]
                )
                yield place, _by_text(parts.nan_to_num(nan=torch.inf), rows)


def _by_text(values: Float[Tensor, "kinds tokens"], rows: Sequence[Tokens]) -> list[list[float]]:
    """Sums over the tokens of each text, in float64."""
    parts = values.cpu().double().split([len(row) - 1 for row in rows], dim=1)
    return [part.sum(1).tolist() for part in parts]


def behind(prefix: Sequence[int], tokens: Sequence[int], start: int | None) -> list[int]:
    """Tokens behind a prefix.

    Args:
        prefix: Token ids of what stands before; may be empty.
        tokens: Token ids of a text.
        start: The token that the tokenizer writes before every text, whose place the prefix takes.

    >>> behind((1, 7), (1, 5, 6), start=1), behind((7,), (5, 6), start=None)
    ([1, 7, 5, 6], [7, 5, 6])
    """
    cut = int(bool(prefix) and tokens[0] == prefix[0] == start)
    return [*prefix, *tokens[cut:]]


def prefix_tokens(engine: HuggingFaceEngine, text: str) -> tuple[int, ...]:
    """Token ids of a text that is put before others."""
    return tuple(engine.tokenizer(text).input_ids)


def log_probabilities(
    engine: HuggingFaceEngine, rows: Sequence[Tokens], changed: Sequence[Changed]
) -> list[Float[Tensor, "tokens vocab"]]:
    """Log-probabilities of next tokens within texts, under models that share their prefix.

    Args:
        engine: Runs the model.
        rows: Token ids of the texts.
        changed: The changed models; all have the same prefix.

    Returns:
        For each model, in the order of texts and tokens: after the first token of a text, after the
        second, and so on, up to the one before its last. NaN where a change broke the model.

    Raises:
        ValueError: If a text is too long behind the prefix.
    """
    [prefix] = {one.prefix for one in changed}
    start = engine.tokenizer.bos_token_id
    own = [torch.tensor(behind(prefix, row, start)[:-1]) for row in rows]
    first = len(own[0]) - len(rows[0]) + 1
    padded = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
    if padded.shape[1] > engine.max_length:
        raise ValueError(
            f"a plain text of {padded.shape[1]} tokens, with the prompt before it, is longer than "
            f"the model's window of {engine.max_length}: shorten the text or the prompt"
        )
    counted = torch.zeros_like(padded, dtype=torch.bool)
    for place, row in enumerate(own):
        counted[place, first : len(row)] = True
    changes = [one.column.forward for one in changed for _ in rows]
    with torch.no_grad():
        cache = _read_prefix(engine, padded[:1, :first], changed)
        read, given = 0, {}
        if cache is not None:
            cache.batch_repeat_interleave(len(rows))
            read, given = first, {"past_key_values": cache}
        token_ids = padded[:, read:].repeat(len(changed), 1).to(engine.device)
        # All of a plain text counts as decoded.
        layout = Layout(torch.full((len(changes),), first + 1), cached=read)
        with applied(engine.model, changes, layout):
            logits = engine.model(token_ids, **given).logits
    parts = logits[:, -token_ids.shape[1] :].split(len(rows))
    own_tokens = counted[:, read:].to(logits.device)
    return [part[own_tokens].float().log_softmax(-1) for part in parts]


def _read_prefix(
    engine: HuggingFaceEngine, prefix: Int[Tensor, "1 tokens"], changed: Sequence[Changed]
) -> Any | None:
    """Keys and values of what stands before all texts, a row for each changed model.

    Changes of later tokens begin behind it. None without a prefix, and of models whose cache
    cannot be repeated over texts, such as state-space models.
    """
    if not prefix.shape[1] or keeps_positions(engine.model):
        return None
    reading = [
        tuple(change for change in one.column.forward if reaches_prompt(change.positions))
        for one in changed
    ]
    token_ids = prefix.repeat(len(changed), 1).to(engine.device)
    layout = Layout(torch.full((len(changed),), prefix.shape[1] + 1))
    with applied(engine.model, reading, layout):
        cache = getattr(engine.model(token_ids, use_cache=True), "past_key_values", None)
    return cache if repeats(cache, prefix.shape[1]) else None
