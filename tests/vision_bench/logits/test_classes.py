"""Reading cached logits, and refusing what cannot be meant."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vision_bench.logits.classes import load_logits

LOGITS = np.array([[1.0, 2.0, -np.inf], [0.5, 0.0, 3.0]], dtype=np.float32)
LABELS = np.array([1, 2])


def write(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "cached.npz"
    np.savez(path, **arrays)
    return path


def test_npz_and_safetensors_hold_the_same(tmp_path: Path):
    npz = load_logits(write(tmp_path, logits=LOGITS, labels=LABELS, other=np.zeros(3)))
    save_file(
        {"logits": torch.from_numpy(LOGITS), "labels": torch.from_numpy(LABELS)},
        tmp_path / "cached.safetensors",
    )
    safetensors = load_logits(tmp_path / "cached.safetensors")
    for cached in (npz, safetensors):
        assert np.array_equal(cached.logits.numpy(), LOGITS)
        assert cached.labels.tolist() == [1, 2]
    assert npz.sha256 == hashlib.sha256((tmp_path / "cached.npz").read_bytes()).hexdigest()


def test_half_precision_is_kept(tmp_path: Path):
    save_file(
        {"logits": torch.ones(2, 3, dtype=torch.bfloat16), "labels": torch.tensor([0, 1])},
        tmp_path / "cached.safetensors",
    )
    assert load_logits(tmp_path / "cached.safetensors").logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": LOGITS}, r"no array 'labels' but \['logits'\]"),
        ({"scores": LOGITS, "labels": LABELS}, r"no array 'logits' but \['labels', 'scores'\]"),
        ({"logits": LOGITS[0], "labels": LABELS}, r"shape \(3,\), not \[documents, classes\]"),
        ({"logits": LOGITS[:0], "labels": LABELS[:0]}, "at least one document"),
        ({"logits": LOGITS[:, :1], "labels": LABELS}, "two classes"),
        ({"logits": LABELS[:, None].repeat(2, 1), "labels": LABELS}, "logits are torch.int64"),
        ({"logits": LOGITS, "labels": LABELS[:1]}, r"labels have shape \(1,\)"),
        ({"logits": LOGITS, "labels": LABELS.astype(float)}, "labels are torch.float64"),
        ({"logits": LOGITS, "labels": np.array([1, 3])}, r"document 1 is 3, outside \[0, 3\)"),
        ({"logits": LOGITS, "labels": np.array([-100, 0])}, r"document 0 is -100"),
        ({"logits": LOGITS * [[1], [np.nan]], "labels": LABELS}, "document 1 are not usable"),
        ({"logits": LOGITS, "labels": np.array(["a", "b"])}, "plain number arrays"),
        ({"logits": np.array([{}, {}]), "labels": LABELS}, "plain number arrays"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, arrays: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_logits(write(tmp_path, **arrays))


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path):
    trace = tmp_path / "trace"
    path = write(tmp_path, logits=np.array([Payload(trace)], dtype=object), labels=LABELS)
    with pytest.raises(ValueError, match="plain number arrays"):
        load_logits(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".npz":
        np.savez_compressed(whole, logits=LOGITS, labels=LABELS)
    else:
        save_file({"logits": torch.ones(2, 3), "labels": torch.tensor([0, 1])}, whole)
    damaged = tmp_path / f"damaged{suffix}"
    for content in (b"", whole.read_bytes()[:-40], b"not an archive"):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=f"damaged{suffix} is no"):
            load_logits(damaged)


def test_a_lone_array_is_refused(tmp_path: Path):
    with open(tmp_path / "cached.npz", "wb") as file:
        np.save(file, LOGITS)
    with pytest.raises(ValueError, match="is no .npz file"):
        load_logits(tmp_path / "cached.npz")


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="the suffix is '.pt'"):
        load_logits(tmp_path / "cached.pt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_logits(tmp_path / "absent.npz")
