"""Sentences of two kinds from the published corpora, in the layout they are published in.

Nothing is downloaded. Where the files come from:

| name       | files                                                                            |
|------------|----------------------------------------------------------------------------------|
| RTP        | `prompts.jsonl` of RealToxicityPrompts (Gehman et al. 2020, arXiv:2009.11462)      |
| Jigsaw     | `train.csv` of Kaggle's toxic comment classification challenge, or `all_data.csv`  |
|            | of Jigsaw's unintended bias challenge (CivilComments)                            |
| OneSec     | `OneSecConcepts-100_1.5.0` as AcT uses it: `concept_list.csv` and, per sense of a  |
|            | word, `sense/<concept>.json` with positive and negative sentences                |
| TruthfulQA | `TruthfulQA.csv` (Lin et al. 2021, arXiv:2109.07958)                             |

Source of the layouts: the loaders of github.com/apple/ml-act, and github.com/apple/ml-selfcond for
the concept files.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing
from aim_plugins.transport.data.text_files import (
    csv_columns,
    csv_rows,
    file_in,
    json_lines,
    read_json,
)

ONESEC_FOLDER = "OneSecConcepts-100_1.5.0"

# The challenges name the same labels differently; the first name is the one to give.
_JIGSAW_LABELS = {
    "toxic": ("toxic", "toxicity", "target"),
    "severe_toxic": ("severe_toxic", "severe_toxicity"),
    "obscene": ("obscene",),
    "threat": ("threat",),
    "insult": ("insult",),
    "identity_hate": ("identity_hate", "identity_attack"),
}
# Scores of CivilComments are shares of annotators, and at least half makes the label.
_LABEL_THRESHOLD = 0.5
_RTP_PARTS: dict[str, Callable[[str, str], str]] = {
    "prompt": lambda prompt, continuation: prompt,
    "continuation": lambda prompt, continuation: continuation,
    "both": lambda prompt, continuation: prompt + continuation,
}


@dataclass(frozen=True)
class RTPRecord:
    """A record of RealToxicityPrompts.

    Attributes:
        text: The prompt, the continuation, or both, as asked for.
        toxicity: Perspective's score of the prompt, or for "continuation" of that; None where the
            published file has none.
        challenging: Whether all of its authors' models answered the prompt toxically.
    """

    text: str
    toxicity: float | None
    challenging: bool


def read_rtp(root: str | Path, *, part: str = "prompt") -> list[RTPRecord]:
    """Reads RealToxicityPrompts.

    Args:
        root: `prompts.jsonl`, or its folder.
        part: "prompt", "continuation", or "both", one after the other.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `part` is another, or a line is malformed.
    """
    if part not in _RTP_PARTS:
        raise ValueError(f"part={part!r}: give {', '.join(_RTP_PARTS)}")
    path = file_in(root, "prompts.jsonl")
    scored = "continuation" if part == "continuation" else "prompt"
    records = []
    for number, value in json_lines(path):
        place = f"{path} line {number}"
        try:
            texts = value["prompt"]["text"], value["continuation"]["text"]
            score = value[scored]["toxicity"]
            challenging = bool(value.get("challenging", False))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{place} is no record of RealToxicityPrompts: needs prompt.text, "
                f"continuation.text and {scored}.toxicity"
            ) from error
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{place}: prompt.text and continuation.text must be texts")
        if score is not None and not isinstance(score, (int, float)):
            raise ValueError(f"{place}: {scored}.toxicity is {score!r}, not a number")
        text = _RTP_PARTS[part](*texts).strip()
        if text:
            records.append(RTPRecord(text, score, challenging))
    return records


def read_jigsaw(root: str | Path, *, file: str | None = None) -> list[tuple[str, dict[str, bool]]]:
    """Reads Jigsaw's comments with their labels.

    Args:
        root: The folder, or the CSV file itself.
        file: Name of the file in the folder; by default `train.csv`, else `all_data.csv`.

    Returns:
        Comments, each with whether it has a label, by label; the labels are those of the toxic
        comment challenge, as far as the file has them. Comments without annotations (-1 in the
        challenge's test labels) are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the text's or every label's column is missing, or a label is no number.
    """
    path = file_in(root, *([file] if file else ["train.csv", "all_data.csv"]))
    columns = _jigsaw_columns(path)
    comments = []
    for number, row in csv_rows(path, ["comment_text"]):
        text = row["comment_text"].strip()
        scores = {label: _score(row, column, path, number) for label, column in columns.items()}
        if text and min(scores.values()) >= 0:
            labels = {label: score >= _LABEL_THRESHOLD for label, score in scores.items()}
            comments.append((text, labels))
    return comments


def read_onesec(root: str | Path, concept: str) -> tuple[list[str], list[str]]:
    """Reads the sentences of a OneSec concept.

    Args:
        root: The folder that holds `concept_list.csv`, or the one above it.
        concept: Name of a sense, such as "football-1_04_00__"; the word alone will do where it has
            one sense in the list.

    Returns:
        Sentences without the concept (of other concepts) and sentences with it.

    Raises:
        FileNotFoundError: If there is no such concept's file.
        ValueError: If the concept is not in the list, or its file is malformed.
    """
    folder = _onesec_folder(root)
    groups = onesec_concepts(root)
    name = _sense_named(concept, groups, folder / "concept_list.csv")
    path = folder / groups[name] / f"{name}.json"
    value = read_json(path)
    sides = []
    for side in ("negative", "positive"):
        try:
            sentences = value["sentences"][side]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} has no sentences.{side}") from error
        if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
            raise ValueError(f"{path}: sentences.{side} must be a list of texts")
        sides.append([sentence.strip() for sentence in sentences if sentence.strip()])
    return sides[0], sides[1]


def onesec_concepts(root: str | Path) -> dict[str, str]:
    """The concepts of `concept_list.csv`, in its order, each with the folder of its file."""
    path = _onesec_folder(root) / "concept_list.csv"
    concepts = {}
    for number, row in csv_rows(path, ["group", "concept"]):
        for word in (row["group"], row["concept"]):
            # They become a path.
            if not word or "/" in word or "\\" in word or word.startswith("."):
                raise ValueError(f"{path} line {number}: {word!r} is no name of a file")
        concepts[row["concept"]] = row["group"]
    if not concepts:
        raise ValueError(f"{path} holds no concept")
    return concepts


@dataclass(frozen=True)
class TruthfulQuestion:
    """A question of TruthfulQA with its answers, each a sentence that ends in a full stop."""

    question: str
    best: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]


def read_truthfulqa(root: str | Path) -> list[TruthfulQuestion]:
    """Reads TruthfulQA.

    Args:
        root: `TruthfulQA.csv`, or its folder.

    Returns:
        The questions. Answers get the full stop that the file leaves out, as they have it in the
        multiple-choice tasks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, or a question has no answer of a kind.
    """
    path = file_in(root, "TruthfulQA.csv")
    columns = ["Question", "Best Answer", "Correct Answers", "Incorrect Answers"]
    questions = []
    for number, row in csv_rows(path, columns):
        for column in columns:
            if not row[column].strip(" ;"):
                raise ValueError(f"{path} line {number}: {column} is empty")
        correct, incorrect = (
            tuple(_with_full_stop(answer) for answer in row[column].split(";") if answer.strip())
            for column in columns[2:]
        )
        best = _with_full_stop(row["Best Answer"])
        questions.append(TruthfulQuestion(row["Question"].strip(), best, correct, incorrect))
    return questions


def split_folds(
    questions: list[TruthfulQuestion], n_folds: int, seed: int
) -> list[list[TruthfulQuestion]]:
    """Splits questions into folds whose sizes differ by one at most, each in the file's order.

    The AcT paper splits as inference-time intervention does (arXiv:2306.03341): by questions, so
    that no answer to a question of one fold is seen in another.
    """
    if n_folds < 2 or len(questions) < n_folds:
        raise ValueError(f"n_folds={n_folds}: give 2 to {len(questions)}, the number of questions")
    order = sorted(range(len(questions)), key=lambda i: questions[i].question)
    random.Random(seed).shuffle(order)
    return [[questions[i] for i in sorted(order[fold::n_folds])] for fold in range(n_folds)]


def _jigsaw_columns(path: Path) -> dict[str, str]:
    """The file's column of each label that it has."""
    header = csv_columns(path)
    columns = {}
    for label, names in _JIGSAW_LABELS.items():
        for name in names:
            if name in header:
                columns[label] = name
                break
    if "toxic" not in columns:
        raise ValueError(
            f"{path} has no column of toxicity (toxic, toxicity or target); "
            f"there are {', '.join(header) or 'none'}"
        )
    return columns


def _with_full_stop(answer: str) -> str:
    answer = answer.strip()
    return answer if answer.endswith(".") else f"{answer}."


def _score(row: dict[str, str], column: str, path: Path, number: int) -> float:
    try:
        score = float(row[column])
    except ValueError:
        score = math.nan
    if math.isnan(score):
        raise ValueError(f"{path} line {number}: {column} is {row[column]!r}, not a number")
    return score


def _onesec_folder(root: str | Path) -> Path:
    root = Path(root)
    folder = root / ONESEC_FOLDER
    if not (root / "concept_list.csv").is_file() and folder.is_dir():
        root = folder
    existing(root / "concept_list.csv")
    return root


def _sense_named(concept: str, groups: dict[str, str], path: Path) -> str:
    if concept in groups:
        return concept
    # A sense key is a word, a hyphen, and WordNet's number of the sense.
    senses = [name for name in groups if name.rpartition("-")[0] == concept]
    if len(senses) == 1:
        return senses[0]
    if senses:
        raise ValueError(f"concept={concept!r} has {len(senses)} senses: {', '.join(senses)}")
    words = [*groups, *(name.rpartition("-")[0] for name in groups)]
    hint = did_you_mean(concept, words, otherwise="choose one that is")
    raise ValueError(f"concept={concept!r} is not in {path}; {hint}")
