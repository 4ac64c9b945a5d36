"""What messages recommend, done: each mistake is answered in a line, and its mend works."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from lm_eval._cli import HarnessCLI

from aim_plugins import cli
from aim_plugins.harnesses.lm_eval import AimHFLM
from aim_plugins.harnesses.lm_eval import register as registration
from aim_plugins.harnesses.lm_eval.command import lm_eval

JSON_STRENGTHS = {"dtype": "float32", "noise_std": [0, 0.5, 1]}
TEXTS = ("--tasks", "tiny_generation")
SEVERAL = '{"num_return_sequences": 2, "do_sample": true}'


@pytest.fixture()
def stock(tiny_checkpoint, tasks_folder, monkeypatch, capsys):
    """Runs the stock command in this process, with one of our models; returns what it prints."""
    monkeypatch.setattr(sys, "argv", sys.argv)

    def run(model_args="", *more, model="aim_hf"):
        given = f"pretrained={tiny_checkpoint}"
        if model_args.startswith("{"):
            given = json.dumps({"pretrained": str(tiny_checkpoint), **json.loads(model_args)})
        elif model_args:
            given += f",{model_args}"
        options = ["--include_path", str(tasks_folder), "--limit", "2", "--device", "cpu"]
        tasks = [] if "--tasks" in more else ["--tasks", "tiny_choice"]
        lm_eval(["--model", model, "--model_args", given, *tasks, *options, *more])
        return capsys.readouterr().out

    return run


@pytest.fixture()
def sweep(tiny_checkpoint, tasks_folder, tmp_path, capfd):
    """Runs a sweep in this process; returns its status and its lines on standard error."""

    def run(*words, model="aim_hf", model_args="dtype=float32"):
        output = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        command = ["sweep", "lm-eval", "--model", model, "--output", str(output)]
        command += ["--model-args", f"pretrained={tiny_checkpoint},{model_args}", "--limit", "2"]
        command += ["--include-path", str(tasks_folder), "--device", "cpu"]
        status = cli.main([*command, *words])
        return status, capfd.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize(
    ("wrong", "message", "mend"),
    [
        (["device=cpu"], "device=cpu stands in .*: give --device cpu instead", [""]),
        (["batch_size=2"], "give --batch_size 2 instead", ["", "--batch_size", "2"]),
        (
            ["max_batch_size=3", "--max_batch_size", "2"],
            "give --max_batch_size 3 instead",
            ["", "--max_batch_size", "3"],
        ),
        (["noise_std=0-3"], r"a grid as 0:3:0.25, .*JSON as \[0, 0.5, 1\]", ["noise_std=0:3:1"]),
        (["noise_std=0-3"], r"a grid as 0:3:0.25, ", [json.dumps(JSON_STRENGTHS)]),
        (["noise_sdt=1"], r"noise_sdt=1 is unknown: did you mean noise_std=\?", ["noise_std=1"]),
        (
            ["", *TEXTS, "--gen_kwargs", "noise_std=1"],
            "noise_std is an argument of the model: give it in --model_args",
            ["noise_std=1", *TEXTS],
        ),
        (
            ["", *TEXTS, "--gen_kwargs", "until=5"],
            r"""5, which is no text: give --gen_kwargs '\{"until": \["5"\]\}'""",
            ["", *TEXTS, "--gen_kwargs", '{"until": ["5"]}'],
        ),
        (
            ["", *TEXTS, "--gen_kwargs", "max_gen_toks=500"],
            "max_gen_toks=500 leaves no room .* lower it with --gen_kwargs max_gen_toks=",
            ["", *TEXTS, "--gen_kwargs", "max_gen_toks=5"],
        ),
        (
            ["noise_std=1", *TEXTS, "--gen_kwargs", SEVERAL],
            "num_return_sequences=2 gives several .*: use noise_draws",
            ["noise_std=1,noise_draws=2", *TEXTS],
        ),
        (
            ["noise_std=1", *TEXTS, "--gen_kwargs", "num_beams=2,do_sample=True,temperature=1"],
            "take num_beams=1 or do_sample=False",
            ["noise_std=1", *TEXTS, "--gen_kwargs", "num_beams=2,do_sample=False"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_stock_command_runs_once_its_message_is_followed(stock, wrong, message, mend):
    with pytest.raises(ValueError, match=message):
        stock(*wrong)
    assert "|Metric" in stock(*mend).replace(" ", "")


@pytest.mark.parametrize(
    ("wrong", "message", "mend"),
    [
        (
            {"model_args": "dtype=float32,device=cpu,noise_std=1"},
            "give --device cpu instead",
            ["--noise-std", "1"],
        ),
        (
            {"model_args": "dtype=float32,batch_size=2,noise_std=1"},
            "give --batch_size 2 instead",
            ["--noise-std", "1", "--batch_size", "2"],
        ),
        ({}, "name what varies, such as --noise-std 0:3:0.25", ["--noise-std", "0:3:1"]),
    ],
    ids=["device", "batch size", "strengths"],
)
def test_the_sweep_runs_once_its_message_is_followed(sweep, wrong, message, mend):
    tasks = ("--tasks", "tiny_choice")
    status, [*_, said] = sweep(*tasks, **wrong)
    assert status == 2
    assert said.startswith("error: ")
    assert message in said
    assert sweep(*tasks, *mend)[0] == 0


def test_draws_are_left_out_or_get_noise_as_the_message_asks(
    sweep, make_transport, tiny_checkpoint, tmp_path
):
    folder = make_transport(tmp_path / "transport", tiny_checkpoint)
    words = ["--tasks", "tiny_choice", "--transport", str(folder), "--strength", "0.5"]
    status, [*_, said] = sweep(*words, "--draws", "2", model="act_hf")
    assert status == 2
    assert said.endswith("nothing is drawn: leave it out, or add noise with --noise-std")
    assert sweep(*words, model="act_hf")[0] == 0
    assert sweep(*words, "--draws", "2", "--noise-std", "1", model="act_hf")[0] == 0


def test_the_harness_knows_the_command_that_lists_its_tasks(sweep):
    status, [*_, said] = sweep("--tasks", "no_such_task", "--noise-std", "1")
    assert status == 2
    assert "no_such_task: `lm-eval ls tasks` lists the harness's tasks" in said
    assert HarnessCLI()._parser.parse_args(["ls", "tasks"]).func.__name__ == "_execute"


def test_a_model_without_a_name_is_asked_for():
    with pytest.raises(ValueError, match="give --model_args pretrained=MODEL"):
        AimHFLM.create_from_arg_string("noise_std=1", {"batch_size": 1})


def test_a_models_folder_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="pretrained='/no/model': no such folder"):
        AimHFLM.create_from_arg_string("pretrained=/no/model,noise_std=1", {"batch_size": 1})


def test_an_encoder_runs_as_the_decoder_that_the_message_asks_for(
    tiny_checkpoint, tmp_path, monkeypatch, stock
):
    from transformers import AutoTokenizer, BertConfig, BertLMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.save_pretrained(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes["intermediate_size"] = 16
        config = BertConfig(vocab_size=len(tokenizer), is_decoder=True, **sizes)
        model = BertLMHeadModel(config)
    model.config.is_decoder = False
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a bert reads both ways.* give is_decoder=True among"):
        stock(f"pretrained={tmp_path}")
    assert "acc" in stock(f"pretrained={tmp_path},is_decoder=True")


def test_an_encoder_decoder_runs_as_the_model_that_the_message_asks_for(
    tiny_checkpoint, tmp_path, stock
):
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.save_pretrained(tmp_path)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="use --model hf for this model"):
        stock(f"pretrained={tmp_path}")
    assert "acc" in stock(f"pretrained={tmp_path}", model="hf")


def test_a_foreseen_error_of_the_stock_command_is_a_line(tiny_checkpoint, tasks_folder):
    words = ["--model", "act_hf", "--include_path", str(tasks_folder), "--tasks", "tiny_choice"]
    words += ["--model_args", f"pretrained={tiny_checkpoint},transport=/no/folder,strength=1"]
    finished = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: transport='/no/folder' is no folder: name the one that ")


def test_a_program_of_ones_own_keeps_its_tracebacks(monkeypatch):
    hook = sys.__excepthook__  # whatever a test before has installed
    monkeypatch.setattr(sys, "excepthook", hook)
    registration.register()
    assert sys.excepthook is hook
    for program in ("lm_eval", "lm-eval"):
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
        monkeypatch.setattr(sys, "argv", [f"/some/bin/{program}"])
        monkeypatch.setattr(sys, "excepthook", hook)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.showwarning", print)
            registration.register()
        assert sys.excepthook is not hook


def test_no_message_of_git_reaches_the_terminal(sweep, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert subprocess.run(["git", "describe"], capture_output=True, check=False).returncode == 128
    status, lines = sweep("--tasks", "tiny_choice", "--noise-std", "1")
    assert status == 0
    assert not [line for line in lines if line.startswith("fatal")]
