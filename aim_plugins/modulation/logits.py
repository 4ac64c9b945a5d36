"""Modulations of logits, as logits processors for `model.generate` of transformers.

*Utility modulation* adds N(mean, std²) to every logit and so trades quality against std; *focus
modulation* adds a half-normal amount to chosen tokens only. The noise is keyed by the prefix (see
`aim_plugins.modulation.noise`), so the processors hold no state: they hash `input_ids` anew at
each step, which keeps them right when beam search reorders its rows.

    processor = GaussianNoiseLogitsProcessor(std=0.5, attention_mask=batch["attention_mask"])
    model.generate(**batch, logits_processor=LogitsProcessorList([processor]))

Source: AIM, arXiv 2603.12755, "utility modulation" and "focus modulation".
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from transformers import LogitsProcessor

from aim_plugins.core.strengths import validate_strength
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.noise import noisy_rows, sequence_keys, standard_normal_at
from aim_plugins.modulation.placement import placed

Std = float | Sequence[float] | Float[Tensor, "..."]
Seed = int | Sequence[int] | Int[Tensor, "..."]
PromptMask = Bool[Tensor, "prompts positions"] | Int[Tensor, "prompts positions"]


def add_noise(
    logits: Float[Tensor, "rows vocab"],
    keys: Int64[Tensor, " rows"],
    std: Float[Tensor, " rows"],
    mean: float = 0.0,
    seed: int | Int[Tensor, " rows"] = 0,
) -> Float[Tensor, "rows vocab"]:
    """Adds keyed Gaussian noise: logits + mean + std·z(seed, key, token id).

    Args:
        logits: Clean logits.
        keys: Key of the prefix each row continues.
        std: Noise standard deviation of each row, in logit units; a row of std 0 is returned
            bit for bit, also where `mean` is not 0.
        mean: Noise mean, in logit units. It shifts a row's logits alike: it changes no
            probability unless another processor looks at the logits' absolute values.
        seed: Seed of the draw; one for all rows or one per row.

    Returns:
        New logits in the dtype of `logits`, computed in float32 or wider.

    Raises:
        ValueError: `seed` has another number of rows than `keys`.
    """
    seeds = seed.tolist() if isinstance(seed, Tensor) else [seed] * len(keys)
    noisy = noisy_rows(logits, keys, std.tolist(), [mean] * len(keys), seeds)
    return torch.where(std.to(logits.device)[:, None] > 0, noisy, logits)


class KeyedLogitsProcessor(LogitsProcessor):
    """Picks the rows that are modulated, and hands over their keys.

    `generate` repeats every prompt for its beams or return sequences, so a step may bring a
    multiple of the rows that settings and attention mask were given for.

    Args:
        settings: What `_modulate` needs to know of each prompt, or of all; None leaves a row as it
            is.
        attention_mask: Mask of the padded prompts.
        name: How errors call the settings.
        trusted: Whether the caller sees to it that scores are numbers. To read whether they are
            waits for the device at every token.

    Attributes:
        calls: Steps at which rows were modulated.
    """

    def __init__(
        self,
        settings: Sequence[Any],
        attention_mask: PromptMask | None,
        name: str = "std",
        *,
        trusted: bool = False,
    ) -> None:
        self.settings = list(settings)
        self.attention_mask = None if attention_mask is None else _validate_mask(attention_mask)
        self._name, self._trusted = name, trusted
        self.calls = 0

    def __call__(
        self, input_ids: Int[Tensor, "rows positions"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Modulates the scores of one step.

        Args:
            input_ids: Prompt and tokens generated so far.
            scores: Scores of the next token.

        Returns:
            The same tensor where every row stays as it is, else a new one of the same dtype.

        Raises:
            ValueError: The rows are no multiple of those of settings or attention mask, the mask is
                longer than `input_ids`, or a score is NaN and not trusted.
        """
        settings = _expand(self.settings, len(scores), self._name)
        active = [row for row, setting in enumerate(settings) if setting is not None]
        if not active:
            return scores
        self.calls += 1
        if not self._trusted:
            # A maximum propagates NaN: one read of the scores, and a flag per row.
            refuse_nan(scores.amax(dim=1).isnan())
        mask = self._expanded_mask(input_ids)
        if len(active) == len(scores):
            return self._modulate(sequence_keys(input_ids, mask), scores, settings)
        index = placed(active, torch.int64, input_ids.device)
        keys = sequence_keys(input_ids[index], None if mask is None else mask[index])
        index = index.to(scores.device)
        changed = self._modulate(keys, scores[index], [settings[row] for row in active])
        return scores.index_copy(0, index, changed)

    def _expanded_mask(self, input_ids: Tensor) -> Tensor | None:
        if self.attention_mask is None:
            return None
        mask = self.attention_mask = self.attention_mask.to(input_ids.device)
        generated = input_ids.shape[1] - mask.shape[1]
        if generated < 0:
            raise ValueError(
                f"attention_mask has {mask.shape[1]} positions but input_ids only "
                f"{input_ids.shape[1]}; pass the mask of the prompts of this call of generate"
            )
        mask = mask.repeat_interleave(_copies(len(mask), len(input_ids), "attention_mask"), dim=0)
        # Whatever follows the prompt was generated, and is a token.
        return torch.nn.functional.pad(mask, (0, generated), value=1)

    def _modulate(self, keys: Tensor, scores: Tensor, settings: list[Any]) -> Tensor:
        raise NotImplementedError


