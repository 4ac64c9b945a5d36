"""A dataset is the same whoever computed its blocks; nothing is lost, or computed twice."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from aim_plugins.attribution.dataset import BLOCKS, ComponentDataset, build, merge
from aim_plugins.attribution.plan import BLOCK, DatasetPlan
from aim_plugins.attribution.subject import factors_of
from aim_plugins.attribution.tensor_file import write_pieces
from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.ablation import ablation_mask
from tests.attribution.conftest import FormulaSubject, ImageSubject, image_subject
from tests.conftest import die_in_a_copy

FILES = ("component_dataset.safetensors", "component_dataset.json")


def plan_of(subject, **given) -> DatasetPlan:
    held = {"output": "margin", "masks": 200, "gradient_passes": 20, "alpha": 0.3, "seed": 5}
    return DatasetPlan.of(subject, **held | given)


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A dataset that one run has made."""
    subject = image_subject()
    folder = tmp_path_factory.mktemp("whole")
    assert build(plan_of(subject), subject, folder)
    return folder


def test_a_dataset_holds_masks_of_the_seed_and_outputs_under_them(whole: Path) -> None:
    dataset, subject = ComponentDataset.load(whole), image_subject()
    seeds = [(5, number) for number in range(200)]
    seeds += [(seed_of(5, "gradients"), number) for number in range(20)]
    masks = np.stack([ablation_mask(len(subject.components), 0.3, *one) for one in seeds])
    assert np.array_equal(dataset.ablated(0, 220), masks)
    assert np.array_equal(dataset.columns(8, 10), masks[:, 8:10])
    expected = subject.outputs(factors_of(masks)).numpy()
    assert dataset.outputs(0, 220) == pytest.approx(expected, abs=1e-5)


def test_gradients_are_means_of_passes_that_keep_a_component_and_of_others(whole: Path) -> None:
    dataset, subject = ComponentDataset.load(whole), image_subject()
    ablated = torch.from_numpy(dataset.ablated(200, 220))
    gradients = torch.stack([subject.gradients(row)[1] for row in (~ablated).float()])
    for number in range(len(subject.components)):
        own = ablated[:, number]
        kept, ablated_mean = (gradients[one, :, number].mean(0).numpy() for one in (~own, own))
        column = slice(number, number + 1)
        assert dataset.kept[:, column][:, 0] == pytest.approx(kept, abs=1e-5)
        assert dataset.change[:, column][:, 0] == pytest.approx(ablated_mean - kept, abs=1e-5)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_shards_merge_to_the_bytes_of_one_run(count: int, whole: Path, tmp_path: Path) -> None:
    subject = image_subject()
    plan = plan_of(subject)
    folders = [tmp_path / str(own) for own in range(count)]
    for own, folder in enumerate(folders, 1):
        assert not build(plan, subject, folder, shard=(own, count))
    assert subject.passes.forward == 220
    merged = merge(folders[::-1], tmp_path / "merged")
    assert contents(merged) == contents(whole)


def test_the_last_shard_of_a_shared_folder_writes_the_dataset(whole: Path, tmp_path: Path) -> None:
    subject = image_subject()
    made = [build(plan_of(subject), subject, tmp_path, shard=(own, 3)) for own in (3, 1, 2)]
    assert made == [False, False, True]
    assert contents(tmp_path) == contents(whole)


def test_a_killed_build_goes_on(whole: Path, tmp_path: Path) -> None:
    def die_at_the_third_call() -> None:
        subject = image_subject()
        plan, outputs, calls = plan_of(subject), subject.outputs, []

        def killed(factors):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return outputs(factors)

        subject.outputs = killed
        build(plan, subject, tmp_path)

    die_in_a_copy(die_at_the_third_call)
    assert len(list((tmp_path / BLOCKS).glob("*.safetensors"))) == 2
    subject = image_subject()
    steps: list[tuple[int, int]] = []
    assert build(plan_of(subject), subject, tmp_path, after=lambda *step: steps.append(step))
    assert subject.passes.forward == 220 - 2 * 64
    assert steps == [(number, 6) for number in range(1, 7)]
    assert contents(tmp_path) == contents(whole)


def test_what_is_whole_is_not_computed_again(whole: Path) -> None:
    subject = image_subject()
    assert build(plan_of(subject), subject, whole)
    assert subject.passes.forward == 0


