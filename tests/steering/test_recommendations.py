"""What messages recommend is done, and has to work: their words are taken from the messages."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from aim_plugins.steering import study
from aim_plugins.steering.commands.parser import COMMANDS
from aim_plugins.sweep import front

ROOMS = Path(study.__file__).parent, Path(study.__file__).parent.parent / "transport"


@pytest.fixture
def files(tmp_path):
    texts = {
        "source.txt": "the capital of France\nParis is\nAnswer : Berlin . Question\nof of the the",
        "target.txt": "Germany\nthe Question is the Answer\ncapital capital is .\nthe Berlin of is",
        "one.txt": "the capital of France",
        "long.txt": "Paris is the capital . " * 60 + "\nBerlin is",
        "prompts.txt": "the capital of\nBerlin",
        "words.txt": "paris\nis",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(run_command, tiny, files, monkeypatch):
    """Runs words in the folder of the files."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(front, "_draw", lambda *given: None)  # pictures take longer than all else

    def run(words, *more):
        return run_command(*shlex.split(words), *more, "--pretrained", tiny.folder)

    return run


@pytest.fixture
def refusal(run, capsys):
    """The message of words that are refused."""

    def refusal(words, *more):
        capsys.readouterr()
        assert run(words, *more) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    return refusal


def recommended(message, pattern):
    found = re.search(pattern, message)
    assert found, message
    return found[1]


FIT = "fit --source source.txt --target target.txt --modules .*input_layernorm"
TEXTS = "--prompts prompts.txt --max-new-tokens 3"


def test_texts_that_are_missing_are_written_by_the_command_in_the_message(
    run, refusal, tiny_transport, run_command
):
    message = refusal(f"evaluate {tiny_transport} --generations texts -o out")
    command = recommended(message, r"`aim-plugins transport (generate .*)`")
    words = command.replace("FILE", "prompts.txt").replace("NEW", "texts")
    assert run_command(*shlex.split(words), "--max-new-tokens", "3") == 0
    assert run(f"evaluate {tiny_transport} --generations texts -o out") == 0


def test_texts_of_several_noises_are_written_of_one(run, refusal, tiny_transport):
    assert run(f"generate {tiny_transport} {TEXTS} --noise-std 0,2 -o mixed") == 0
    message = refusal(f"evaluate {tiny_transport} --generations mixed -o out")
    words = recommended(message, r"`transport generate (.*)` writes")
    assert run(f"generate {tiny_transport} {TEXTS} {words} -o plain") == 0
    assert run(f"evaluate {tiny_transport} --generations plain -o out") == 0


def test_texts_of_another_transport_are_written_anew(run, refusal, tiny_transport, other_transport):
    assert run(f"generate {other_transport} {TEXTS} -o theirs") == 0
    message = refusal(f"evaluate {tiny_transport} --generations theirs -o out")
    option = recommended(message, "or (--prompts) to write texts anew")
    assert run(f"evaluate {tiny_transport} {option} prompts.txt --strength 0 -o out") == 0


def test_a_transport_that_has_a_support_is_fitted_without_to_be_folded(run, refusal):
    assert run(f"{FIT} -o clipped") == 0
    words = recommended(refusal("fold clipped --strength 1 -o out"), r"fit with (--support \w+)")
    assert run(f"{FIT} {words} -o plain") == 0
    assert run("fold plain --strength 1 -o out") == 0


def test_a_range_of_one_sentence_is_left_out(run, refusal):
    one = "fit --source one.txt --target one.txt --modules .*layernorm --method mean"
    words = recommended(refusal(f"{one} --support clip -o out"), r"write (support='\w+')")
    name, value = words.split("=")
    assert run(f"{one} --{name} {value} -o out") == 0


def test_long_sentences_are_cut(run, refusal):
    long = "fit --source long.txt --target long.txt --modules .*layernorm"
    name, value = recommended(refusal(f"{long} -o out"), r"with (max_length=\d+)").split("=")
    assert run(f"{long} --{name.replace('_', '-')} {value} -o out") == 0


