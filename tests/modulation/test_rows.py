"""A layout of rows that factors would act wrongly on is found by running the model, and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.components import Components
from aim_plugins.modulation.rows import check_rows


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


class Rows(nn.Module):
    """Layers, of which the second is run in a way that a subclass says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.inner(self.first(inputs).tanh()).tanh())

    def inner(self, values: Tensor) -> Tensor:
        return self.second(values)


class Doubled(Rows):
    def inner(self, values: Tensor) -> Tensor:
        more, less = self.second(torch.cat([values, -values])).chunk(2)
        return more - less.square()


class Turned(Rows):
    def inner(self, values: Tensor) -> Tensor:
        return self.second(values.transpose(0, 1)).transpose(0, 1)


class TurnedLate(Rows):
    """Rows come first until an attention to tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def inner(self, values: Tensor) -> Tensor:
        turned = values.transpose(0, 1)
        return self.second(self.attention(turned, turned, turned)[0].transpose(0, 1))


class Reversed(Rows):
    def inner(self, values: Tensor) -> Tensor:
        return self.second(values.flip(0)).flip(0)


def rows_of(model: nn.Module, rows: int, tokens: int) -> tuple[Callable[[], Tensor], Components]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(rows, tokens, 4, generator=generator)
    return (lambda: model(inputs)), find_components(model, "linear_rows", ["first", "second"])


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_model_that_keeps_its_rows_passes(rows: int, dtype: torch.dtype) -> None:
    model = built(Rows).to(dtype)
    inputs = torch.randn(rows, 5, 4, dtype=dtype)
    check_rows(model, lambda: model(inputs), find_components(model, "linear_rows"))


@pytest.mark.parametrize(
    ("make", "tokens", "site"),
    [(Doubled, 5, "second"), (Reversed, 5, "second"), (Turned, 3, "second")]
    + [(TurnedLate, 3, "first")],
)
def test_rows_that_a_model_mixes_are_refused_by_the_layer(make, tokens, site) -> None:
    model = built(make)
    run, components = rows_of(model, 3, tokens)
    with pytest.raises(ValueError, match=f"components='{site}': factors of one row"):
        check_rows(model, run, components)


def test_a_model_of_tokens_before_rows_is_refused_whatever_its_batch() -> None:
    settings = {"vocab_size": 50, "d_model": 16, "n_layer": 2, "n_head": 4, "d_inner": 24}
    config = AutoConfig.for_model("xlnet", **settings)
    model = built(lambda: AutoModelForCausalLM.from_config(config))
    components = find_components(model, "linear_rows")
    for rows, tokens in ((2, 8), (3, 3), (3, 7), (4, 2)):
        inputs = torch.arange(rows * tokens).view(rows, tokens)
        with pytest.raises(ValueError, match=r"components='transformer\.layer\.0\.ff\.layer_1'"):
            check_rows(model, lambda inputs=inputs: model(inputs).logits, components)


def test_examples_of_several_rows_go_by_their_owners() -> None:
    model = built(Rows)
    inputs, owners = torch.randn(5, 4), torch.tensor([0, 0, 1, 1, 1])
    components = find_components(model, "linear_rows")

    def run() -> Tensor:
        return torch.stack([one.sum() for one in model(inputs).split([2, 3])])

    check_rows(model, run, components, owners)
    with pytest.raises(ValueError, match="factors of one row of a batch act on others"):
        check_rows(model, run, components, owners.flip(0))


def test_one_row_tells_nothing() -> None:
    run, components = rows_of(built(Rows), 1, 5)
    with pytest.raises(ValueError, match="run gives 1 rows, .* give two or more"):
        check_rows(built(Rows), run, components)
