"""Settings of the commands that steer a model, and of what they measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aim_plugins.core.files import existing
from aim_plugins.core.settings import (
    Count,
    Grid,
    Names,
    Natural,
    Positive,
    Settings,
    Share,
    SignedGrid,
    option,
)
from aim_plugins.steering.settings.model import ModelSettings
from aim_plugins.transport.data.text_files import SUFFIXES
from aim_plugins.transport.vocabulary import existing_transport

DEFAULT_STRENGTHS = "0:1:0.1"
GENERATIONS = "generations.jsonl"
"""The file of `transport generate` in its folder."""
DEFAULT_QUESTION = (
    'Here is a text:\n{text}\n\nIs the text about "{concept}"? Answer with yes or no only.\nAnswer:'
)


def check_texts(
    prompts: str | Path | Mapping[str, Any] | None, perplexity: Sequence[Path] = ()
) -> None:
    """Refuses files of prompts and of plain text that are not there, or of another kind."""
    if isinstance(prompts, str | Path):
        existing(prompts, "prompts", SUFFIXES)
    for path in perplexity:
        existing(path, "perplexity", SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class SteeringSettings(ModelSettings):
    """What it is steered by.

    Attributes:
        transport: Folder of the transport.
        output: Folder for results; an interrupted run goes on when it is started again.
        batch_size: Prompts, documents or texts in a forward pass.
        max_length: Longest sequence in tokens; by default the model's window.
        force: Whether to apply a transport that another model was fitted on.
    """

    transport: Path = option(positional=True, metavar="DIR")
    output: Path = option(short="-o", metavar="OUT")
    batch_size: Count = 8
    max_length: int | None = None
    force: bool = False

    def check_files(self) -> None:
        existing_transport(self.transport)
        super().check_files()


@dataclass(frozen=True, kw_only=True)
class Decoding(Settings):
    """How texts are decoded.

    Attributes:
        max_new_tokens: Longest text in tokens.
        do_sample: Whether tokens are drawn at random; else the most likely one is taken.
        temperature: Divides the logits before a draw.
        top_k: Draws from so many most likely tokens; 0 from all.
        top_p: Draws from the most likely tokens of this probability in sum.
        seed: Seed of the draws.
    """

    max_new_tokens: Count = 32
    do_sample: bool = False
    temperature: Positive = 1.0
    top_k: Natural = 0
    top_p: Share = 1.0
    seed: Natural = 0

    def check(self) -> None:
        super().check()
        sampled = self.temperature != 1.0 or self.top_k != 0 or self.top_p != 1.0
        if sampled and not self.do_sample:
            raise ValueError(
                "temperature, top_k and top_p say how tokens are drawn, and do_sample=False "
                "draws none: add --do-sample, or leave them out"
            )

    @property
    def decoding(self) -> dict[str, Any]:
        """Arguments of the model's `generate` beside the length."""
        if not self.do_sample:
            return {"do_sample": False}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }

    @property
    def decoding_record(self) -> dict[str, Any]:
        """What of it determines the texts."""
        seed = {"seed": self.seed} if self.do_sample else {}
        return {"max_new_tokens": self.max_new_tokens, **self.decoding, **seed}


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(SteeringSettings, Decoding):
    """What a steered model is to write.

    Attributes:
        prompts: A file, .jsonl with {"text": ...} or .txt, one a line; a config may describe them.
        strength: "0:1:0.1", "0,0.5,1" or a number.
        noise_std: Noise on the logits beside it.
        noise_seed: Seed of the noise.
    """

    prompts: str | Path | Mapping[str, Any] = option(metavar="FILE")
    strength: SignedGrid = option(DEFAULT_STRENGTHS, metavar="GRID")
    noise_std: Grid = option("0", metavar="STD")
    noise_seed: int = 0

    def check_files(self) -> None:
        super().check_files()
        check_texts(self.prompts)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(Settings):
    """Concept presence by a judge model.

    Attributes:
        judge: Asks this model about the concept.
        concept: What it is asked about.
        judge_question: The question, with {text} and {concept} in it.
        judge_answers: Its words for yes and no; by default yes,no.
        judge_chat: Whether it goes through its chat template; auto where it has one.
    """

    judge: str | None = option(None, metavar="MODEL")
    concept: str | None = option(None, metavar="WORD")
    judge_question: str = option(DEFAULT_QUESTION, metavar="TEXT")
    judge_answers: Names = option(("yes", "no"), metavar="YES,NO")
    judge_chat: Literal["auto", "yes", "no"] = "auto"

    @property
    def chat(self) -> bool | None:
        """Whether the question goes through a chat template; None does where there is one."""
        return {"auto": None, "yes": True, "no": False}[self.judge_chat]


