"""Makes the demo questions for OpenCompass from those for lm-evaluation-harness.

    python eval_configs/opencompass/make_demo_data.py [FOLDER]

Both harnesses then ask the same questions (GeoNames, CC BY 4.0), so their curves can be laid side
by side. OpenCompass takes a custom data set with the columns A, B, ... for multiple choice.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "lm_eval" / "data"
LETTERS = "ABCD"
# A part keeps the demo short; they are sorted by country, so every n-th is a fair one.
EVERY_CONTINENT = 4
EVERY_CAPITAL = 2
WITH_ARTICLE = {
    "Democratic Republic of the Congo",
    "Philippines",
    "United Kingdom",
    "United States",
}

Document = dict[str, Any]


def continents() -> list[Document]:
    """Country -> continent, out of four."""
    return [
        {"country": document["country"], **_choices(document)}
        for document in _read("continents")[::EVERY_CONTINENT]
    ]


def capitals() -> list[Document]:
    """Capital -> country, beside three other countries."""
    return [
        {"capital": document["capital"], **_choices(document)}
        for document in _read("capitals")[::EVERY_CAPITAL]
    ]


def questions() -> list[Document]:
    """A question about a capital, and the sentence that a chat model answers it with."""
    return [
        {
            "question": f"What is the capital of {country}?",
            "answer": f"The capital of {country} is {document['capital']}.",
        }
        for document in _read("generation")
        for country in [_in_a_sentence(document["country"])]
    ]


def write(folder: Path) -> None:
    """Writes the three sets as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for make in (continents, capitals, questions):
        lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in make()]
        (folder / f"{make.__name__}.jsonl").write_text("".join(lines), encoding="utf-8")


def _choices(document: Document) -> Document:
    lettered = dict(zip(LETTERS, document["choices"], strict=True))
    return {**lettered, "answer": LETTERS[document["answer"]]}


def _in_a_sentence(country: str) -> str:
    return f"the {country}" if country in WITH_ARTICLE else country


def _read(name: str) -> list[Document]:
    lines = (SOURCE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