def test_unfinished_data_is_refused_and_named(tmp_path: Path) -> None:
    subject = image_subject()
    build(plan_of(subject), subject, tmp_path, shard=(1, 4))
    lacks = (
        r"is unfinished: masks 64-127 \(block 1\), masks 128-191 \(block 2\) and 1 more, "
        r"gradient passes \d+-\d+ \(block 5\) are missing; run build --shard 2/4"
    )
    with pytest.raises(ValueError, match=lacks):
        ComponentDataset.load(tmp_path)
    with pytest.raises(ValueError, match=lacks):
        merge([tmp_path], tmp_path / "merged")


def test_blocks_that_nobody_put_together_are_not_a_dataset(whole: Path, tmp_path: Path) -> None:
    subject = image_subject()
    build(plan_of(subject), subject, tmp_path)
    (tmp_path / FILES[1]).unlink()
    with pytest.raises(ValueError, match="run build again, which computes nothing twice"):
        ComponentDataset.load(tmp_path)


def test_a_folder_without_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"component_dataset=.* has no file"):
        ComponentDataset.load(tmp_path)
    with pytest.raises(ValueError, match=r"has no file 'plan.json'"):
        merge([tmp_path], tmp_path / "merged")
    with pytest.raises(ValueError, match="folders: give those of all shards"):
        merge([], tmp_path / "merged")


def test_an_altered_block_is_named(tmp_path: Path) -> None:
    subject = image_subject()
    plan = plan_of(subject)
    build(plan, subject, tmp_path, shard=(1, 2))
    (tmp_path / BLOCKS / "outputs-000000.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"outputs-000000.* is cut short or altered"):
        build(plan, subject, tmp_path, shard=(2, 2))


def test_a_block_of_another_plan_is_refused(tmp_path: Path) -> None:
    subject, name = image_subject(), "outputs-000000.safetensors"
    build(plan_of(subject, seed=6), subject, tmp_path / "other", shard=(1, 9))
    own = tmp_path / "own" / BLOCKS / name
    own.parent.mkdir(parents=True)
    own.write_bytes((tmp_path / "other" / BLOCKS / name).read_bytes())
    with pytest.raises(ValueError, match=r"outputs-000000.* is a block of another plan"):
        build(plan_of(subject), subject, tmp_path / "own")
    # Nor is one put together of it that another shard has made.
    build(plan_of(subject), subject, tmp_path / "own", shard=(2, 3))
    build(plan_of(subject), subject, tmp_path / "rest")
    with pytest.raises(ValueError, match=r"own/.*outputs-000000.* is a block of another plan"):
        merge([tmp_path / "own", tmp_path / "rest"], tmp_path / "merged")


def test_a_block_of_other_masks_is_refused(tmp_path: Path) -> None:
    subject = image_subject()
    plan = plan_of(subject)
    build(plan, subject, tmp_path, shard=(1, 2))
    path = tmp_path / BLOCKS / "outputs-000000.safetensors"
    held = load_file(path)
    held["ablated"][0, 0] ^= 1
    save_file(held, path, metadata={"plan": plan.sha256})
    with pytest.raises(ValueError, match=r"outputs-000000.* has other masks than the plan"):
        build(plan, subject, tmp_path, shard=(2, 2))


def test_shards_of_other_block_sizes_are_refused(tmp_path: Path, monkeypatch) -> None:
    subject = image_subject()
    build(plan_of(subject), subject, tmp_path, shard=(1, 2))
    monkeypatch.setitem(BLOCK, "outputs", 32)
    with pytest.raises(ValueError, match="block_sizes is {'outputs': 64, .* there, not {'outputs'"):
        build(plan_of(subject), subject, tmp_path, shard=(2, 2))


def test_a_dataset_has_the_versions_of_whoever_began_it(whole: Path, tmp_path: Path) -> None:
    subject = image_subject()
    plan = plan_of(subject)
    build(plan, subject, tmp_path, shard=(1, 2))
    later = dataclasses.replace(plan, versions={"torch": "99"})
    assert later.sha256 == plan.sha256
    build(later, subject, tmp_path, shard=(2, 2))
    assert contents(tmp_path) == contents(whole)


def test_an_altered_plan_is_refused(tmp_path: Path) -> None:
    subject = image_subject()
    build(plan_of(subject), subject, tmp_path, shard=(1, 9))
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
    with pytest.raises(ValueError, match=r"plan.json was altered"):
        ComponentDataset.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha": 0.2}, "alpha is 0.3 there, not 0.2"),
        ({"seed": 1}, "seed is 5 there, not 1"),
        ({"masks": 64}, "masks is 200 there, not 64"),
        ({"output": "log_likelihood"}, "output is 'margin' there"),
        ({"data_sha256": "00"}, "data_sha256 is '' there, not '00'"),
    ],
)
def test_a_folder_of_another_plan_is_refused(change, named: str, whole: Path) -> None:
    subject = image_subject()
    with pytest.raises(ValueError, match=named):
        build(plan_of(subject, **change), subject, whole)


