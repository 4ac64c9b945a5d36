"""Choosing modules and changing their outputs."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

from aim_plugins.modulation.hooks import (
    change_outputs,
    choose_sites,
    execution_order,
    find_module,
    split_site,
)


class Crossed(nn.Module):
    """Runs its modules in another order than it registers them."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.first(x))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)

    def forward(self, x):
        return self.shared(self.shared(x))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Split()

    def forward(self, x):
        return self.inner(x)


class Split(nn.Module):
    def forward(self, x):
        return x, 2 * x, "a note"


def test_patterns_match_whole_names(tiny_llama):
    names = [name for name, _ in tiny_llama.named_modules()]
    found = choose_sites(tiny_llama, r".*layernorm")
    assert found == [name for name in names if name.endswith("layernorm")]
    assert len(found) == 4


def test_several_patterns_keep_the_order_of_registration(tiny_llama):
    found = choose_sites(tiny_llama, [r"model\.norm", r".*\.mlp:0", r".*0\.self_attn:1"])
    assert found == [
        "model.layers.0.self_attn:1",
        "model.layers.0.mlp",
        "model.layers.1.mlp",
        "model.norm",
    ]


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        (r".*layernom", "layernorm"),
        (r"model\.layers\..*\.post_attention_norm", "post_attention_layernorm"),
        (r".*foo", "nearest"),
    ],
)
def test_a_pattern_without_a_match_names_the_nearest_modules(tiny_llama, pattern, near):
    with pytest.raises(ValueError, match="matches none of the") as error:
        choose_sites(tiny_llama, pattern)
    assert near in str(error.value) and pattern in str(error.value)


def test_a_malformed_pattern_is_named(tiny_llama):
    with pytest.raises(ValueError, match="no regular expression"):
        choose_sites(tiny_llama, "*layernorm")


def test_execution_order_is_not_the_order_of_registration():
    model = Crossed()
    sites = choose_sites(model, "last|first")
    assert sites == ["last", "first"]
    assert execution_order(model, sites, lambda: model(torch.ones(1, 4))) == ["first", "last"]


def test_modules_that_do_not_run_or_run_twice_are_refused():
    model, twice = Crossed(), Twice()
    with pytest.raises(ValueError, match="idle.*did not run"):
        execution_order(model, ["first", "idle"], lambda: model(torch.ones(1, 4)))
    with pytest.raises(ValueError, match="shared.*several times"):
        execution_order(twice, ["shared"], lambda: twice(torch.ones(1, 4)))


def test_one_item_of_a_tuple_is_changed_and_the_rest_stays():
    model, x = Pair(), torch.arange(3.0)
    with change_outputs(model, {"inner:1": lambda output: output + 1}):
        first, second, note = model(x)
    assert torch.equal(first, x) and torch.equal(second, 2 * x + 1) and note == "a note"


def test_a_named_tuple_stays_one():
    class Named(NamedTuple):
        first: torch.Tensor
        second: torch.Tensor

    class Inner(nn.Module):
        def forward(self, x):
            return Named(x, 2 * x)

    model = nn.Sequential(Inner())
    with change_outputs(model, {"0:1": lambda output: output + 1}):
        outputs = model(torch.arange(3.0))
    assert isinstance(outputs, Named)
    assert outputs.second.tolist() == [1.0, 3.0, 5.0]


def test_an_output_that_is_no_tensor_is_refused():
    model = Pair()
    for site in ("inner:2", "inner:7"):
        with (
            pytest.raises(ValueError, match=f"module '{site}' is no tensor"),
            change_outputs(model, {site: lambda output: output}),
        ):
            model(torch.ones(3))


def test_leaving_restores_the_model_whatever_happened():
    model = Crossed()
    before = {name: dict(module._forward_hooks) for name, module in model.named_modules()}
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        change_outputs(model, {"first": lambda output: output + 1}),
    ):
        raise RuntimeError("in the middle")
    with (
        pytest.raises(ValueError, match="no module 'missing'"),
        change_outputs(model, {"first": lambda output: output, "missing": lambda output: output}),
    ):
        pass
    after = {name: dict(module._forward_hooks) for name, module in model.named_modules()}
    assert after == before


def test_modules_are_found_below_a_wrapper_but_not_guessed():
    wrapper = nn.ModuleDict({"base": nn.ModuleDict({"one": Crossed(), "two": Crossed()})})
    assert find_module(wrapper, "one.first") is wrapper["base"]["one"].first
    with pytest.raises(ValueError, match="ambiguous"):
        find_module(wrapper, "first")


def test_a_colon_names_the_output():
    assert split_site("a.b:12") == ("a.b", 12)
    assert split_site("a.b") == ("a.b", 0)
