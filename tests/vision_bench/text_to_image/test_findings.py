"""What is said of scores: against counts of all signs, and for effects that show or do not."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from vision_bench.text_to_image.findings import by_prompt, changes, effect_of, headline
from vision_bench.text_to_image.scores import IMAGE, PRESENCE, PROMPT, TARGET, ImageScores

STRENGTHS = (0.0, 0.5, 1.0)


def scores(*means: float, spread: float = 0.02, strengths: Any = STRENGTHS, images: int = 12):
    """Scores whose presence has the means given at each strength, and the rest falls a little."""
    noise = torch.randn(images, len(strengths), generator=torch.Generator().manual_seed(1)).double()
    presence = torch.tensor(means).double() + spread * (noise - noise.mean(0))
    fall = torch.tensor([abs(one) for one in strengths]).double() / 10
    return ImageScores(
        tuple(strengths),
        {
            PRESENCE: presence,
            IMAGE: 1 - fall + 0.001 * noise * fall,
            PROMPT: 0.3 - fall + 0.001 * noise,
        },
    )


def test_p_counts_all_signs_and_is_corrected_for_the_strengths() -> None:
    found = scores(0.10, 0.11, 0.14, spread=0.03, images=8)
    table = found.values[PRESENCE]
    alone = []
    for place in (1, 2):
        gains = (table[:, place] - table[:, 0]).tolist()
        sums = [
            abs(sum(sign * one for sign, one in zip(signs, gains, strict=True)))
            for signs in product((1, -1), repeat=8)
        ]
        alone.append(sum(one >= abs(sum(gains)) - 1e-12 for one in sums) / 2**8)
    smaller, larger = sorted(alone)
    corrected = {smaller: min(1.0, 2 * smaller), larger: max(2 * smaller, larger)}
    assert [one.p for one in changes(found, PRESENCE)] == pytest.approx(
        [min(1.0, corrected[one]) for one in alone]
    )


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        (scores(0.1, 0.5, 0.8), ["rises from 0.100", "half of that is reached at λ = 0.5, with"]),
        (
            scores(0.1, 0.2, 0.8),
            ["to 0.800 [", "at λ = 1 (+0.700 [", "At every strength it differs from"],
        ),
        (scores(0.9, 0.9, 0.1), ["falls from 0.900", "(-0.800 [", "From λ = 1 on it differs"]),
        (
            scores(0.5, 0.5, 0.5),
            ["cannot be told apart from that", "prompt similarity 0.2"],
        ),
        (
            scores(0.5, 0.9, 0.5),
            ["cannot be told apart", "At λ = 0.5 it differs from"],
        ),
        (scores(0.5, strengths=(0.0,)), ["λ = 0 is the only strength"]),
        (
            scores(0.8, 0.5, 0.1, strengths=(-1.0, 0.0, 0.5)),
            ["rises from 0.500", "to 0.800 [", "at λ = -1 ("],
        ),
    ],
)
def test_the_headline_says_what_shows(found: ImageScores, parts: list[str]) -> None:
    said = headline(found, "stripes")
    for part in parts:
        assert part in said, said


def test_the_headline_is_of_the_target_where_no_concept_is_named() -> None:
    whole = scores(0.1, 0.5, 0.8)
    values = dict(whole.values)
    values[TARGET] = values.pop(PRESENCE)
    found = ImageScores(STRENGTHS, values)
    assert effect_of(found) == TARGET
    assert headline(found, None).startswith("The similarity to the target text rises from 0.100")
    del values[TARGET]
    assert "as no concept is named" in headline(ImageScores(STRENGTHS, values), None)


def test_one_image_tells_nothing_of_others() -> None:
    said = headline(scores(0.1, 0.5, 0.8, images=1, spread=0), "stripes")
    assert "cannot be told apart" in said and "p = 1" in said


def test_images_of_a_prompt_count_once_unless_it_is_the_only_one() -> None:
    found = scores(0.1, 0.5, 0.8)
    averaged = by_prompt(found, 3)
    expected = torch.stack([found.values[PRESENCE][3 * n : 3 * n + 3].mean(0) for n in range(4)])
    torch.testing.assert_close(averaged.values[PRESENCE], expected)
    assert by_prompt(found, 12) is found and by_prompt(found, 1) is found
