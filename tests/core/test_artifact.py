"""Whatever is learned on a model is read back whole or refused in one line, and knows its model.

The kind of these tests exists nowhere else: a mask with one tensor for each weight.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from aim_plugins.core import artifact
from aim_plugins.core.artifact import ArtifactMetadata, load, save
from aim_plugins.core.files import is_temporary, sha256_of
from aim_plugins.core.identity import fingerprint

WEIGHTS = ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight")


@dataclass(frozen=True)
class MaskMetadata(ArtifactMetadata):
    KIND: ClassVar[str] = "mask"
    MADE_BY: ClassVar[str] = "`aim-plugins mask`"

    retained: float = 0.5
    classes: Sequence[int] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    limit: int | None = None
    frozen: bool = False


@dataclass(frozen=True)
class LaterMaskMetadata(MaskMetadata):
    SCHEMA_VERSION: ClassVar[int] = 2


def make_mask(model: Any, seed: int = 0) -> tuple[dict[str, torch.Tensor], MaskMetadata]:
    """A random mask of two weights, in two dtypes, one of them a view of a larger tensor."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (model.get_parameter(name).shape for name in WEIGHTS)
    tensors = {
        WEIGHTS[0]: torch.rand(first, generator=generator) < 0.5,
        WEIGHTS[1]: torch.rand((*second, 2), generator=generator)[..., 0],
    }
    metadata = MaskMetadata.of_model(
        model, method="magnitude", sites=WEIGHTS, seed=seed, classes=[3, 1], counts={"kept": 7}
    )
    return tensors, metadata


@pytest.fixture
def saved(tiny_llama: Any, tmp_path: Path) -> Path:
    return save(tmp_path / "new" / "mask", *make_mask(tiny_llama))


def refusal(folder: Path, kind: type[ArtifactMetadata] = MaskMetadata) -> str:
    with pytest.raises(ValueError) as caught:
        load(folder, kind)
    message = str(caught.value)
    assert "\n" not in message and "`aim-plugins mask`" in message
    return message


def rewrite(folder: Path, **changes: Any) -> None:
    """Changes the metadata with the checksum that guards them."""
    path = folder / "mask.json"
    payload = {**json.loads(path.read_text()), **changes}
    payload["sha256"] = fingerprint({name: payload[name] for name in payload if name != "sha256"})
    path.write_text(json.dumps(payload))


