"""What a steered model writes: every prompt at every strength, in batches of both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aim_plugins.core.files import existing, write_atomic
from aim_plugins.engines.answers import Answer
from aim_plugins.engines.engine import Prompts, pad_left
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.settings.evaluation import Decoding

_REPEAT = 2**32
"""Seeds below it stay apart from the count of samples of a prompt."""


@dataclass(frozen=True)
class Generation:
    """One text.

    Attributes:
        prompt: What the model was given.
        strength: Strength of the transport.
        text: What it wrote, without the prompt.
        tokens: Token ids of the text, without an end token.
        noise_std: Standard deviation of the noise on the logits beside the transport.
    """

    prompt: str
    strength: float
    text: str
    tokens: list[int]
    noise_std: float = 0.0


def generate_texts(
    engine: HuggingFaceEngine,
    prompts: Sequence[str],
    columns: Sequence[Column],
    decoding: Decoding,
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> list[Generation]:
    """Continues every prompt at every strength.

    A batch holds `batch_size` prompts under all columns, so all strengths cost about one decoding.

    Args:
        engine: Runs the model.
        prompts: The prompts.
        columns: One for each strength.
        decoding: How to decode.
        batch_size: Prompts in a batch.
        progress: Whether to show a progress bar, in prompts.

    Returns:
        Texts in the order of the columns, and for each of the prompts.

    Raises:
        ValueError: If there is no prompt, or one leaves no room for a text.
    """
    encoded = encode_prompts(engine, prompts, decoding)
    ends = _end_tokens(engine)
    answers: dict[int, list[Answer]] = {}
    # Prompts of like length stand together, where they need little padding.
    order = sorted(range(len(prompts)), key=lambda index: (-len(encoded[index]), encoded[index]))
    label = f"Generating, {len(columns)} strengths"
    asked: Counter[tuple[int, ...]] = Counter()
    with tqdm(total=len(prompts), disable=not progress, desc=label, unit="prompt") as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            # A prompt may be given many times, to sample as many texts.
            occurrences = []
            for prompt in (tuple(encoded[index]) for index in chosen):
                occurrences.append(decoding.seed + _REPEAT * asked[prompt])
                asked[prompt] += 1
            batch = pad_left([encoded[index] for index in chosen], _padding(engine))
            table = engine.generate(
                Prompts(batch.token_ids.to(engine.device), batch.mask.to(engine.device)),
                columns,
                max_length=batch.token_ids.shape[1] + decoding.max_new_tokens,
                occurrences=occurrences,
                pad_token_id=_padding(engine),
                **decoding.decoding,
            )
            answers.update(zip(chosen, table, strict=True))
            bar.update(len(chosen))
    return [
        _generation(engine.tokenizer, prompt, column, until(answers[row][index], ends))
        for index, column in enumerate(columns)
        for row, prompt in enumerate(prompts)
    ]


def encode_prompts(
    engine: HuggingFaceEngine, prompts: Sequence[str], decoding: Decoding
) -> list[list[int]]:
    """Token ids of prompts.

    Raises:
        ValueError: If there is no prompt, or one leaves no room for a text.
    """
    if not prompts:
        raise ValueError("prompts is empty: there is nothing to continue; give at least one")
    encoded = [encode_prompt(engine.tokenizer, prompt) for prompt in prompts]
    room = engine.max_length - decoding.max_new_tokens
    for prompt, tokens in zip(prompts, encoded, strict=True):
        if len(tokens) > room:
            raise ValueError(
                f"the prompt {prompt[:60]!r} has {len(tokens)} tokens, and the model's window of "
                f"{engine.max_length} leaves {room} beside max_new_tokens="
                f"{decoding.max_new_tokens}: shorten it, or ask for fewer new tokens"
            )
    return encoded


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt; of an empty one the token that starts a text.

    Raises:
        ValueError: If it is empty and the tokenizer has no such token.
    """
    tokens = list(tokenizer(prompt).input_ids)
    if tokens:
        return tokens
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    if start is None:
        raise ValueError("a prompt is empty and the tokenizer has no start token: leave it out")
    return [start]


def until(tokens: Sequence[int], ends: set[int]) -> list[int]:
    """Tokens before the first end token.

    >>> until([5, 6, 2, 0, 0], {2})
    [5, 6]
    """
    first = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:first])


def write_generations(path: str | Path, generations: Iterable[Generation]) -> Path:
    """Writes texts as JSON lines, atomically."""
    # ASCII, because model text may hold lone surrogates, which UTF-8 refuses.
    lines = [json.dumps(asdict(generation)) for generation in generations]
    return write_atomic(path, "\n".join(lines) + "\n")


def read_generations(path: str | Path) -> list[Generation]:
    """Reads what `write_generations` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not a generation.
    """
    path = existing(path)
    generations = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            generations.append(Generation(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is no generation ({error}): give a file that "
                "`transport generate` wrote"
            ) from error
    return generations


def _generation(tokenizer: Any, prompt: str, column: Column, tokens: list[int]) -> Generation:
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    asked = column.settings
    return Generation(prompt, asked.get("strength", 0.0), text, tokens, asked.get("noise_std", 0.0))


def _end_tokens(engine: HuggingFaceEngine) -> set[int]:
    ids = engine.model.generation_config.eos_token_id
    return set(ids if isinstance(ids, list) else [ids]) - {None}


def _padding(engine: HuggingFaceEngine) -> int:
    for token in (engine.tokenizer.pad_token_id, engine.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
