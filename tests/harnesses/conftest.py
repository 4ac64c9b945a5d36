"""Small tasks in the harness's own format, and requests without a task."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from aim_plugins.sweep.store import SweepStore

TASKS = {
    "tiny_choice": """
output_type: multiple_choice
doc_to_text: "Question : {{question}} Answer :"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "tiny_generation": """
output_type: generate_until
doc_to_text: "Question : {{question}} Answer :"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
""",
    "tiny_perplexity": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}}"
metric_list: [{metric: word_perplexity}]
""",
}


@pytest.fixture(autouse=True, scope="session")
def one_index_of_the_harnesss_own_tasks() -> Iterator[None]:
    """lm-eval reads its thousands of task files anew for each sweep; here they stay as they are."""
    from lm_eval.tasks import _index

    build, own = _index.TaskIndex.build, Path(_index.__file__).parent
    kept: dict[bool, dict[str, Any]] = {}

    def build_once(paths: Iterable[Path], *, resolve_includes: bool = True) -> dict[str, Any]:
        index: dict[str, Any] = {}
        for path in map(Path, paths):
            if path == own:
                if resolve_includes not in kept:
                    kept[resolve_includes] = build([path], resolve_includes=resolve_includes)
                index |= kept[resolve_includes]
            else:
                index |= build([path], resolve_includes=resolve_includes)
        return index

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_index.TaskIndex, "build", staticmethod(build_once))
        yield


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for --include_path: multiple choice, generation and perplexity over 14 documents."""
    folder = tmp_path_factory.mktemp("tasks")
    places = ["France", "Germany", "Paris", "Berlin", "the capital", "Answer", "Question"]
    with open(folder / "documents.jsonl", "w") as lines:
        for index in range(14):
            document = {
                "question": f"{places[index % 7]} is {'the ' * (index // 2)}capital of",
                "choices": ["Paris", "Berlin", "France", "Germany"],
                "label": index % 4,
            }
            lines.write(json.dumps(document) + "\n")
    for name, body in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ntest_split: test\n"
            f"dataset_kwargs: {{data_files: {{test: {folder}/documents.jsonl}}}}\n{body}"
        )
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_look_at_the_machine() -> Iterator[None]:
    """For each result lm-eval asks pip, the compiler and the processor what they are; here once."""
    from torch.utils import collect_env

    with pytest.MonkeyPatch.context() as patch:
        look = functools.cache(collect_env.get_pretty_env_info)
        patch.setattr(collect_env, "get_pretty_env_info", look)
        yield


def die_after_the_first(patch: pytest.MonkeyPatch, kind: str) -> None:
    """Lets a sweep kill itself once it has written one of its "records" or "cells"."""
    write, cell = SweepStore.write_batch, SweepStore.cell

    def write_and_die(store, key, payload):
        write(store, key, payload)
        os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def finish_and_die(store, which):
        with cell(store, which) as staged:
            yield staged
        os.kill(os.getpid(), signal.SIGKILL)

    if kind == "records":
        patch.setattr(SweepStore, "write_batch", write_and_die)
    else:
        patch.setattr(SweepStore, "cell", finish_and_die)


@pytest.fixture(scope="module", autouse=True)
def offline():
    """No test of a harness asks a hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def make_transport() -> Callable[..., Path]:
    """Writes a random transport of a Llama's norms after attention, with or without a support."""

    def make(folder: Path, checkpoint: Path, seed: int = 0, support: float = torch.inf) -> Path:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from aim_plugins.modulation.activations import ActivationMaps, AffineMap
        from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        layers, neurons = model.config.num_hidden_layers, model.config.hidden_size
        generator = torch.Generator().manual_seed(seed)

        def vector(mean: float, spread: float) -> torch.Tensor:
            return mean + spread * torch.randn(neurons, generator=generator)

        bound = torch.full((neurons,), support)
        maps = {
            f"model.layers.{layer}.post_attention_layernorm": AffineMap(
                vector(1.0, 0.3), vector(0.0, 0.5), -bound, bound
            )
            for layer in range(layers)
        }
        metadata = TransportMetadata.describe(
            model, AutoTokenizer.from_pretrained(checkpoint), method="linear", sites=list(maps)
        )
        return LearnedTransport(ActivationMaps(maps), metadata).save(folder)

    return make