def test_shards_of_different_plans_are_not_merged(tmp_path: Path) -> None:
    subject = image_subject()
    for name, seed in (("one", 1), ("two", 2)):
        build(plan_of(subject, seed=seed), subject, tmp_path / name, shard=(1, 9))
    with pytest.raises(ValueError, match="two: seed is 2 there, not 1"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")


def test_another_model_than_the_planned_one_is_refused(tmp_path: Path) -> None:
    subject = image_subject()
    plan = plan_of(subject)
    subject.model[0].weight.data += 1
    with pytest.raises(ValueError, match="the subject: fingerprint is"):
        build(plan, subject, tmp_path)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"data_sha256": "bb"}, "the subject: data_sha256 is 'bb' there, not 'aa'"),
        ({"output": "log_likelihood"}, "the subject: output is 'log_likelihood' there"),
        ({"names": list("vwxyz")}, r"the subject: examples is \['v', 'w', 'x', 'y', 'z'\] there"),
    ],
)
def test_other_examples_than_the_planned_ones_are_refused(other, named, tmp_path: Path) -> None:
    own = {"output": "margin", "data_sha256": "aa", "names": list("abcde")}
    plan = DatasetPlan.of(image_subject(**own), masks=70)
    build(plan, image_subject(**own), tmp_path, shard=(1, 2))
    with pytest.raises(ValueError, match=named):
        build(plan, image_subject(**own | other), tmp_path, shard=(2, 2))


def test_a_subject_that_nobody_has_described_is_not_the_planned_one(tmp_path: Path) -> None:
    plan = plan_of(image_subject(), data_sha256="aa")
    with pytest.raises(ValueError, match="output: the subject does not know what is attributed"):
        build(plan, image_subject(), tmp_path)


def test_what_a_subject_knows_is_not_told_anew() -> None:
    subject = image_subject(output="margin", data_sha256="aa")
    with pytest.raises(ValueError, match="data_sha256: the subject has 'aa', not 'bb'"):
        plan_of(subject, data_sha256="bb")
    assert plan_of(subject).data_sha256 == "aa"


def test_a_model_in_train_mode_is_refused(tmp_path: Path) -> None:
    subject = image_subject()
    plan = plan_of(subject)
    subject.model[1].train()
    with pytest.raises(ValueError, match="model: 1 is in train mode"):
        build(plan, subject, tmp_path)
    with pytest.raises(ValueError, match="model: 1 is in train mode"):
        subject.whole()
    with pytest.raises(ValueError, match="model: 1 is in train mode"):
        subject.gradients(torch.ones(len(subject.components)))
    with pytest.raises(ValueError, match="model: 1 is in train mode"):
        ImageSubject(subject.model, subject.components, subject.images)


def test_a_block_with_an_output_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    subject = FormulaSubject()
    plan = plan_of(subject, masks=128, gradient_passes=2)
    outputs, gradients = subject.outputs, subject.gradients

    def spoiled(factors):
        found = outputs(factors)
        if len(list((tmp_path / BLOCKS).iterdir())) == 1:
            found[3, 2] = float("inf")
        return found

    subject.outputs = spoiled
    with pytest.raises(ValueError, match="output of example '2' under mask 67 is inf: leave"):
        build(plan, subject, tmp_path)
    assert len(list((tmp_path / BLOCKS).iterdir())) == 1
    subject.outputs = outputs

    def steep(factors):
        output, gradient = gradients(factors)
        gradient[1, 4] = float("nan")
        return output, gradient

    subject.gradients = steep
    with pytest.raises(ValueError, match=r"derivative of example '1' by layer\[4\] is nan: leave"):
        build(plan, subject, tmp_path)


