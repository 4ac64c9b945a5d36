"""Concept presence: whether a text shows a concept, by a lexicon or by a judge model.

Source: arXiv 2410.23054, section 4.2 (a yes/no question to a judge model).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.files import existing
from aim_plugins.engines.engine import ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.settings.evaluation import DEFAULT_QUESTION

_SHOWN_WORDS = 6


class Lexicon:
    """Words that stand for a concept; found as whole words, whatever their case.

    Args:
        words: Words or phrases.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = sorted({_fold(word) for word in words} - {""})
        if not self.words:
            raise ValueError("the lexicon is empty: write at least one word, one a line")
        # No word character beside a word: \b would fail beside words such as "c++".
        alternatives = "|".join(re.escape(word) for word in self.words)
        self._pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")

    @classmethod
    def read(cls, path: str | Path) -> Lexicon:
        """Reads a file of words, one a line; lines that start with # are comments.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds no word.
        """
        path = existing(path, "lexicon")
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            return cls(line for line in lines if not line.lstrip().startswith("#"))
        except ValueError as error:
            raise ValueError(f"lexicon={str(path)!r}: {error}") from error

    def occurs_in(self, text: str) -> bool:
        """Tells whether a text contains a word of the lexicon.

        >>> Lexicon(["ship"]).occurs_in("SHIP ahoy!"), Lexicon(["ship"]).occurs_in("a shipment")
        (True, False)
        """
        return self._pattern.search(_fold(text)) is not None


def describe_concept(arguments: Mapping[str, Any]) -> str:
    """Names what an evaluation was told to look for: a judge's concept, or a lexicon's first words.

    >>> describe_concept({"lexicon": ["coast", "ferry"]})
    'concept of 2 words: coast, ferry'
    """
    judge, words = arguments.get("judge"), arguments.get("lexicon")
    if judge and judge.get("concept"):
        return f"concept: {judge['concept']}"
    if not words:
        return ""
    shown = ", ".join(words[:_SHOWN_WORDS]) + (", …" if len(words) > _SHOWN_WORDS else "")
    return f"concept of {len(words)} word{'' if len(words) == 1 else 's'}: {shown}"


class Judge:
    """Asks a language model whether texts show a concept.

    Args:
        engine: Runs the judge.
        question: What it is asked, with `{text}` in it, and `{concept}` where that is named.
        concept: The concept.
        answers: The words for yes and no.
        chat: Whether the question goes through the tokenizer's chat template; None does so where
            the tokenizer has one.

    Raises:
        ValueError: If the question holds no `{text}`, names a concept that is not given, or has to
            go through a template that the tokenizer has not.
    """

    def __init__(
        self,
        engine: HuggingFaceEngine,
        *,
        question: str = DEFAULT_QUESTION,
        concept: str | None = None,
        answers: Sequence[str] = ("yes", "no"),
        chat: bool | None = None,
    ) -> None:
        check_question(question, concept)
        template = getattr(engine.tokenizer, "chat_template", None)
        if chat and not template:
            raise ValueError("chat=True, but the judge's tokenizer has no chat template: leave it")
        self.engine = engine
        self.question = question
        self.concept = concept
        self.answers = answers
        self.chat = bool(template) if chat is None else chat

    def presence(
        self, texts: Sequence[str], *, batch_size: int = 8, progress: bool = True
    ) -> list[float]:
        """p(yes) / (p(yes) + p(no)) for each text, of the words as continuations of the question.

        Args:
            texts: The texts.
            batch_size: Questions in a forward pass.
            progress: Whether to show a progress bar, in answers.
        """
        requests = [
            ScoreRequest(*split, f"the judge's question on text {index}")
            for index, text in enumerate(texts)
            for split in (self._encode(text, answer) for answer in self.answers)
        ]
        rows = self.engine.score(requests, [Column()], batch_size=batch_size, progress=progress)
        values = [row.log_likelihoods[0] for row in rows]
        return [_two_way_share(yes, no) for yes, no in zip(values[::2], values[1::2], strict=True)]

    def ask(self, text: str) -> str:
        """The whole prompt of a text, which the answer continues."""
        # Not str.format: a text may hold braces.
        question = self.question.replace("{concept}", self.concept or "")
        before, after = question.split("{text}", 1)
        question = f"{before}{text}{after}"
        if not self.chat:
            return question
        message = [{"role": "user", "content": question}]
        return self.engine.tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )

    def _encode(self, text: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the answer behind it."""
        prompt = self.ask(text)
        # A chat template writes its own start token, and ends where the answer starts.
        options: dict[str, Any] = {"add_special_tokens": not self.chat}
        separator = "" if self.chat or prompt[-1:].isspace() else " "
        context = list(self.engine.tokenizer(prompt, **options).input_ids)
        whole = list(self.engine.tokenizer(f"{prompt}{separator}{answer}", **options).input_ids)
        return context, whole[len(context) :]


def check_question(question: str, concept: str | None) -> None:
    """Refuses a judge's question that lacks its text, or names a concept that is not given.

    Raises:
        ValueError: If so.
    """
    if question.count("{text}") != 1:
        raise ValueError(f"judge_question={question!r} must hold {{text}} once: write it in")
    if "{concept}" in question and not concept:
        raise ValueError("concept is missing, which the judge's question names: add --concept WORD")


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _two_way_share(yes: float, no: float) -> float:
    """e^yes / (e^yes + e^no), without overflow."""
    return 1 / (1 + math.exp(min(no - yes, 700.0)))
