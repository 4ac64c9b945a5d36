"""Fixtures shared by all tests, and run-time checks of the shapes written in annotations."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Matplotlib would otherwise look for a display.
os.environ.setdefault("MPLBACKEND", "Agg")
# A shell that starts the tests in the background makes them, and all they start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test imports the package: the hook rewrites modules as they are imported.
install_import_hook(
    [
        "aim_plugins.modulation",
        "aim_plugins.attribution",
        "aim_plugins.coverage",
        "aim_plugins.task_coverage",
        "aim_plugins.task_documents",
        "aim_plugins.task_questions",
        "aim_plugins.heads",
        "aim_plugins.reengineering",
        "aim_plugins.engines.scoring",
        "aim_plugins.engines.generation",
        "aim_plugins.steering.calibration",
        "vision_bench.attacks",
        "vision_bench.attribution",
        "vision_bench.diffusion",
        "vision_bench.reengineering",
        *(
            f"vision_bench.reengineering.{module}"
            for module in ("problem", "augmentation", "baselines", "costs", "composition")
        ),
        *(f"vision_bench.diffusion.{module}" for module in ("layout", "neurons", "placement")),
        *(
            f"aim_plugins.transport.{module}"
            for module in (
                *("responses", "fit", "sentences", "forward", "plan", "lockstep"),
                *("learning", "vectors", "weights", "conditions.fit"),
            )
        ),
    ],
    "beartype.beartype",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files of many tests first, as two processes share them best, and the accelerator's last.

    Autograd starts a thread for the pretended accelerator, and no process copied from one with such
    threads differentiates again, as those of `die_in_a_copy` do.
    """
    tests = Counter(item.path for item in items)
    accelerated = {
        item.path for item in items if "accelerator" in getattr(item, "fixturenames", ())
    }
    items.sort(key=lambda item: (item.path in accelerated, -tests[item.path]))


def die_in_a_copy(run: Callable[[], object]) -> None:
    """Runs what kills itself in a copy of this process, which has all imports behind it."""

    def alone() -> None:
        import torch

        torch.set_num_threads(1)  # threads do not outlive a fork
        run()

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


class _Memory(dict):
    read_batch = dict.get
    write_batch = dict.__setitem__


@pytest.fixture
def journal() -> _Memory:
    """A journal in memory, where engines keep their finished batches."""
    return _Memory()


@pytest.fixture
def accelerator():
    """The device "pretended" is there during the test; its syncs, which grow."""
    from tests.pretended_device import pretended_device

    with pretended_device() as syncs:
        yield syncs


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Folder of the demo model (SmolLM2-135M-Instruct), fetched once into the user's cache."""
    from aim_plugins.demo_model import demo_model_folder

    return demo_model_folder()


def random_llama(vocab_size: int, *, hidden_size: int, layers: int, positions: int, scale: float):
    """A random Llama in eval mode, the same at every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Untrained logits are nearly flat; wider weights make the argmax mean something.
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=scale)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_llama():
    """A random two-layer Llama of 128 tokens: fast, and sure to be offline."""
    return random_llama(128, hidden_size=32, layers=2, positions=256, scale=0.3)


_FAMILIES = {
    "llama": dict(num_key_value_heads=2),
    "gemma2": dict(num_key_value_heads=2, head_dim=8, sliding_window=16),
    "qwen2": dict(num_key_value_heads=2),
    "mistral": dict(num_key_value_heads=2, sliding_window=16),
    "phi": {},
    "gpt2": {},
    "opt": dict(word_embed_proj_dim=32, ffn_dim=64),
}


@pytest.fixture(scope="module", params=_FAMILIES)
def family(request):
    """A small random causal model of several architectures, one after the other."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        request.param,
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **_FAMILIES[request.param],
    )
    transformers.set_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.3)
    return model


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random three-layer Llama with a real byte-level BPE tokenizer of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llama")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    words = (
        "the capital of France is Paris and the capital of Germany is Berlin . Question : Answer"
    )
    raw.train_from_iterator(
        [words] * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    model = random_llama(len(tokenizer), hidden_size=48, layers=3, positions=128, scale=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def seeing_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaVA, which is listed among models for images and text alone."""
    from transformers import AutoTokenizer

    from benchmarks._architectures import ARCHITECTURES, build_small

    folder = tmp_path_factory.mktemp("tiny-llava")
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    text = ARCHITECTURES["llava"].settings["text_config"]
    build_small("llava", text_config={**text, "vocab_size": len(tokenizer)}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CITIES = ["Paris", "Berlin", "France", "Germany", "Question", "Answer", "capital", "the"]

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{text}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
"""
GENERATION = """
task: tiny_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Write {{{{word}}}} :"
doc_to_target: "{{{{word}}}} ."
generation_kwargs: {{until: ["."]}}
"""


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path):
    """The tiny checkpoint's model and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    return types.SimpleNamespace(model=model, tokenizer=tokenizer, folder=tiny_checkpoint)


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of four choices and one that generates, of eight documents each."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in (
        ("tiny_capitals", "the capital of {{word}} is"),
        ("tiny_questions", "Question : the {{word}} ? Answer :"),
    ):
        rows = [
            {"word": word * (1 + place % 3), "choices": CITIES[:4], "answer": place % 4}
            for place, word in enumerate(CITIES)
        ]
        _write(folder / f"{name}.jsonl", rows)
        content = CHOICE.format(name=name, file=folder / f"{name}.jsonl", text=text)
        (folder / f"{name}.yaml").write_text(content)
    _write(folder / "words.jsonl", [{"word": word} for word in CITIES])
    content = GENERATION.format(file=folder / "words.jsonl")
    (folder / "tiny_writing.yaml").write_text(content)
    return folder


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
