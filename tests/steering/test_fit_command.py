"""`aim-plugins transport fit`, its configs, and what all transport commands share."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins import cli
from aim_plugins.core.strengths import parse_strengths
from aim_plugins.steering.settings import SECTIONS
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.fit import fit_transport

SOURCE = ["the capital of France", "Paris is", "Answer : Berlin . Question", "of of the the"]
TARGET = ["Germany", "the Question is the Answer", "capital capital is ."]


@pytest.fixture()
def files(tmp_path):
    """One side as JSON lines, the other as plain text."""
    source, target = tmp_path / "a.jsonl", tmp_path / "b.txt"
    source.write_text("".join(json.dumps({"text": one}) + "\n" for one in SOURCE))
    target.write_text("\n".join(TARGET) + "\n")
    return source, target


@pytest.fixture()
def fit(files, tiny_checkpoint, tmp_path):
    """Runs the command with two files and further words; returns its status and the folder."""

    def run(*words, output=tmp_path / "out", model=tiny_checkpoint, sides=True):
        command = ["transport", "fit", "-o", str(output)]
        if model:
            command += ["--pretrained", str(model)]
        if sides:
            command += ["--source", str(files[0]), "--target", str(files[1])]
        return cli.main([*command, *words]), output

    return run


NORMS = ["--modules", ".*layernorm"]


def test_the_command_writes_what_the_function_learns(fit, tiny_checkpoint, capsys):
    status, folder = fit(
        *NORMS, "--method", "gaussian", "--batch-size", "3", "--incremental", "atonce"
    )
    assert status == 0
    wanted = fit_transport(
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval(),
        AutoTokenizer.from_pretrained(tiny_checkpoint),
        SOURCE,
        TARGET,
        modules=".*layernorm",
        method="gaussian",
        batch_size=3,
        incremental="atonce",
        progress=False,
    )
    written = LearnedTransport.load(folder)
    assert written.fingerprint == wanted.fingerprint
    printed = capsys.readouterr().out
    assert "6 sites fitted (gaussian, at once) on 4 + 3 sentences" in printed
    assert str(folder) in printed and "constant neurons: 0" in printed
    known = wanted.metadata
    moves = f"source responses move by {known.moved:.2f} of their spread on average"
    assert f"{moves}; {max(known.held, 0):.0%} of it holds on held-out sentences" in printed
    assert "most at model.layers." in printed and "least of it holds at model.layers." in printed


def test_an_interrupted_fit_does_not_speak_of_work_it_has_not_kept(fit, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("aim_plugins.steering.commands.fit.fit_transport", interrupt)
    status, folder = fit(*NORMS)
    assert (status, folder.exists()) == (130, False)
    assert capsys.readouterr().err.endswith("\ninterrupted\n")


def test_every_option_reaches_the_fit(fit):
    words = "--pooling max --support q10_90 --positions last --incremental source --strength -0.5"
    status, folder = fit(
        *["--modules", r".*\.1\.mlp", ".*self_attn"], *words.split(), *["--max-length", "6"]
    )
    found = LearnedTransport.load(folder).metadata
    assert status == 0
    assert (found.pooling, found.support, found.positions) == ("max", "q10_90", "last")
    assert (found.incremental, found.strength, found.max_length) == ("source", -0.5, 6)
    assert list(found.sites) == [
        "model.layers.0.self_attn",
        "model.layers.1.self_attn",
        "model.layers.1.mlp",
        "model.layers.2.self_attn",
    ]


def test_dtype_is_that_of_the_model(fit):
    _, folder = fit(*NORMS, "--dtype", "bfloat16")
    loaded = LearnedTransport.load(folder)
    assert loaded.metadata.model_signature["dtype"] == "bfloat16"
    assert {one.scale.dtype for one in loaded.maps.maps.values()} == {torch.float32}


def test_a_limit_draws_sentences_by_the_seed(fit, tmp_path):
    def drawn(seed, name):
        words = ["--limit", "2", "--seed", str(seed), "--method", "mean"]
        _, folder = fit(*NORMS, *words, output=tmp_path / name)
        return LearnedTransport.load(folder).metadata

    first = drawn(0, "first")
    assert (first.n_source, first.n_target, first.seed) == (2, 2, 0)
    assert drawn(0, "again").data_sha256 == first.data_sha256
    others = {drawn(seed, f"seed{seed}").data_sha256 for seed in (1, 2, 3)}
    assert others != {first.data_sha256}


def test_neither_another_transport_nor_other_files_are_replaced(fit, tmp_path, capsys):
    _, folder = fit(*NORMS, "--method", "mean")
    status, _ = fit(*NORMS, "--method", "linear")
    assert status == 2
    assert "holds files (first: 'transport.json'): choose a new" in capsys.readouterr().err
    assert LearnedTransport.load(folder).metadata.method == "mean"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("precious")
    status, _ = fit(*NORMS, output=other)
    assert status == 2
    assert "holds files (first: 'chapter1.tex')" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["chapter1.tex"]
    status, _ = fit(*NORMS, output=other / "chapter1.tex")
    assert status == 2
    assert "is a file: choose a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--modules", ".*layer_norm"], "matches none of the"),
        ([], "modules is missing: add --modules"),
        ([*NORMS, "--method", "liner"], "did you mean 'linear'"),
        ([*NORMS, "--limit", "0"], "limit=0: give a whole number from 1"),
        ([*NORMS, "--limit", "1"], "source has 1 sentence(s)"),
        ([*NORMS, "--batch-size", "0"], "batch_size=0"),
        ([*NORMS, "--dtype", "float12"], "dtype='float12' is unknown"),
        ([*NORMS, "--cfg-options", "method=mean"], "add --config FILE"),
        ([*NORMS, "--pipeline", "models/sdxl"], "commands of their own: `vision-bench images fit`"),
        ([*NORMS, "--config", "none.py"], "config='none.py': no such file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(fit, capsys, words, message):
    status, folder = fit(*words)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2
    assert error.startswith("error: ") and message in error
    assert not folder.exists()


@pytest.mark.parametrize("device", ["xyz", "cuda:-1", "meta", "hpu"])
def test_a_device_that_is_not_there_is_one_line(fit, capsys, device):
    status, folder = fit(*NORMS, "--device", device)
    progress, *errors = capsys.readouterr().err.strip().splitlines()
    assert progress == "fit: loading libraries"
    assert status == 2 and len(errors) == 1 and not folder.exists()
    assert errors[0].startswith(f"error: device={device!r} cannot be used: ")


@pytest.mark.parametrize(
    "damage, message",
    [
        ("empty", "no model was found there: Unrecognized model"),
        ("config", "no model was found there: "),
        ("kind", "cannot be loaded: Unrecognized configuration class"),
        ("weights", "cannot be loaded: Error"),
        ("cut", "cannot be loaded: Error while deserializing header"),
        ("tokenizer", "cannot be loaded: "),
    ],
)
def test_a_damaged_model_is_one_line(fit, tiny_checkpoint, tmp_path, capsys, damage, message):
    model = tmp_path / "model"
    if damage == "empty":
        model.mkdir()
    else:
        shutil.copytree(tiny_checkpoint, model)
    if damage == "config":
        (model / "config.json").write_text("{")
    elif damage == "kind":
        (model / "config.json").write_text('{"model_type": "vit"}')
    elif damage == "weights":
        (model / "model.safetensors").unlink()
    elif damage == "cut":
        (model / "model.safetensors").write_bytes(b"\x00" * 20)
    elif damage == "tokenizer":
        for path in model.glob("*token*"):
            path.unlink()
    status, folder = fit(*NORMS, model=model)
    errors = capsys.readouterr().err.strip().splitlines()
    assert status == 2 and not folder.exists()
    assert errors[-1].startswith(f"error: pretrained={str(model)!r}") and message in errors[-1]
    assert not any("Traceback" in line for line in errors)


def test_one_side_alone_is_refused(fit, files, capsys):
    status, _ = fit(*NORMS, "--source", str(files[0]), sides=False)
    assert status == 2
    assert "--source is there without the other side" in capsys.readouterr().err


def test_a_missing_model_or_side_is_named(fit, capsys):
    assert fit(*NORMS, model=None)[0] == 2
    assert "pretrained is missing: add --pretrained" in capsys.readouterr().err
    assert fit(*NORMS, sides=False)[0] == 2
    assert "add --source FILE --target FILE" in capsys.readouterr().err


@pytest.fixture()
def config(files, tiny_checkpoint, tmp_path):
    pytest.importorskip("mmengine.config")
    path = tmp_path / "config.py"
    path.write_text(
        f"""
