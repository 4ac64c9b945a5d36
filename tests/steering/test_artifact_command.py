"""The commands that show, fold and convert transports."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.steering.commands.parser import main
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
from aim_plugins.transport.change import warn_once

NORM = "model.layers.1.input_layernorm"
WIDTH = 48


def run(*words: Any) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def saved(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A transport with one large move, on a quarter of the neurons with a support."""
    scale, shift = torch.ones(WIDTH), torch.zeros(WIDTH)
    low, high = torch.full((WIDTH,), -torch.inf), torch.full((WIDTH,), torch.inf)
    scale[5], low[5], high[5] = 3.0, 1.0, 3.0  # adds (3 - 1) * 2 in the middle
    low[6:17], high[6:17] = -1.0, 1.0
    shift[20] = -2.5
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    maps = ActivationMaps({NORM: AffineMap(scale, shift, low, high)})
    metadata = TransportMetadata.describe(
        model, AutoTokenizer.from_pretrained(tiny_checkpoint), method="linear", sites=[NORM]
    )
    return LearnedTransport(maps, metadata).save(tmp_path / "transport")


def test_show_tells_what_a_transport_moves(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", saved, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    site = shown["sites"][0]
    assert site["mean_scale_change"] == pytest.approx(2 / WIDTH)
    assert site["mean_shift"] == pytest.approx(2.5 / WIDTH)
    assert site["supported_share"] == pytest.approx(12 / WIDTH)
    assert [(m["neuron"], m["move"]) for m in shown["largest_moves"][:2]] == [(5, 4.0), (20, -2.5)]
    assert shown["architecture"] == "LlamaForCausalLM"


def test_show_prints_a_line_for_each_site(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", saved) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith(NORM))
    assert line.split()[1:] == [str(WIDTH), "0.04167", "0.05208", "25%", "0"]
    assert "linear" in printed and "neuron 5: +4" in printed
    assert "source responses by an unknown share of their spread" in printed


def test_show_tells_how_much_holds_on_other_sentences(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = LearnedTransport.load(saved)
    metadata = dataclasses.replace(learned.metadata, moved=0.258, held=0.777)
    LearnedTransport(learned.maps, metadata).save(saved)
    assert run("show", saved) == 0
    assert "by 0.26 of their spread on average; 78% of it holds" in capsys.readouterr().out
    assert run("show", saved, "--json") == 0
    assert json.loads(capsys.readouterr().out)["held"] == 0.777


def test_fold_writes_a_checkpoint_with_its_tokenizer(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    maps = ActivationMaps(
        {NORM: AffineMap.everywhere(torch.full((WIDTH,), 1.5), torch.linspace(-1, 1, WIDTH))}
    )
    metadata = TransportMetadata.describe(model, tokenizer, method="linear", sites=[NORM])
    folder = LearnedTransport(maps, metadata).save(tmp_path / "transport")
    where = ("--pretrained", tiny_checkpoint, "-o", tmp_path / "out", "--device", "cpu")
    assert run("fold", folder, "--strength", 0.5, *where) == 0
    assert "attention_bias=True" in capsys.readouterr().out
    folded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")(
        "the capital of France is", return_tensors="pt"
    )["input_ids"]
    with torch.no_grad(), maps.applied(model, 0.5):
        expected = model(tokens).logits
    with torch.no_grad():
        torch.testing.assert_close(folded(tokens).logits, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="holds files"):
        run("fold", folder, "--strength", 0.5, *where)


def test_fold_warns_of_a_strength_that_was_not_learned_for(saved, tmp_path, caplog) -> None:
    warn_once.cache_clear()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        run("fold", saved, "--strength", 3, "--pretrained", tmp_path / "none", "-o", tmp_path / "x")
    assert "strength=3 lies outside 0 to 1" in caplog.text


def test_fold_refuses_another_model(saved: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    other.model.layers[2].mlp.up_proj.weight.data.neg_()
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other weights"):
        run(
            "fold", saved, "--strength", 1, "--pretrained", tmp_path / "other", "-o", tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()


def test_convert_writes_a_transport(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    state = {"net.w1": torch.full((1, WIDTH), 2.0), "net.b1": torch.ones(1, WIDTH)}
    torch.save(state, folder / f"{NORM}.statedict")
    words = ("--pretrained", tiny_checkpoint, "-o", tmp_path / "out", "--device", "cpu")
    with pytest.raises(ValueError, match="pooling is missing") as told:
        run("convert", folder, *words)
    asked = str(told.value).split("add ")[1].split(",")[0].split()
    with pytest.raises(ValueError, match="incremental is missing") as told:
        run("convert", folder, *words, *asked)
    asked += str(told.value).split("add ")[1].split(",")[0].split()
    assert run("convert", folder, *words, *asked) == 0
    assert "1 maps, method linear, causal, support none" in capsys.readouterr().out
    loaded = LearnedTransport.load(tmp_path / "out")
    assert torch.equal(loaded.maps.maps[NORM].scale, torch.full((WIDTH,), 2.0))
    assert loaded.metadata.base_model == str(tiny_checkpoint)


def test_vectors_come_in_and_go_out_again(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--pretrained", tiny_checkpoint, "--device", "cpu")
    vectors = {f"model.layers.{number}": torch.randn(WIDTH) for number in (1, 2)}
    safetensors.torch.save_file(vectors, tmp_path / "v.safetensors")
    assert run("convert", tmp_path / "v.safetensors", *words, "-o", tmp_path / "in") == 0
    assert "2 maps, method imported, all tokens" in capsys.readouterr().out
    assert run("export", tmp_path / "in", "-o", tmp_path / "out.gguf", "--strength", -2) == 0
    assert "2 vectors, times -2" in capsys.readouterr().out
    assert run("convert", tmp_path / "out.gguf", *words, "-o", tmp_path / "again") == 0
    maps = LearnedTransport.load(tmp_path / "again").maps.maps
    for site, vector in vectors.items():
        torch.testing.assert_close(maps[site].shift, -2 * vector, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="is there: choose a new file"):
        run("export", tmp_path / "in", "-o", tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--feature", 3), "--site is missing"),
        (("--coefficient", 3), "--coefficient is of a --feature"),
        (("--pooling", "mean"), "--pooling is of ml-act's folders alone"),
    ],
)
def test_options_of_other_files_are_refused(
    tmp_path: Path, asked: tuple[Any, ...], message: str
) -> None:
    safetensors.torch.save_file({"1": torch.zeros(WIDTH)}, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=message):
        run("convert", tmp_path / "v.safetensors", "--pretrained", "m", "-o", "out", *asked)
