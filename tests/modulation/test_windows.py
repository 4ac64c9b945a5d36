"""Which positions windows reach, against their meaning in words."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.modulation.windows import (
    check_window,
    knows_prompt,
    reaches_prompt,
    window_bounds,
)

MEANING = {
    "all": lambda token, prompt: True,
    "prompt": lambda token, prompt: token < prompt,
    "generation": lambda token, prompt: token >= prompt,
    "last": lambda token, prompt: token >= prompt - 1,
    "2-4": lambda token, prompt: token in (2, 3, 4),
    "3-3": lambda token, prompt: token == 3,
    "2-": lambda token, prompt: token >= 2,
}


@pytest.mark.parametrize("window", MEANING)
def test_a_window_reaches_the_tokens_that_its_words_say(window):
    for prompt in (1, 3, 6):
        meant = {token for token in range(12) if MEANING[window](token, prompt)}
        for first in (0, 2):  # tokens of padding on the left
            start, stop = window_bounds(window, prompt + first, first)
            reached = {place - first for place in range(first, 12 + first) if start <= place < stop}
            assert reached == meant


@pytest.mark.parametrize("window", MEANING)
def test_what_is_known_of_a_window_is_true_of_its_tokens(window):
    sets = [{token for token in range(12) if MEANING[window](token, p)} for p in (5, 6)]
    assert knows_prompt(window) == (sets[0] != sets[1])
    assert reaches_prompt(window) == any(MEANING[window](token, 6) for token in range(5))


def test_rows_have_bounds_of_their_own():
    prompts = torch.tensor([3, 5])
    assert torch.equal(window_bounds("last", prompts)[0], torch.tensor([2, 4]))
    assert torch.equal(window_bounds("1-2", prompts, prompts - 3)[1], torch.tensor([3, 5]))


@pytest.mark.parametrize("window", ["first", "", "4-2", "-3", "1", "1-2-3", 3, None, "1" * 10])
def test_what_is_no_window_is_refused(window):
    with pytest.raises(ValueError, match="tokens_of=.* is no window: write all, prompt"):
        check_window(window, "tokens_of")
