"""Model entries as columns: which noise they ask for, and which of them share a load."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("opencompass")

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyObject

from aim_plugins.harnesses.opencompass.config.entries import (
    canonical,
    disjoint_combinations,
    sweep_groups,
)
from aim_plugins.harnesses.opencompass.config.modulations import split_modulation
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.gaussian import GaussianNoise

MODEL = "opencompass.models.HuggingFaceBaseModel"
OURS = "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel"


def entry(abbr, **settings):
    return ConfigDict(type=MODEL, abbr=abbr, path="org/model", **settings)


def noisy(abbr, std, **settings):
    return entry(abbr, generation_kwargs=dict(noise_std=std), **settings)


def column_of(std, mean=0.0, seed=0):
    return Column((GaussianNoise(std, mean, seed),), seed)


@pytest.mark.parametrize("inside", [True, False])
def test_noise_is_read_from_generation_kwargs_and_from_beside_them(inside):
    noise = dict(noise_std=0.5, noise_mean=0.1, noise_seed=3)
    settings = dict(path="p", generation_kwargs=dict(do_sample=False, **(noise if inside else {})))
    settings.update({} if inside else noise)
    before = copy.deepcopy(settings)
    split = split_modulation(settings)
    found, rest = split.column, split.rest
    assert found == column_of(0.5, 0.1, 3)
    assert rest == {"path": "p", "generation_kwargs": {"do_sample": False}}
    rest["generation_kwargs"]["do_sample"] = True
    assert settings == before


def test_an_entry_without_noise_is_the_unmodulated_model():
    split = split_modulation({"path": "p"})
    assert split == (Column(), {}, {"path": "p"})
    assert split_modulation({"generation_kwargs": None}).column == Column()


def test_both_places_may_agree_or_complete_each_other():
    noise, *_ = split_modulation(
        dict(noise_std=1, noise_seed=4, generation_kwargs=dict(noise_std=1.0, noise_mean=0.5))
    )
    assert noise == column_of(1.0, 0.5, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(noise_std=1.0, generation_kwargs=dict(noise_std=2.0)), "noise_std=1.0 .*disagrees"),
        (dict(noise_stdd=1.0), "noise_stdd=1.0 .*did you mean noise_std"),
        (dict(generation_kwargs=dict(noise_sed=1)), "noise_sed=1 .*did you mean noise_seed"),
        (dict(noise_draws=3), "noise_draws=3 .*draws .*entries of their own"),
        (dict(noise_std=[0.0, 0.5]), "one entry has one strength: write an entry for each"),
        (dict(noise_std="0:1:0.5"), "holds 3 strengths"),
        (dict(noise_std=[]), "at least one"),
        (dict(noise_std=-1.0), "noise_std=-1.0 is negative"),
        (dict(noise_std=float("nan")), "not finite"),
        (dict(noise_std=None), "noise_std=None is not a number"),
        (dict(noise_std=0.5, noise_seed=1.5), "noise_seed=1.5 .*give a whole number"),
        (dict(noise_std=0.5, noise_seed=2**63), "64-bit"),
        (dict(noise_std=0.5, noise_mean="a"), "noise_mean='a' must be a finite number"),
        (dict(noise_std=0.5, noise_mean=float("inf")), "noise_mean=inf"),
        (dict(generation_kwargs=[1]), "generation_kwargs=.* is no dict"),
    ],
)
def test_bad_noise_is_refused_with_its_name_and_value(settings, message):
    with pytest.raises(ValueError, match=message):
        split_modulation(settings)


def test_an_invalid_entry_is_named():
    with pytest.raises(ValueError, match="abbr='b'.*noise_std=-1"):
        sweep_groups([noisy("a", 0.0), ConfigDict(noisy("b", -1), type=OURS)])


def test_entries_equal_but_for_names_and_noise_are_one_group():
    models = [
        noisy("m-0.0", 0.0),
        noisy("other-0.0", 0.0, batch_size=8),
        entry("m-clean-seeded", noise_std=0.0, noise_seed=1),
        noisy("m-0.5", 0.5, summarizer_abbr="half"),
        noisy("other-0.5", 0.5, batch_size=8),
    ]
    first, second = sweep_groups(models)
    assert [e["abbr"] for e in first.entries] == ["m-0.0", "m-clean-seeded", "m-0.5"]
    assert first.columns == (column_of(0.0), column_of(0.0, seed=1), column_of(0.5))
    assert [e["abbr"] for e in second.entries] == ["other-0.0", "other-0.5"]


def test_the_order_of_settings_does_not_split_a_group():
    one = ConfigDict(type=MODEL, abbr="a-0", path="p", max_out_len=5, noise_std=0.0)
    two = ConfigDict(noise_std=1.0, max_out_len=5, path="p", abbr="a-1", type=MODEL)
    assert len(sweep_groups([one, two])) == 1


def test_a_shared_abbr_is_refused():
    with pytest.raises(ValueError, match="abbr='m-0.1' names two model entries.*rounded"):
        sweep_groups([noisy("m-0.1", 0.1), noisy("m-0.1", 0.11)])


def test_a_strength_given_twice_is_refused_with_both_entries():
    with pytest.raises(ValueError, match="abbr='a'.*abbr='b'.*noise_std=0.5.*remove one"):
        sweep_groups([noisy("a", 0.5), noisy("b", 0.5)])


def test_the_same_strength_of_another_model_or_seed_is_no_duplicate():
    models = [noisy("a", 0.5), noisy("b", 0.5, max_seq_len=9), entry("c", noise_std=0.5)]
    models[2]["noise_seed"] = 1
    assert [len(group.entries) for group in sweep_groups(models)] == [2, 1]


def test_entries_that_take_no_noise_are_groups_of_their_own():
    models = [entry("sample-1"), entry("sample-2"), noisy("a", 0.0), noisy("b", 0.5)]
    groups = sweep_groups(models)
    assert [[e["abbr"] for e in group.entries] for group in groups] == [
        ["sample-1"],
        ["sample-2"],
        ["a", "b"],
    ]
    with pytest.raises(ValueError, match="abbr='sample-1' names two model entries"):
        sweep_groups([entry("sample-1"), entry("sample-1")])


@pytest.mark.parametrize("place", ["opencompass", "opencompass.models"])
def test_an_entry_of_our_class_joins_its_sweep_without_a_noise(place):
    ours = f"aim_plugins.harnesses.{place}.HuggingFaceNoiseModel"
    models = [
        ConfigDict(type=ours, abbr="clean", path="p"),
        ConfigDict(type=ours, abbr="noisy", path="p", noise_std=0.5),
    ]
    assert len(sweep_groups(models)) == 1
    with pytest.raises(ValueError, match="same model with the same noise"):
        sweep_groups([models[0], ConfigDict(models[0], abbr="twin")])


def test_overlapping_combinations_hold_each_pair_once():
    a, b, c = (entry(name) for name in "abc")
    one, two = ({"abbr": name, "path": name} for name in ("one", "two"))
    given = [
        dict(models=[a, b], datasets=[one]),
        dict(models=[a, c], datasets=[two, one]),
        dict(models=[b], datasets=[one]),
    ]
    pairs = [
        (model["abbr"], data["abbr"])
        for combination in disjoint_combinations(given)
        for model in combination["models"]
        for data in combination["datasets"]
    ]
    assert sorted(pairs) == [
        ("a", "one"), ("a", "two"), ("b", "one"), ("c", "one"), ("c", "two"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("abbrs", "name"),
    [
        (["llama-3-8b-noise-0.0", "llama-3-8b-noise-0.1"], "llama-3-8b-noise"),
        (["qwen_std=0.5", "qwen_std=0.75"], "qwen_std"),
        (["alone-0.5"], "alone-0.5"),
        (["x0", "x1"], "model"),
    ],
)
def test_a_group_is_named_by_what_its_abbrs_share(abbrs, name):
    (group,) = sweep_groups([noisy(abbr, std) for std, abbr in enumerate(abbrs)])
    assert group.name == name


def test_group_names_are_unique_file_names():
    models = [
        noisy(f"a/b-{std}-{size}", std, max_seq_len=size) for size in (1, 2) for std in (0, 1)
    ]
    first, second = (group.name for group in sweep_groups(models))
    assert second == f"{first}-2"
    assert "/" not in first


def test_classes_lazy_objects_and_dotted_text_are_the_same_type():
    from opencompass.models import HuggingFaceBaseModel

    lazy = LazyObject("opencompass.models", "HuggingFaceBaseModel")
    kinds = [HuggingFaceBaseModel, lazy, MODEL, f"{HuggingFaceBaseModel.__module__}.{MODEL[19:]}"]
    assert len({canonical({"type": kind})["type"] for kind in kinds}) == 1
    assert canonical({"type": "GenInferencer"}) == {"type": "GenInferencer"}
    assert canonical({"type": "no.such.module"}) == {"type": "no.such.module"}


def test_a_dumped_and_reloaded_config_is_canonically_the_same(tmp_path):
    source = tmp_path / "config.py"
    source.write_text(
        "import torch\n"
        "from opencompass.models import HuggingFaceBaseModel\n"
        "models = [dict(type=HuggingFaceBaseModel, abbr='a', path='p', stop=('x', 1),\n"
        "    big=10**20, model_kwargs={'torch_dtype': torch.float16, 'a b': {2: None}}, t=0.1)]\n"
    )
    cfg = Config.fromfile(source, format_python_code=False)
    cfg.dump(tmp_path / "dumped.py")
    again = Config.fromfile(tmp_path / "dumped.py", format_python_code=False)
    built = dict(cfg.models[0].items())  # reading like this imports the class
    assert isinstance(built["type"], type)
    assert canonical(cfg.models[0]) == canonical(again.models[0]) == canonical(built)
    assert canonical(again.models[0])["model_kwargs"]["torch_dtype"] == "torch.float16"


def test_grouping_leaves_the_entries_as_they_were():
    models = [noisy("a", 0.0), noisy("b", 1.0)]
    before = copy.deepcopy(models)
    (group,) = sweep_groups(models)
    assert models == before
    assert all(kept is given for kept, given in zip(group.entries, models, strict=True))