def test_shards_share_all_blocks_out() -> None:
    plan = plan_of(FormulaSubject(), masks=1000, gradient_passes=100)
    places = [block.place for block in plan.blocks()]
    assert places == list(range(16 + 7))
    masks = {kind: [] for kind in ("outputs", "gradients")}
    for block in plan.blocks():
        masks[block.kind] += block.masks
    assert masks == {"outputs": list(range(1000)), "gradients": list(range(100))}


def test_a_shard_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    subject = FormulaSubject()
    for shard in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match=rf"shard={shard[0]}/2: give 1/2 to 2/2"):
            build(plan_of(subject), subject, tmp_path, shard=shard)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_alpha_lies_inside_its_bounds(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha=.*above 0 and below 1"):
        plan_of(FormulaSubject(), alpha=alpha)


def test_too_few_masks_or_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"masks=1 and gradient_passes=0: give two or more"):
        plan_of(FormulaSubject(), masks=1, gradient_passes=0)
    with pytest.raises(ValueError, match=r"examples: 1 names of 3 examples"):
        plan_of(FormulaSubject(), examples=["one"])


def test_a_component_that_all_passes_keep_or_ablate_has_their_mean(tmp_path: Path) -> None:
    subject = FormulaSubject(curved=True)
    plan = plan_of(subject, masks=0, gradient_passes=2, alpha=0.3)
    build(plan, subject, tmp_path)
    dataset = ComponentDataset.load(tmp_path)
    ablated = dataset.ablated(0, 2)
    gradients = np.stack([subject.gradients(row)[1].numpy() for row in factors_of(ablated)])
    same = ablated[0] == ablated[1]
    assert same.any() and not same.all()
    mean = gradients.mean(0)
    assert dataset.kept[0:3][:, same] == pytest.approx(mean[:, same], abs=1e-5)
    assert (dataset.change[0:3][:, same] == 0).all()
    halfway = dataset.kept[0:3] + dataset.change[0:3] / 2
    assert halfway == pytest.approx(mean, abs=1e-5)


def test_gradients_tell_effects_of_a_quadratic_without_bias(tmp_path: Path) -> None:
    """E[f | kept] - E[f | ablated] in closed form, within four of the estimate's own deviations."""
    subject, kept, passes = FormulaSubject(curved=True), 0.7, 2000
    build(plan_of(subject, masks=0, gradient_passes=passes), subject, tmp_path)
    dataset = ComponentDataset.load(tmp_path)
    found = dataset.kept[0:3] + dataset.change[0:3] / 2
    both = (subject.squares + subject.squares.mT).double()
    own = both.diagonal(dim1=1, dim2=2)
    effects = subject.linear.double() + own / 2 + kept * (both.sum(2) - own)
    spread = kept * (1 - kept) * (both.square().sum(2) - own.square())
    deviation = (spread / 4 * (1 / (passes * kept) + 1 / (passes * (1 - kept)))).sqrt()
    errors = (torch.from_numpy(found) - effects) / deviation
    assert errors.abs().max() < 4
    # Gradients where all is kept, or where components are, would be far off.
    assert ((subject.linear + both.sum(2) - effects) / deviation).abs().max() > 20


def test_pieces_make_the_file_that_safetensors_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    packed, values = rng.integers(256, size=(5, 3)).astype(np.uint8), rng.normal(size=(4, 2))
    shapes = {"packed": ("U8", (5, 3)), "values": ("F32", (4, 2))}
    path = tmp_path / "pieces.safetensors"
    sha256 = write_pieces(path, shapes, [packed[:2], packed[2:], values.astype(np.float32)])
    held = load_file(path)
    assert np.array_equal(held["packed"], packed)
    assert np.array_equal(held["values"], values.astype(np.float32))
    import hashlib

    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def test_a_file_of_too_few_pieces_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 bytes of values, not 16"):
        write_pieces(tmp_path / "x", {"a": ("F32", (4,))}, [np.zeros(2, np.float32)])
    assert list(tmp_path.iterdir()) == []


def test_versions_of_packages_make_no_other_dataset() -> None:
    plan = plan_of(FormulaSubject())
    plan.check_same(dataclasses.replace(plan, versions={"torch": "1.0"}), "there")