@pytest.mark.parametrize(
    ("words", "pattern", "values"),
    [
        ("fit --modules .*layernorm -o out", "add (--source FILE --target FILE)", "source target"),
        (
            f"generate TRANSPORT {TEXTS} --temperature 2 --strength 1 -o out",
            "add (--do-sample)",
            "",
        ),
        (
            "evaluate TRANSPORT --lexicon words.txt --strength 0 --max-new-tokens 3 -o out",
            "add (--prompts FILE)",
            "prompts",
        ),
        ("evaluate TRANSPORT --strength 0 -o out", "add (--perplexity FILE)", "source"),
        (
            f"evaluate TRANSPORT {TEXTS} --judge MODEL --strength 0 -o out",
            "add (--concept WORD)",
            "words",
        ),
    ],
)
def test_an_option_that_is_missing_is_added(
    run, refusal, tiny, tiny_transport, words, pattern, values
):
    words = words.replace("TRANSPORT", str(tiny_transport)).replace("MODEL", str(tiny.folder))
    added = recommended(refusal(words), pattern)
    for value in values.split():
        added = re.sub(r"\b(FILE|WORD)\b", f"{value}.txt", added, count=1)
    assert run(f"{words} {added}") == 0


def test_an_evaluation_without_the_plain_model_gets_it(run, run_command, capsys, tiny_transport):
    """By strengths that are added to it."""
    evaluation = f"evaluate {tiny_transport} {TEXTS} --lexicon words.txt --perplexity source.txt"
    assert run(f"{evaluation} --strength 0.5 -o out") == 0
    capsys.readouterr()
    assert run_command("compare", "out", "-o", "report") == 2
    words = recommended(capsys.readouterr().err, r"evaluate it with (--strength \S+)")
    assert run(f"{evaluation} {words} -o out") == 0
    assert run_command("compare", "out", "-o", "report") == 0


def test_a_folder_that_is_no_evaluation_is_evaluated(run, run_command, capsys, tiny_transport):
    assert run_command("compare", "out", "-o", "report") == 2
    command = recommended(capsys.readouterr().err, "run `aim-plugins transport (evaluate .*)`")
    more = f"{tiny_transport} {TEXTS} --lexicon words.txt --perplexity source.txt --strength 0,1"
    assert run(command.replace("...", more)) == 0
    assert run_command("compare", "out", "-o", "report") == 0


def test_a_fine_tune_is_steered_by_force(run, run_command, capsys, tiny, tiny_transport, files):
    tiny.model.__class__(tiny.model.config).save_pretrained(files / "tuned")
    tiny.tokenizer.save_pretrained(files / "tuned")
    words = f"generate {tiny_transport} {TEXTS} --strength 1 -o out --pretrained tuned".split()
    assert run_command(*words) == 2
    option = recommended(capsys.readouterr().err, r"(--force) in a command")
    assert run_command(*words, option) == 0


def messages(tree):
    """Texts of a module outside of docstrings; f-strings whole, with X for what they fill in."""
    whole = {
        part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [getattr(part, "value", "X") for part in node.values]
            yield "".join(part if isinstance(part, str) else "X" for part in parts)
        elif isinstance(getattr(node, "value", None), str) and node not in whole | docs:
            yield node.value


def test_messages_name_options_and_commands_that_exist():
    options = {f"--{one.name.replace('_', '-')}" for c in COMMANDS for one in fields(c.settings)}
    options |= {"--config", "--cfg-options"}
    options.add("--pipeline")  # of images, which have commands of their own
    commands = {command.name for command in COMMANDS}
    seen = set()
    for path in (path for room in ROOMS for path in room.rglob("*.py")):
        if path.name == "tasks.py":  # words of another command
            continue
        for text in messages(ast.parse(path.read_text(encoding="utf-8"))):
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
            assert named <= options, (path.name, text)
            run = set(re.findall(r"`(?:aim-plugins )?transport (\w+)", text))
            assert run <= commands, (path.name, text)
            seen |= named | run
    assert {"--prompts", "--support", "--force", "generate", "fit"} <= seen
