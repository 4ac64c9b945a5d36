"""The options of an evaluation, checked before anything heavy is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Any

from aim_plugins.core.files import sha256_of
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import format_strength, parse_strengths
from aim_plugins.engines.huggingface import warn_once
from aim_plugins.engines.loading import check_judge
from aim_plugins.steering.concepts import DEFAULT_QUESTION, Lexicon, check_question
from aim_plugins.steering.sentiment import check_classifier, require_vader
from aim_plugins.steering.texts import Decoding, Generation, read_generations
from aim_plugins.sweep.manifest import MANIFEST
from aim_plugins.transport.artifact import TransportMetadata
from aim_plugins.transport.data.datasets import load_prompts, read_sentences

DEFAULT_STRENGTHS = "0:1:0.1"
VADER = "vader"


@dataclass(frozen=True)
class JudgeSettings:
    """Concept presence by a judge model.

    Attributes:
        model: The judge: a name on the hub, a local folder, or "demo:smollm2".
        concept: The concept that the question names.
        question: The question, with `{text}` and `{concept}` in it.
        answers: The words for yes and no.
        chat: Whether it goes through the tokenizer's chat template; None does where there is one.
    """

    model: str
    concept: str | None = None
    question: str = DEFAULT_QUESTION
    answers: tuple[str, str] = ("yes", "no")
    chat: bool | None = None


@dataclass(frozen=True)
class TaskSettings:
    """Zero-shot tasks of lm-evaluation-harness.

    Attributes:
        names: Names of the tasks, as the harness calls them.
        num_fewshot: Examples before each question; None leaves it to the task.
        limit: Documents of each task; None takes all.
        include_path: Folder of tasks of one's own.
    """

    names: tuple[str, ...]
    num_fewshot: int | None = None
    limit: float | None = None
    include_path: str | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """What to measure of a transport.

    Attributes:
        transport: Folder of the transport.
        pretrained: The model it steers.
        output: Folder of results.
        strength: Strengths of the transport; None takes those of `generations`, or 0, 0.1, ..., 1.
        perplexity: Files of plain text, for the perplexity of the steered model.
        prompts: A file of prompts to continue, or a config's description of prompts.
        generations: A file that `transport generate` wrote, instead of prompts.
        decoding: How prompts are continued.
        lexicon: File of words that stand for the concept.
        judge: Asks a model whether texts show the concept.
        classifier: Text classifier: a name on the hub or a local folder.
        label: The classifier's label whose probability is measured.
        sentiment: "vader", or None.
        tasks: Zero-shot tasks.
        batch_size: Prompts, documents or texts in a forward pass.
        max_length: Longest sequence in tokens.
        dtype: Of the models' weights; "auto" keeps the checkpoint's.
        device: Where the models run.
        force: Whether a transport of another model is applied all the same.
        trust_remote_code: Whether code that comes with a model may run.
    """

    transport: Path
    pretrained: str
    output: Path
    strength: Any = None
    perplexity: Sequence[Path] = ()
    prompts: str | Path | Mapping[str, Any] | None = None
    generations: Path | None = None
    decoding: Decoding = field(default_factory=Decoding)
    lexicon: Path | None = None
    judge: JudgeSettings | None = None
    classifier: str | None = None
    label: str | None = None
    sentiment: str | None = None
    tasks: TaskSettings | None = None
    batch_size: int = 8
    max_length: int | None = None
    dtype: str = "auto"
    device: str | None = None
    force: bool = False
    trust_remote_code: bool = False

    def check(self) -> None:
        """Refuses what cannot be measured, before models are loaded.

        Raises:
            ValueError: If no metric is asked for, or options do not go together.
            FileNotFoundError: If a file is missing.
            ImportError: If a package is missing.
        """
        check_batch_size(self.batch_size)
        if self.prompts is not None and self.generations is not None:
            raise ValueError("prompts and generations are both given: give the one or the other")
        of_texts = {
            "lexicon": self.lexicon,
            "judge": self.judge,
            "classifier": self.classifier,
            "sentiment": self.sentiment,
        }
        asked = [name for name, value in of_texts.items() if value is not None]
        if not self.has_texts and asked:
            raise ValueError(
                f"{asked[0]} measures texts, and there are none: add --prompts FILE to write them, "
                "or --generations FILE"
            )
        if not (self.has_texts or self.perplexity or self.tasks):
            raise ValueError(
                "no metric is asked for: add --perplexity FILE, --prompts FILE (with --lexicon, "
                "--judge, --classifier or --sentiment) or --tasks NAMES"
            )
        self._check_texts()
        self._check_names()
        _ = self.strengths, self.documents, self.words
        if self.tasks is not None and find_spec("lm_eval") is None:
            raise ImportError("tasks need lm-eval: pip install 'aim-plugins[transport]'")
        self._check_models()

    def _check_texts(self) -> None:
        if (self.classifier is None) != (self.label is None):
            missing = "label" if self.label is None else "classifier"
            raise ValueError(f"{missing} is missing: --classifier NAME and --label go together")
        if self.sentiment is not None:
            if self.sentiment != VADER:
                raise ValueError(f"sentiment={self.sentiment!r} is unknown: write {VADER}")
            require_vader()
        if self.judge is not None:
            check_question(self.judge.question, self.judge.concept)

    def _check_models(self) -> None:
        """Refuses models that could not score, by their configurations alone."""
        trust = self.trust_remote_code
        if self.judge is not None:
            check_judge(self.judge.model, chat=self.judge.chat, trust_remote_code=trust)
        if self.classifier is not None and self.label is not None:
            check_classifier(self.classifier, self.label, trust_remote_code=trust)

    def _check_names(self) -> None:
        """Refuses files whose curves would have one name, of which the table keeps one."""
        files: dict[str, Path] = {}
        for path in map(Path, self.perplexity):
            if path.stem in files:
                raise ValueError(
                    f"perplexity={str(files[path.stem])!r} and {str(path)!r} would both be the "
                    f"curve {path.stem!r}: rename one"
                )
            files[path.stem] = path
        for name in () if self.tasks is None else self.tasks.names:
            if name in files:
                raise ValueError(
                    f"perplexity={str(files[name])!r} and the task {name!r} would both be the "
                    f"curve {name!r}: rename the file"
                )

    @property
    def has_texts(self) -> bool:
        """Whether texts of the steered model are measured."""
        return self.prompts is not None or self.generations is not None

    @cached_property
    def strengths(self) -> tuple[float, ...]:
        """The strengths, in rising order."""
        written = sorted({text.strength for text in self.written})
        spec = self.strength
        if spec is None:
            spec = written or DEFAULT_STRENGTHS
        strengths = tuple(sorted(parse_strengths(spec, name="strength", signed=True)))
        if written and (missing := [s for s in strengths if s not in written]):
            raise ValueError(
                f"strength={format_strength(missing[0])} is not among those of "
                f"{self.generations}: {', '.join(map(format_strength, written))}"
            )
        return strengths

    @cached_property
    def documents(self) -> dict[str, list[str]]:
        """Plain texts by the name of their file."""
        return {Path(path).stem: list(read_sentences(path)) for path in self.perplexity}

    @cached_property
    def words(self) -> Lexicon | None:
        """The lexicon."""
        return None if self.lexicon is None else Lexicon.read(self.lexicon)

    @cached_property
    def prompt_texts(self) -> tuple[str, ...]:
        """The prompts."""
        if self.prompts is None:
            return tuple(dict.fromkeys(text.prompt for text in self.written))
        return load_prompts(self.prompts)

    @cached_property
    def written(self) -> tuple[Generation, ...]:
        """Texts that an earlier command wrote."""
        if self.generations is None:
            return ()
        written = tuple(read_generations(self.generations))
        if len(noises := sorted({text.noise_std for text in written})) > 1:
            raise ValueError(
                f"generations={str(self.generations)!r} hold texts under noise_std="
                f"{', '.join(map(format_strength, noises))}, which one curve would mix: give texts "
                f"of one, as `transport generate --noise-std {format_strength(noises[0])}` writes"
            )
        return written

    @cached_property
    def written_with(self) -> dict[str, Any]:
        """What `generations` were written with, as far as the folder around them tells."""
        manifest = Path(self.generations or "").parent / MANIFEST
        if self.generations is None or not manifest.is_file():
            return {}
        return json.loads(manifest.read_text(encoding="utf-8")).get("arguments", {})

    @property
    def text_task(self) -> str:
        """How tables and pictures name what the texts continue."""
        if isinstance(self.prompts, Mapping):
            return f"{self.prompts.get('name', 'files')} prompts"
        return Path(self.prompts or self.generations or "texts").stem

    @property
    def texts_record(self) -> dict[str, Any] | None:
        """What determines the texts beside model and transport, however they came here."""
        if self.prompts is not None:
            asked = fingerprint(list(self.prompt_texts))
            return {"prompts": asked, "decoding": self.decoding.record, "noise_std": 0.0}
        if not self.written:
            return None
        first = self.written[0]
        prompts = [text.prompt for text in self.written if text.strength == first.strength]
        record = {"prompts": fingerprint(prompts), "noise_std": first.noise_std}
        if first.noise_std:
            record["noise_seed"] = self.written_with.get("noise_seed")
        if "decoding" in self.written_with:
            record["decoding"] = self.written_with["decoding"]
        return record

    def arguments(self, transport: str, method: str) -> dict[str, Any]:
        """What determines the results, for the manifest.

        Args:
            transport: Fingerprint of the transport.
            method: Name of its method.
        """
        judge, tasks = self.judge, self.tasks
        return {
            "command": "transport evaluate",
            "pretrained": self.pretrained,
            "transport": transport,
            "method": method,
            "strength": list(self.strengths),
            "dtype": self.dtype,
            "max_length": self.max_length,
            "perplexity": {name: fingerprint(texts) for name, texts in self.documents.items()},
            "prompts": fingerprint(list(self.prompt_texts)) if self.prompts is not None else None,
            "generations": sha256_of(self.generations) if self.generations else None,
            "decoding": self.decoding.record if self.prompts is not None else None,
            "lexicon": self.words.words if self.words else None,
            "judge": vars(judge) if judge else None,
            "classifier": self.classifier,
            "label": self.label,
            "sentiment": self.sentiment,
            "tasks": vars(tasks) if tasks else None,
        }


def check_batch_size(size: Any) -> None:
    """Refuses a batch size that is no whole number of at least 1; a config may hold anything.

    Raises:
        ValueError: If so.
    """
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise ValueError(f"batch_size={size!r}: give a whole number, 1 or more")


def warn_of_unfitted(transport: TransportMetadata, strengths: Sequence[float]) -> None:
    """Warns, once, of strengths that a transport was not learned for."""
    if warning := transport.warning_of(strengths):
        warn_once(warning)