@dataclass(frozen=True, kw_only=True)
class EffectSettings(JudgeSettings):
    """What the texts are scored for.

    Attributes:
        lexicon: Words of the concept, one a line.
        classifier: A text classifier of transformers: a name on the hub or a local folder.
        label: The classifier's label to measure, such as toxic.
        sentiment: Sentiment by rules, offline.
    """

    lexicon: Path | None = option(None, metavar="FILE")
    classifier: str | None = option(None, metavar="MODEL")
    label: str | None = None
    sentiment: Literal["vader"] | None = None

    def check(self) -> None:
        super().check()
        if (self.classifier is None) != (self.label is None):
            missing = "label" if self.label is None else "classifier"
            raise ValueError(f"{missing} is missing: --classifier NAME and --label go together")
        if len(self.judge_answers) != 2:
            raise ValueError(
                f"judge_answers={self.judge_answers!r}: give two words, as in --judge-answers "
                "yes,no"
            )

    def check_files(self) -> None:
        super().check_files()
        if self.lexicon is not None:
            existing(self.lexicon, "lexicon")

    @property
    def scorers(self) -> list[str]:
        """Settings that ask for a score of texts."""
        known = ("lexicon", "judge", "classifier", "sentiment")
        return [name for name in known if getattr(self, name) is not None]


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """Zero-shot tasks, through lm-evaluation-harness.

    Attributes:
        tasks: Their names, separated by commas.
        num_fewshot: Examples before each question; by default what the task says.
        limit: Documents of each task; by default all.
        include_path: Folder of tasks of your own.
    """

    tasks: Names = option((), metavar="NAMES")
    num_fewshot: int | None = None
    limit: float | None = None
    include_path: str | None = option(None, metavar="FOLDER")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(SteeringSettings, Decoding, EffectSettings, TaskSettings):
    """What to measure of a steered model.

    Attributes:
        strength: "0:1:0.1", "0,0.5,1" or a number; by default those of `generations`, or 0:1:0.1.
        perplexity: Plain text, a document a line, for the perplexity of the steered model.
        prompts: Texts to continue: .jsonl with {"text": ...}, or .txt, one a line; a config may
            describe them.
        generations: Texts that `transport generate` wrote, its folder or file, instead of prompts.
        wandb: Logs the curves to this project of Weights & Biases.
        tensorboard: Logs them for TensorBoard.
    """

    strength: SignedGrid | None = option(None, metavar="GRID")
    perplexity: Sequence[Path] = option((), metavar="FILE")
    prompts: str | Path | Mapping[str, Any] | None = option(None, metavar="FILE")
    generations: Path | None = option(None, metavar="DIR")
    wandb: str | None = option(None, metavar="PROJECT")
    tensorboard: Path | None = option(None, metavar="DIR")

    def check(self) -> None:
        super().check()
        if self.prompts is not None and self.generations is not None:
            raise ValueError("prompts and generations are both given: give the one or the other")
        if not self.has_texts and self.scorers:
            raise ValueError(
                f"{self.scorers[0]} measures texts, and there are none: add --prompts FILE to "
                "write them, or --generations DIR"
            )
        if not (self.has_texts or self.perplexity or self.tasks):
            raise ValueError(
                "no metric is asked for: add --perplexity FILE, --prompts FILE (with --lexicon, "
                "--judge, --classifier or --sentiment) or --tasks NAMES"
            )
        self._check_names()

    def check_files(self) -> None:
        super().check_files()
        check_texts(self.prompts, self.perplexity)
        texts = self.generations_file
        if texts is not None and not texts.is_file():
            raise FileNotFoundError(
                f"generations={str(self.generations)!r} holds no texts: give the folder that "
                "`transport generate` wrote, or write them with `aim-plugins transport generate "
                f"{self.transport} --pretrained {self.pretrained} --prompts FILE -o NEW`"
            )

    def _check_names(self) -> None:
        """Refuses files whose curves would have one name, of which the table keeps one."""
        files: dict[str, Path] = {}
        for path in self.perplexity:
            if path.stem in files:
                raise ValueError(
                    f"perplexity={str(files[path.stem])!r} and {str(path)!r} would both be the "
                    f"curve {path.stem!r}: rename one"
                )
            files[path.stem] = path
        for name in self.tasks:
            if name in files:
                raise ValueError(
                    f"perplexity={str(files[name])!r} and the task {name!r} would both be the "
                    f"curve {name!r}: rename the file"
                )

    @property
    def has_texts(self) -> bool:
        """Whether texts of the steered model are measured."""
        return self.prompts is not None or self.generations is not None

    @property
    def text_task(self) -> str:
        """How tables and pictures name what the texts continue."""
        if isinstance(self.prompts, Mapping):
            return f"{self.prompts.get('name', 'files')} prompts"
        return Path(self.prompts or self.generations_file or "texts").stem

    @property
    def generations_file(self) -> Path | None:
        """The file of `generations`, which may be named by its folder."""
        if self.generations is None or not self.generations.is_dir():
            return self.generations
        return self.generations / GENERATIONS
