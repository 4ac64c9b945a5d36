"""Settings of the attribution commands: what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aim_plugins.core.settings import make_settings
from vision_bench.attribution.settings import AttributionSettings, BuildSettings, InitSettings


def given(**others: Any) -> AttributionSettings:
    values = {"dataset": "digits", "model": "lenet5", **others}
    return make_settings(AttributionSettings, values, "the config")


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"alpha": 0.0}, "alpha=0.0: give a share above 0 and below 1"),
        ({"alpha": 1.0}, "alpha=1.0: give a share above 0 and below 1"),
        ({"eval_alphas": (0.1, 1.0)}, "holds 1, which ablates everything"),
        ({"eval_masks": 2}, "eval_masks=2 are too few"),
        ({"gradient_passes": 0}, "gradient_passes=0 leave prior='gradient' nothing"),
        ({"num_ablations": 0, "prior": None}, "num_ablations=0 leaves prior=None nothing"),
        ({"num_ablations": 0, "gradient_passes": 0}, "measure nothing"),
        ({"baselines": ("leave_one_ot",)}, "did you mean 'leave_one_out'"),
        ({"components": "conv_filter"}, "did you mean 'conv_filters'"),
        ({"output_fn": "margins"}, "did you mean 'margin'"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_mend(
    others: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        given(**others)


def test_no_baselines_are_a_word() -> None:
    assert given(baselines=("none",)).compared == ()


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "a/b"])
def test_a_shard_is_one_of_so_many(shard: str) -> None:
    with pytest.raises(ValueError, match="give a part such as 1/4"):
        BuildSettings(dataset="digits", model="lenet5", shard=shard)


def test_shards_count_from_one() -> None:
    assert BuildSettings(dataset="digits", model="lenet5", shard="3/4").part == (3, 4)
    assert BuildSettings(dataset="digits", model="lenet5").part == (1, 1)


def test_a_config_that_is_written_is_python() -> None:
    with pytest.raises(ValueError, match=r"let its name end in \.py"):
        InitSettings(dataset="digits", model="lenet5", file=Path("mine.yaml"))