def test_an_artifact_reads_back_bit_for_bit(tiny_llama: Any, saved: Path) -> None:
    tensors, metadata = make_mask(tiny_llama)
    found, known = load(saved, MaskMetadata)
    assert known == metadata
    assert (known.base_model, known.sites) == ("", list(WEIGHTS))
    assert known.versions.keys() >= {"python", "torch"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert sorted(path.name for path in saved.iterdir()) == ["mask.json", "mask.safetensors"]


def test_the_same_artifact_is_saved_in_the_same_bytes(tiny_llama: Any, tmp_path: Path) -> None:
    one, two = (save(tmp_path / name, *make_mask(tiny_llama)) for name in ("one", "two"))
    for name in ("mask.json", "mask.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_artifacts_of_several_kinds_share_a_folder(tiny_llama: Any, saved: Path) -> None:
    @dataclass(frozen=True)
    class Edit(ArtifactMetadata):
        KIND: ClassVar[str] = "edit"
        MADE_BY: ClassVar[str] = "a test"

    edit = Edit.of_model(tiny_llama, method="zero", sites=["a"])
    save(saved, {"a": torch.zeros(2)}, edit)
    assert load(saved, Edit)[1] == edit
    assert load(saved, MaskMetadata)[1].method == "magnitude"


@pytest.mark.parametrize("name", ["mask.json", "mask.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert f"mask='{saved}' has no file '{name}'" in refusal(saved)


def test_a_place_that_is_no_folder_is_told(saved: Path) -> None:
    assert "is no folder" in refusal(saved / "none")
    assert "is no folder" in refusal(saved / "mask.json")


@pytest.mark.parametrize("name", ["mask.json", "mask.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    assert "cut short" in refusal(saved)


def test_a_single_flipped_bit_is_refused(saved: Path) -> None:
    path = saved / "mask.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "SHA-256" in refusal(saved)


def test_a_file_that_is_no_safetensors_is_refused(saved: Path) -> None:
    (saved / "mask.safetensors").write_bytes(b"no tensors")
    rewrite(saved, tensors_sha256=sha256_of(saved / "mask.safetensors"))
    assert "no safetensors file" in refusal(saved)


@pytest.mark.parametrize("content", ["[]", "3", '{"kind": "mask"}', "\ufeff{}", '"mask"'])
def test_json_of_something_else_is_refused(saved: Path, content: str) -> None:
    (saved / "mask.json").write_text(content, encoding="utf-8")
    refusal(saved)


def test_another_kind_or_version_is_refused(saved: Path) -> None:
    assert "schema_version=1" in refusal(saved, LaterMaskMetadata)
    rewrite(saved, kind="transport")
    assert "kind='transport'" in refusal(saved)


@pytest.mark.parametrize("name", ["retained", "seed", "sites", "tensors_sha256", "sha256"])
def test_a_missing_field_is_named(saved: Path, name: str) -> None:
    payload = json.loads((saved / "mask.json").read_text())
    del payload[name]
    (saved / "mask.json").write_text(json.dumps(payload))
    assert f"lacks {name}" in refusal(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"retained": "half"},
        {"retained": True},
        {"retained": None},
        {"seed": 0.5},
        {"seed": False},
        {"limit": "none"},
        {"frozen": 1},
        {"method": None},
        {"sites": "model"},
        {"sites": {"model": 1}},
        {"classes": [1, "2"]},
        {"counts": [1]},
        {"counts": {"kept": "all"}},
        {"versions": {"torch": 2}},
        {"model_signature": None},
        {"model_signature": {"weights": {"a": {"shape": 32, "values": [1.0]}}}},
        {"tensors_sha256": 5},
    ],
)
def test_a_value_of_another_type_is_refused_and_named(saved: Path, change: dict[str, Any]) -> None:
    rewrite(saved, **change)
    assert f"values of other types than it should ({next(iter(change))})" in refusal(saved)


@pytest.mark.parametrize(
    "change", [{"retained": 1}, {"limit": 5}, {"limit": None}, {"classes": []}, {"counts": {}}]
)
def test_values_of_the_right_types_are_read(saved: Path, change: dict[str, Any]) -> None:
    rewrite(saved, **change)
    ((name, value),) = change.items()
    assert getattr(load(saved, MaskMetadata)[1], name) == value


@pytest.mark.parametrize("change", [{"retained": 0.25}, {"sites": list(WEIGHTS[::-1])}])
def test_edited_metadata_is_refused(saved: Path, change: dict[str, Any]) -> None:
    path = saved / "mask.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert "altered" in refusal(saved)


@pytest.mark.parametrize("killed_at", ["mask.safetensors", "mask.json"])
def test_a_killed_save_leaves_the_old_artifact_or_a_refused_pair(
    saved: Path, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    write = artifact.write_atomic

    def write_until(path: Path, content: bytes | str) -> Path:
        if path.name == killed_at:
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(artifact, "write_atomic", write_until)
    with pytest.raises(KeyboardInterrupt):
        save(saved, *make_mask(tiny_llama, seed=1))
    if killed_at == "mask.safetensors":
        assert load(saved, MaskMetadata)[1].seed == 0
    else:
        assert "saving was interrupted" in refusal(saved)
    monkeypatch.undo()
    save(saved, *make_mask(tiny_llama, seed=1))
    assert load(saved, MaskMetadata)[1].seed == 1
    assert not any(map(is_temporary, saved.iterdir()))


def test_another_model_is_refused_unless_forced(
    tiny_llama: Any, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, known = load(saved, MaskMetadata)
    known.check_model(copy.deepcopy(tiny_llama).bfloat16())
    assert not caplog.records
    tuned = copy.deepcopy(tiny_llama)
    tuned.model.layers[-1].mlp.up_proj.weight.data.mul_(1.05)
    with pytest.raises(ValueError, match=r"the mask was learned on .*other weights .*up_proj"):
        known.check_model(tuned)
    with pytest.raises(ValueError, match="this model is a Linear; .*force_mask=True"):
        known.check_model(torch.nn.Linear(2, 2))
    known.check_model(tuned, force=True)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "other weights" in record.getMessage()


def test_a_model_that_cannot_be_compared_is_warned_of(
    tiny_llama: Any, caplog: pytest.LogCaptureFixture
) -> None:
    MaskMetadata(method="magnitude", sites=WEIGHTS).check_model(tiny_llama)
    assert "weights are unknown" in caplog.text


def test_metadata_are_read_without_torch() -> None:
    code = "import sys, aim_plugins.core.artifact; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