@pytest.fixture(scope="session")
def make_condition() -> Callable[..., list[bool]]:
    """Writes a condition that some of a few prompts meet, and says of each whether it does."""

    def make(folder: Path, checkpoint: Path, prompts: Sequence[list[int]]) -> list[bool]:
        from transformers import AutoModelForCausalLM

        from aim_plugins.modulation.conditions import Condition
        from aim_plugins.transport.conditions.artifact import ConditionMetadata, LearnedCondition
        from tests.engines.test_conditions import SITE, similarity_by_hand, state_by_hand

        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        generator = torch.Generator().manual_seed(5)
        direction = torch.randn(model.config.hidden_size, generator=generator)
        similar = [similarity_by_hand(state_by_hand(model, one), direction) for one in prompts]
        different = sorted(set(similar))
        middle = len(different) // 2
        threshold = (different[middle - 1] + different[middle]) / 2
        metadata = ConditionMetadata.of_model(
            model, method="pca", sites=[SITE], threshold=threshold, n_source=1, n_target=1
        )
        LearnedCondition(Condition(SITE, direction, threshold), metadata).save(folder)
        return [one > threshold for one in similar]

    return make


@pytest.fixture(scope="session")
def opencompass_data(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Multiple choice by perplexity, and questions by generation, six documents each."""
    folder = tmp_path_factory.mktemp("opencompass-data")
    places = ("France", "Germany", "Paris", "Berlin", "Question", "Answer")
    options = {"A": "Paris", "B": "Berlin", "C": "France"}
    choices = [
        {"question": f"the capital of {place}", **options, "answer": "ABC"[index % 3]}
        for index, place in enumerate(places)
    ]
    texts = [{"question": f"{place} is", "answer": "the capital"} for place in places]
    for name, documents in (("choice", choices), ("text", texts)):
        lines = (json.dumps(document) + "\n" for document in documents)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return [
        {
            "abbr": "choice",
            "path": str(folder / "choice.jsonl"),
            "data_type": "mcq",
            "infer_method": "ppl",
            "template": {letter: f"{{question}} is {{{letter}}}" for letter in options},
        },
        {
            "abbr": "text",
            "path": str(folder / "text.jsonl"),
            "data_type": "qa",
            "infer_method": "gen",
        },
    ]


@pytest.fixture(scope="session")
def run_opencompass(opencompass_data: list[dict[str, Any]]) -> Callable[..., Any]:
    """Runs what is missing of a config, in this process; it is written and read again before."""
    from mmengine.config import Config
    from opencompass.datasets.custom import make_custom_dataset_config

    from aim_plugins.harnesses.opencompass.run.evaluate import SweepOpenICLEvalTask
    from aim_plugins.harnesses.opencompass.run.infer import SweepOpenICLInferTask
    from aim_plugins.harnesses.opencompass.run.partitioner import (
        SweepEvalPartitioner,
        SweepInferPartitioner,
    )

    def run(folder: Path, models: list, names: Sequence[str] = ("choice", "text")) -> Any:
        """The config of the run; `tasks` are those that its inference had left."""
        folder.mkdir(exist_ok=True)
        chosen = [data for data in opencompass_data if data["abbr"] in names]
        datasets = [make_custom_dataset_config(dict(data)) for data in chosen]
        content = {"models": models, "datasets": datasets, "work_dir": str(folder)}
        Config(content, format_python_code=False).dump(str(folder / "config.py"))
        cfg = Config.fromfile(str(folder / "config.py"), format_python_code=False)
        tasks = SweepInferPartitioner(f"{folder}/predictions/", num_worker=1)(cfg)
        for task in tasks:
            SweepOpenICLInferTask(task).run()
        for task in SweepEvalPartitioner(f"{folder}/results/")(cfg):
            SweepOpenICLEvalTask(task).run()
        cfg["tasks"] = [[entry["abbr"] for entry in task["sweep"]["models"]] for task in tasks]
        return cfg

    return run


@pytest.fixture(scope="session")
def read_answers() -> Callable[..., Any]:
    """Reads predictions or results of an entry on a data set."""

    def read(run: Any, kind: str, abbr: str, dataset: str) -> Any:
        return json.loads(Path(run.work_dir, kind, abbr, f"{dataset}.json").read_text())

    return read


def responses(results, only=""):
    """Every response of every sample, in order; of one column where its label is given."""
    return {
        task: [sample["resps"] for sample in samples if sample["filter"].endswith(only)]
        for task, samples in results["samples"].items()
    }


def flat(value):
    """What lies in nested lists and tuples, in order."""
    return [x for part in value for x in flat(part)] if isinstance(value, list | tuple) else [value]


def assert_equal_to_rounding(first, second):
    """Floats may differ in their last digits; everything else is the same."""
    assert first.keys() == second.keys()
    for task in first:
        for left, right in zip(flat(first[task]), flat(second[task]), strict=True):
            assert left == (pytest.approx(right, abs=2e-4) if isinstance(right, float) else right)