class ChangedLogits(KeyedLogitsProcessor):
    """Changes of one kind, each prompt by its own.

    Args:
        changes: A change of logits for each prompt, or for all; None leaves a row as it is.
        attention_mask: As in `GaussianNoiseLogitsProcessor`.
        name: As in `KeyedLogitsProcessor`.
        trusted: As there.

    Raises:
        ValueError: As in `GaussianNoiseLogitsProcessor`.
    """

    def __init__(
        self,
        changes: Sequence[Change | None],
        *,
        attention_mask: PromptMask | None = None,
        name: str = "std",
        trusted: bool = False,
    ) -> None:
        super().__init__(changes, attention_mask, name, trusted=trusted)

    def _modulate(self, keys: Tensor, scores: Tensor, settings: list[Change]) -> Tensor:
        return type(settings[0]).modulate_rows(scores, keys, settings)


class GaussianNoiseLogitsProcessor(ChangedLogits):
    """Utility modulation: adds N(mean, std²) to every logit.

    In beam search transformers passes log-probabilities through the processors, so the noise is
    added to those; sampling and greedy search pass logits.

    Args:
        std: Noise standard deviation in logit units: one, or one per prompt. 0 leaves a row
            bit-identical, and where all are 0 the very same tensor is returned.
        mean: Noise mean in logit units.
        seed: Seed of the draw: one, or one per prompt.
        attention_mask: Mask of the padded prompts, as given to `generate`. Without it padding is
            hashed like text, and a prompt's noise depends on how much padding it got.

    Raises:
        ValueError: A std is negative, NaN or infinite; `mean` is not finite; a seed is no
            integer; nothing is given for std or seed.

    Source:
        AIM, arXiv 2603.12755: l̃_j = l_j + n_j, n_j ~ N(mean, std²).
    """

    def __init__(
        self,
        std: Std,
        mean: float = 0.0,
        seed: Seed = 0,
        *,
        attention_mask: PromptMask | None = None,
    ) -> None:
        if not math.isfinite(mean):
            raise ValueError(f"mean={mean!r} is not finite; pass a number of logit units")
        name, rows = _stds_and_seeds(std, seed)
        changes = [GaussianNoise(one, float(mean), draw) if one > 0 else None for one, draw in rows]
        super().__init__(changes, attention_mask=attention_mask, name=name)


