"""Claims about where models run, and how long their inputs may be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aim_plugins.core import devices
from aim_plugins.core.devices import best_device, model_window, pass_device


@pytest.mark.parametrize(
    ("accelerator", "device"), [(None, "cpu"), ("cuda", "cuda"), ("xpu", "xpu"), ("mps", "cpu")]
)
def test_the_best_device_is_an_accelerator_with_double_precision(
    monkeypatch: pytest.MonkeyPatch, accelerator: str | None, device: str
) -> None:
    found = None if accelerator is None else torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: found is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
    assert best_device() == best_device("") == torch.device(device)
    assert best_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("asked", ["abacus", "cuda:-1", "meta", "hpu"])
def test_a_device_that_is_not_there_is_named_with_the_mend(asked: str) -> None:
    with pytest.raises(ValueError, match=rf"^device='{asked}' cannot be used: .*; give cpu, .*out"):
        best_device(asked)


def test_several_processes_choose_their_own_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pass_device(None) == best_device()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert pass_device(None) is None
    assert pass_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not devices.is_main_process() and devices.speaks_for_machine()


@pytest.mark.parametrize(("rank", "waits"), [("0", 0), ("1", 1)])
def test_the_first_process_of_a_machine_reports_what_all_find_wrong(
    monkeypatch: pytest.MonkeyPatch, rank: str, waits: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(devices.time, "sleep", pauses.append)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(ValueError, match="a wrong setting"), devices.one_voice():
        raise ValueError("a wrong setting")
    assert len(pauses) == waits


def config(**settings: Any) -> SimpleNamespace:
    return SimpleNamespace(**settings)


@pytest.mark.parametrize(
    ("settings", "limit", "window"),
    [
        (config(max_position_embeddings=128, n_ctx=64), 32, 128),
        (config(n_positions=1024), None, 1024),
        (config(n_ctx=512), None, 512),
        (config(max_seq_len=2048), None, 2048),
        (config(seq_length=8192), None, 8192),
        (config(model_max_length=4096), None, 4096),
        (config(max_position_embeddings=-1), 512, 512),
        (config(max_position_embeddings=None), int(1e30), None),
        (config(get_text_config=lambda: config(max_position_embeddings=77)), None, 77),
        (config(), None, None),
    ],
)
def test_the_window_is_the_configurations_or_else_the_tokenizers(
    settings: SimpleNamespace, limit: int | None, window: int | None
) -> None:
    assert model_window(settings, config(model_max_length=limit)) == window
