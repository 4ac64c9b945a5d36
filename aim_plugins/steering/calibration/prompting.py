"""Prompts that ask for what steering brings about: the rivals that need no maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PromptRival:
    """A text that stands before every prompt, and before every plain text when it is paid for.

    Attributes:
        name: How tables name it.
        prefix: The text, with whatever parts it from what follows.
    """

    name: str
    prefix: str


def prompt_rivals(
    tokenizer: Any, instructions: Sequence[str], examples: Sequence[str]
) -> list[PromptRival]:
    """The prompts that methods are held against.

    Args:
        tokenizer: The model's; where it has a chat template, each instruction is given in it too,
            as a user's turn that the text answers.
        instructions: Such as "Write about the sea."
        examples: Target texts, which stand before the prompt, one a line; none for no such prompt.
    """
    rivals = []
    for number, instruction in enumerate(instructions, start=1):
        mark = f" {number}" if len(instructions) > 1 else ""
        rivals.append(PromptRival(f"instruction{mark}", f"{instruction}\n\n"))
        if getattr(tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": instruction}]
            asked = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            asked = asked.removeprefix(_written_start(tokenizer))
            rivals.append(PromptRival(f"instruction{mark} in chat", asked))
    if examples:
        lines = "".join(f"{text}\n" for text in examples)
        rivals.append(PromptRival(f"{len(examples)} examples", lines))
    return rivals


def _written_start(tokenizer: Any) -> str:
    """The token that the tokenizer writes before every text, which a template writes too."""
    start = getattr(tokenizer, "bos_token", None)
    if start is None or list(tokenizer("").input_ids[:1]) != [tokenizer.bos_token_id]:
        return ""
    return start