class HalfNormalFocusProcessor(KeyedLogitsProcessor):
    """Focus modulation: adds ±|n|, n ~ N(0, std²), to the logits of chosen tokens.

    Targets draw independently and share one std. With the seed of a `GaussianNoiseLogitsProcessor`
    the two would use the same draws; give them different seeds when combining them.

    Args:
        targets: Token id -> +1 (made more likely) or -1 (made less likely).
        std: Standard deviation of n in logit units: one, or one per prompt; 0 leaves a row
            bit-identical.
        seed: Seed of the draw: one, or one per prompt.
        attention_mask: As in `GaussianNoiseLogitsProcessor`.

    Raises:
        ValueError: `targets` is empty, a token id is no integer from 0 upwards, a sign is neither
            +1 nor -1, or as in `GaussianNoiseLogitsProcessor`. At the first step: a token id
            lies outside the vocabulary.

    Source:
        AIM, arXiv 2603.12755: l̃_k = l_k ± |n| on target classes k.
    """

    def __init__(
        self,
        targets: Mapping[int, int],
        std: Std,
        seed: Seed = 0,
        *,
        attention_mask: PromptMask | None = None,
    ) -> None:
        name, rows = _stds_and_seeds(std, seed)
        super().__init__([row if row[0] > 0 else None for row in rows], attention_mask, name)
        if not targets:
            raise ValueError("targets={} names no token; pass {token_id: +1 or -1}")
        for token_id, sign in targets.items():
            if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
                raise ValueError(f"targets: token id {token_id!r} is no integer from 0 upwards")
            if sign not in (1, -1):
                raise ValueError(f"targets[{token_id}]={sign!r} is no sign; pass +1 or -1")
        self.targets = dict(targets)

    def _modulate(self, keys: Tensor, scores: Tensor, settings: list[tuple[float, int]]) -> Tensor:
        beyond = [token_id for token_id in self.targets if token_id >= scores.shape[1]]
        if beyond:
            raise ValueError(
                f"targets: token ids {beyond} lie outside the vocabulary of {scores.shape[1]} "
                "tokens; take ids from this model's tokenizer"
            )
        device = scores.device
        token_ids = placed(list(self.targets), torch.int64, device)
        signs = placed(list(self.targets.values()), torch.int64, device)
        stds, seeds = zip(*settings, strict=True)
        noise = standard_normal_at(
            keys.to(device), token_ids, seed=placed(seeds, torch.int64, device)
        )
        shift = signs * (noise * placed(stds, torch.float32, device)[:, None]).abs()
        result = scores.clone()
        result[:, token_ids] = (scores[:, token_ids] + shift).to(scores.dtype)
        return result


def _stds_and_seeds(std: Std, seed: Seed) -> tuple[str, list[tuple[float, int]]]:
    """One pair for each prompt, or for all, and which of the two was given for each."""
    stds = [validate_strength(value, name="std") for value in _as_list(std, "std")]
    seeds = validate_seeds(seed)
    count, name = max((len(stds), "std"), (len(seeds), "seed"), key=lambda one: one[0])
    return name, list(zip(_expand(stds, count, "std"), _expand(seeds, count, "seed"), strict=True))


def validate_seeds(seed: Seed) -> list[int]:
    """Seeds as a list, one for each prompt or one for all.

    Raises:
        ValueError: If one is no integer, or none is given.
    """
    return [_validate_seed(value) for value in _as_list(seed, "seed")]


def _as_list(value: object, name: str) -> list:
    """One entry per prompt; a single value stands for every prompt."""
    if hasattr(value, "tolist"):  # tensors, and NumPy's arrays and numbers
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value]
    if not value:
        raise ValueError(f"{name}={value!r} is empty; pass one value, or one per prompt")
    return list(value)


def _validate_seed(value: object) -> int:
    try:
        seed = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        seed = None
    if seed is None or isinstance(value, bool) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed={value!r} is no 64-bit integer; pass a whole number such as 0")
    return seed


def _validate_mask(mask: Tensor) -> Tensor:
    if mask.dim() != 2 or mask.is_floating_point():
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} and {mask.dtype} is no matrix of "
            "integers; pass the mask given to generate, [prompts, positions]"
        )
    return mask


def _copies(prompts: int, rows: int, name: str) -> int:
    if rows % prompts:
        raise ValueError(
            f"{name} is given for {prompts} prompts, but generate works on {rows} rows, no "
            f"multiple of it; pass one value for all prompts or one per prompt"
        )
    return rows // prompts


def _expand(values: list, rows: int, name: str) -> list:
    copies = _copies(len(values), rows, name)
    return [value for value in values for _ in range(copies)]


def refuse_nan(faulty: Bool[Tensor, " rows"]) -> None:
    """Refuses scores that the model's forward pass has broken.

    Args:
        faulty: Whether the scores of each row are.

    Raises:
        ValueError: If any are.
    """
    if bool(faulty.any()):
        rows = faulty.nonzero().flatten().tolist()
        raise ValueError(
            f"scores of rows {rows} are NaN before anything is changed; the model's forward pass "
            "overflows there: load it in bfloat16 or float32"
        )