pretrained = {str(tiny_checkpoint)!r}
modules = [".*input_layernorm"]
method = "mean"
support = "minmax"
data = dict(name="files", root={str(tmp_path)!r}, source="a.jsonl", target="b.txt", seed=3)
fit = dict(batch_size=2, dtype="float32")
generate = dict(strength="0:1:0.5", max_new_tokens=4, dtype="bfloat16")
evaluate = dict(max_new_tokens=6)
_own = 1
"""
    )
    return path


def test_a_config_fills_in_what_the_command_line_leaves_open(fit, config):
    status, folder = fit("--config", str(config), model=None, sides=False)
    found = LearnedTransport.load(folder).metadata
    assert status == 0
    assert (found.method, found.support, found.batch_size) == ("mean", "minmax", 2)
    assert (found.n_source, found.n_target, found.seed) == (len(SOURCE), len(TARGET), 3)
    assert all(site.endswith("input_layernorm") for site in found.sites)


def test_the_command_line_wins_over_overrides_and_these_over_the_file(fit, config):
    _, folder = fit(
        *["--config", str(config), "--method", "caa"],
        *["--cfg-options", "method=linear", "fit.batch_size=4", "support=none", "data.n_source=3"],
        model=None,
        sides=False,
    )
    found = LearnedTransport.load(folder).metadata
    assert (found.method, found.batch_size, found.support) == ("caa", 4, "none")
    assert (found.n_source, found.n_target) == (3, len(TARGET))


@pytest.mark.parametrize(
    "override, message",
    [
        ("methd=mean", "the config holds 'methd', which is no option; did you mean 'method'"),
        ("fit.batchsize=2", "section 'fit' holds 'batchsize', .* did you mean 'batch_size'"),
        ("generate.sigma=2", "section 'generate' holds 'sigma', which is no option"),
        ("fit=2", "the config's 'fit' is 2: give a dictionary"),
        ("method", "--cfg-options holds 'method': write NAME=VALUE"),
        ("data.name=unknown", "unknown"),
    ],
)
def test_a_misspelt_setting_is_named(fit, config, capsys, override, message):
    import re

    status, folder = fit(
        "--config", str(config), "--cfg-options", override, model=None, sides=False
    )
    assert status == 2
    assert re.search(message, capsys.readouterr().err)
    assert not folder.exists()


def test_a_config_that_raises_is_one_line(fit, tmp_path, capsys):
    pytest.importorskip("mmengine.config")
    broken = tmp_path / "broken.py"
    broken.write_text("method = 1 / 0\n")
    assert fit(*NORMS, "--config", str(broken))[0] == 2
    assert "broken.py is no config: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.yaml", "method: !!python/object/apply:os.mkdir [{0}]", "ConstructorError"),
        ("a.yml", "_base_: ./below.py", "a.yml builds on './below.py'"),
        ("a.json", '{{"_base_": ["below.py"]}}', "a.json builds on 'below.py'"),
        ("a.yaml", "_base_: middle.json", "middle.json builds on 'below.py'"),
        ("a.yaml", "- method", "a.yaml holds no settings by name"),
        ("a.json", "{{", "JSONDecodeError"),
    ],
)
def test_a_config_of_data_runs_no_code(fit, tmp_path, capsys, name, text, message):
    pytest.importorskip("mmengine.config")
    ran = tmp_path / "ran"
    (tmp_path / "below.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (tmp_path / "middle.json").write_text('{"_base_": "below.py"}')
    (tmp_path / name).write_text(text.format(ran))
    status, folder = fit(*NORMS, "--config", str(tmp_path / name))
    assert not ran.exists() and not folder.exists()
    errors = capsys.readouterr().err.strip().splitlines()
    assert status == 2 and len(errors) == 1 and message in errors[0]


def test_yaml_and_json_configs_build_on_each_other(fit, files, tiny_checkpoint, tmp_path):
    pytest.importorskip("mmengine.config")
    data = {"name": "files", "root": str(tmp_path), "source": "a.jsonl", "target": "b.txt"}
    below = {"pretrained": str(tiny_checkpoint), "method": "caa", "data": {**data, "seed": 1}}
    (tmp_path / "below.json").write_text(json.dumps({**below, "fit": {"batch_size": 3}}))
    (tmp_path / "own.yaml").write_text(
        "_base_: below.json\n_own: 1\nmodules: ['.*layernorm']\nmethod: mean\n"
        "data: {seed: 5, n_source: 2}\nfit: {_delete_: true, max_length: 7}\n"
    )
    status, folder = fit(
        *["--config", str(tmp_path / "own.yaml"), "--cfg-options", "data.n_target=2"],
        model=None,
        sides=False,
    )
    assert status == 0
    found = LearnedTransport.load(folder).metadata
    assert (found.method, found.seed, found.n_source, found.n_target) == ("mean", 5, 2, 2)
    assert (found.max_length, found.batch_size) == (7, 32)


MODULES = {
    "fit": "aim_plugins.steering.commands.fit",
    "generate": "aim_plugins.steering.commands.generate",
    "evaluate": "aim_plugins.steering.study",
}


@pytest.fixture()
def received(config, monkeypatch):
    """What a command is given under a config, with further words and overrides."""

    def run(command, *overrides, words=()):
        kept = []
        monkeypatch.setattr(
            importlib.import_module(MODULES[command]), command, lambda *given: kept.extend(given)
        )
        # None of the files is there.
        monkeypatch.setattr(SECTIONS[command], "check_files", lambda self: None)
        words = ["transport", command, "-o", "out", *words, "--config", str(config)]
        words += ["DIR"] if command != "fit" else []
        if command != "fit" and not any("prompts" in word for word in overrides):
            words += ["--prompts", "prompts.txt"]
        changes = ["--cfg-options", *overrides] if overrides else []
        return cli.main([*words, *changes]), *(kept or [None, None])

    return run


@pytest.mark.parametrize(
    "command, tokens", [("generate", 4), ("evaluate", 6)], ids=["generate", "evaluate"]
)
def test_generate_and_evaluate_read_their_sections(received, command, tokens):
    status, settings, words = received(command, words=["--strength", "-1,0"])
    assert status == 0
    assert settings.strength == "-1,0"  # of the command line
    assert (settings.max_new_tokens, settings.dtype) == (tokens, "bfloat16")
    assert not hasattr(settings, "data")
    assert words[:3] == ["aim-plugins", "transport", command]


@pytest.mark.parametrize(
    "command, override, message",
    [
        ("generate", "trust_remote_code=no", "trust_remote_code='no': give True or"),
        ("generate", "do_sample=no", "do_sample='no': give True or False"),
        ("generate", "generate.force=0", "force=0: give True or False"),
        ("fit", "incremental=true", "incremental=True: choose one of 'causal', 'source', 'atonce'"),
        ("evaluate", "judge_chat=maybe", "judge_chat='maybe': choose one of 'auto', 'yes', 'no'"),
        ("evaluate", "sentiment=vadar", "sentiment='vadar': did you mean 'vader'"),
        ("evaluate", "batch_size=many", "batch_size='many': give a whole number"),
        ("evaluate", "batch_size=1.5", "batch_size=1.5: give a whole number"),
        ("evaluate", "batch_size=None", "batch_size=None: give a whole number"),
        ("evaluate", "temperature=true", "temperature=True: give a number"),
        ("evaluate", "lexicon=a,b", "lexicon=['a', 'b']: give a path"),
        ("evaluate", "judge.name=b", "judge={'name': 'b'}: give a text"),
        ("fit", "modules=true", "modules=True: give a list, each a text"),
    ],
)
def test_a_config_s_values_are_checked_as_on_the_command_line(
    received, capsys, command, override, message
):
    status, settings, _ = received(command, override)
    errors = capsys.readouterr().err.strip().splitlines()
    assert (status, settings) == (2, None)
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]


def test_a_config_s_values_are_those_of_the_command_line(received):
    words = ["perplexity=a.txt", "do_sample=true", "trust_remote_code=false", "force=true"]
    words += ["judge_answers=ja,nein", "generate.strength=[0,0.5]", "tasks=[one,two]"]
    status, settings, _ = received("evaluate", *words, "temperature=2", "max_length=None")
    assert status == 0
    assert settings.perplexity == (Path("a.txt"),)
    assert (settings.do_sample, settings.trust_remote_code, settings.force) == (True, False, True)
    assert settings.max_length is None
    assert (settings.judge_answers, settings.tasks) == (("ja", "nein"), ("one", "two"))
    assert parse_strengths(settings.strength) == parse_strengths("0,0.5")
    assert isinstance(settings.temperature, float)
    options = "--perplexity a.txt --do-sample --no-trust-remote-code --force --temperature 2"
    options += " --judge-answers ja,nein --tasks one,two --max-length None --strength 0,0.5"
    _, same, _ = received("evaluate", words=options.split())
    assert same == dataclasses.replace(settings, strength="0,0.5")


def test_a_config_describes_prompts(received):
    _, settings, _ = received("generate", "prompts.name=repeat", "prompts.text=x", "prompts.n=2")
    assert settings.prompts == {"name": "repeat", "text": "x", "n": 2}


@pytest.mark.parametrize(
    "value, wanted", [("source", "source"), ("AtOnce", "atonce"), ("None", None)]
)
def test_a_config_leaves_a_method_s_own_choice_or_replaces_it(received, value, wanted):
    assert received("fit", f"incremental={value}")[1].incremental == wanted


def test_every_command_has_its_help(capsys):
    for name in ("fit", "show", "fold", "convert", "export", "generate", "evaluate", "compare"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["transport", name, "--help"])
        assert stopped.value.code == 0
        assert f"aim-plugins transport {name}" in capsys.readouterr().out
