"""What a command does before it imports torch: help, refusals, and its first line of progress."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "matplotlib", "sklearn", "datasets")

STOP = """
import json, sys
from importlib import import_module

class Stop:  # what the machine would spend its seconds on
    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            raise SystemExit(f"importing {name}")

sys.meta_path.insert(0, Stop())
for program, words in json.loads(sys.argv[1]):
    print(f"$ {words[0]}", file=sys.stderr)
    try:
        print("end:", import_module(f"{program}.cli").main(words))
    except SystemExit as stop:
        print("end:", stop.code)
"""


def run(commands: list[tuple[str, list[str]]], folder: Path) -> list[tuple[str, str]]:
    """What each command ends with, and what it says on standard error; no library is imported."""
    code = f"HEAVY = {HEAVY!r}\n{STOP}"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    endings = [line[5:] for line in done.stdout.splitlines() if line.startswith("end: ")]
    said = [part.partition("\n")[2] for part in done.stderr.split("$ ")[1:]]
    assert len(endings) == len(said) == len(commands), done
    return list(zip(endings, said, strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Inputs that pass for good until they are read."""
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "learned").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "classes.txt").write_text("sky\nroad\n")
    (tmp_path / "classify.py").write_text('dataset = "digits"\nmodel = "resnet20"\n')
    block = "PERTURBATION = dict(METHOD='utility', RATIO=1)"
    (tmp_path / "segment.py").write_text(f'dataset = "folder"\nmodel = "m"\n{block}\n')
    (tmp_path / "top.py").write_text('model = "timm:m"\nimages = "photographs"\n')
    (tmp_path / "typo.py").write_text('daatset = "digits"\n')
    return tmp_path


def aim(*words: str) -> tuple[str, list[str]]:
    return "aim_plugins", list(words)


def vision(*words: str) -> tuple[str, list[str]]:
    return "vision_bench", list(words)


FIT = ("transport", "fit", "--pretrained", "m", "-o", "out", "--modules", ".*norm")
CONDITION = ("transport", "condition", "--pretrained", "m", "-o", "out")
SIDES = ("--source", "a.txt", "--target", "a.txt")
EVALUATE = ("transport", "evaluate", "learned", "--pretrained", "m", "-o", "out")
CALIBRATE = ("transport", "calibrate", "--pretrained", "m", "-o", "out", "--prompts", "a.txt")
TEXTS = ("--perplexity", "a.txt", "--sentiment", "vader", "--modules", ".*norm")
GENERATE = ("transport", "generate", "learned", "--pretrained", "m", "-o", "out")
LM_EVAL = ("sweep", "lm-eval", "--tasks", "t", "--output", "out", "--model", "aim_hf")
SWEEP = ("sweep", "lm-eval", "--model", "aim_hf", "--model-args", "pretrained=m", "--output", "out")


def test_help_imports_nothing_heavy(folder):
    systems = [aim(), aim("transport"), aim("sweep"), vision(), vision("segment")]
    systems += [aim("transport", one) for one in ("fit", "condition", "show", "fold")]
    systems += [aim("transport", one) for one in ("convert", "export")]
    systems += [aim("transport", one) for one in ("generate", "evaluate", "compare", "calibrate")]
    systems += [aim("sweep", "lm-eval")]
    systems += [vision(one) for one in ("classify", "classify-logits", "top-classes")]
    systems += [vision("segment", "evaluate"), vision("segment", "infer"), aim("demo-model")]
    found = run([(program, [*words, "--help"]) for program, words in systems], folder)
    assert set(found) == {("0", "")}


REFUSALS = [
    (aim(*FIT), "the sentences are missing"),
    (aim(*FIT, "--source", "no.txt", "--target", "a.txt"), "error: source='no.txt': no such file"),
    (aim(*FIT, "--source", "typo.py", "--target", "a.txt"), "source='typo.py': the suffix is"),
    (aim(*FIT, *SIDES, "--method", "liner"), "did you mean 'linear'"),
    (aim(*FIT, *SIDES, "--steps", "5"), "steps is of method=lineas alone: leave it out"),
    (aim(*FIT, *SIDES, "--method", "pca", "--limit", "3"), "--limit draws each side by itself"),
    (aim(*FIT, *SIDES, "--support", "q9"), "support='q9' is unknown"),
    (aim(*FIT, *SIDES, "--pooling", "most"), "pooling='most' is unknown"),
    (aim(*FIT, *SIDES, "--positions", "first"), "positions='first' is unknown"),
    (aim(*FIT, *SIDES, "--modules", "("), "is no regular expression"),
    (aim(*FIT, *SIDES, "-o", "full"), "output='full' holds files (first: 'notes.txt')"),
    (aim(*FIT, *SIDES, "--config", "typo.py"), "the config holds 'daatset'"),
    (aim(*CONDITION), "the prompts are missing"),
    (aim(*CONDITION, *SIDES, "--layers", "("), "is no regular expression"),
    (aim(*CONDITION, *SIDES, "-o", "full"), "output='full' holds files (first: 'notes.txt')"),
    (aim("transport", "show", "none"), "transport='none' is no folder"),
    (aim(*EVALUATE, "--perplexity", "no.txt"), "perplexity='no.txt': no such file"),
    (aim(*EVALUATE, "--prompts", "no.txt"), "prompts='no.txt': no such file"),
    (aim(*EVALUATE, "--prompts", "typo.py"), "prompts='typo.py': the suffix is '.py'"),
    (aim(*EVALUATE, "--prompts", "a.txt", "--lexicon", "no"), "lexicon='no': no such file"),
    (aim(*EVALUATE, "--generations", "no"), "generations='no' holds no texts: give the folder"),
    (aim(*EVALUATE, "--generations", "full"), "generations='full' holds no texts"),
    (aim(*CALIBRATE, *TEXTS), "there is nothing to calibrate"),
    (aim(*CALIBRATE, *TEXTS, *SIDES, "--lexicon", "a.txt"), "one measure of the effect is needed"),
    (aim(*CALIBRATE, *TEXTS, *SIDES, "--methods", "liner"), "did you mean 'linear'"),
    (aim(*CALIBRATE, *TEXTS, "--transports", "no"), "transport='no' is no folder"),
    (aim("transport", "convert", "no", "--pretrained", "m", "-o", "out"),)
    + ("vectors='no': no such file or folder",),
    (aim("transport", "convert", "a.txt", "--pretrained", "m", "-o", "out"),)
    + ("vectors='a.txt': the suffix is '.txt', not one of .gguf",),
    (aim("transport", "export", "learned", "-o", "out.bin"), "output='out.bin': the suffix is"),
    (aim(*GENERATE, "--prompts", "no.txt"), "prompts='no.txt': no such file"),
    (aim(*GENERATE, "--prompts", "a.txt", "--strength", "0:x:1"), "strength='0:x:1' is malformed"),
    (aim("transport", "compare", "full", "-o", "out"), "holds no finished evaluation"),
    (aim("transport", "fold", "learned", "--pretrained", "m", "--strength", "1", "-o", "full"),)
    + ("output='full' holds files (first: 'notes.txt')",),
    (aim(*SWEEP, "--tasks", "t", "--noise-std", "0:x:1"), "noise_std='0:x:1' is malformed"),
    (aim(*SWEEP, "--noise-std", "1"), "--tasks is missing"),
    (aim(*SWEEP, "--tasks", "t"), "none of --noise-std, --strength, "),
    (aim(*SWEEP, "--tasks", "t", "--strength", "1"), "has no transport"),
    (aim(*SWEEP, "--tasks", "t", "--strength", "1", "--transport", "no"), "transport='no' is no"),
    (aim(*SWEEP, "--tasks", "t", "--noise-std", "1", "--use-cache", "x"), "cannot be used in a"),
    (
        aim(*SWEEP, "--tasks", "t", "--noise-std", "1", "--model", "hf"),
        "--model hf does not answer",
    ),
    (aim(*LM_EVAL, "--noise-std", "1"), "--model_args names no model"),
    (aim(*LM_EVAL, "--noise-std", "1", "--model-args", "dtype=auto"), "names no model"),
    (aim(*LM_EVAL, "--noise-std", "1", "--model-args", "pretrained=m,device=cpu"),)
    + ("device=cpu stands in --model_args",),
    (aim(*LM_EVAL, "--noise-std", "1", "--model-args", "pretrained=m,noise_std=1"),)
    + ("noise_std stands in --model_args and in --noise-std: give it once",),
    (vision("classify", "typo.py"), "did you mean 'dataset'"),
    (vision("classify", "classify.py", "--dataset", "cifar"), "did you mean 'cifar10'"),
    (vision("classify", "classify.py", "--noise-std", "0:x"), "noise_std='0:x' is malformed"),
    (vision("classify-logits", "no.npz", "--noise-std", "1", "--output", "o"),)
    + ("file='no.npz': no such file",),
    (vision("classify", "classify.py", "--dataset", "folder"), "data_root=None: give the folder"),
    (vision("classify", "classify.py", "--data-root", "no"), "data_root='no': no such folder"),
    (vision("classify", "classify.py", "--labels", "no"), "labels='no': no such file"),
    (vision("segment", "evaluate", "segment.py", "--data-root", "no"), "data_root='no': no such"),
    (vision("segment", "evaluate", "segment.py", "--data-root", "full"), "classes.txt: no such"),
    (vision("segment", "infer", "segment.py", "a.txt", "--cfg-options", "data_root=full"),)
    + ("classes.txt: no such file",),
    (vision("segment", "evaluate", "typo.py"), "the config holds 'daatset'"),
    (vision("segment", "infer", "segment.py", "no.jpg"), "no.jpg: no such image or folder"),
    (vision("top-classes", "typo.py"), "the config holds 'daatset'"),
]


def test_settings_are_refused_before_anything_heavy_is_imported(folder):
    found = run([command for command, _ in REFUSALS], folder)
    for (end, said), (command, message) in zip(found, REFUSALS, strict=True):
        error = said.splitlines()[-1]
        assert end == "2" and error.startswith("error: ") and message in error, (command, said)
    assert not (folder / "out").exists() and not (folder / "runs").exists()


STARTS = [
    aim(*FIT, *SIDES),
    aim(*EVALUATE, "--perplexity", "a.txt"),
    aim(*GENERATE, "--prompts", "a.txt"),
    aim(*CALIBRATE, *TEXTS, *SIDES),
    aim("transport", "show", "learned"),
    aim(*SWEEP, "--tasks", "t", "--noise-std", "0:2:1"),
    vision("classify", "classify.py"),
    vision("classify-logits", "a.txt", "--noise-std", "1", "--output", "out"),
    vision("segment", "evaluate", "segment.py"),
    vision("segment", "infer", "segment.py", "a.txt"),
    vision("top-classes", "top.py"),
]


def test_the_first_line_of_progress_comes_before_the_libraries_are_loaded(folder):
    """Into a pipe too, as standard error is one here."""
    for (end, said), command in zip(run(STARTS, folder), STARTS, strict=True):
        first = said.splitlines()[0]
        assert end.startswith("importing") and first.endswith("loading libraries"), (command, said)
