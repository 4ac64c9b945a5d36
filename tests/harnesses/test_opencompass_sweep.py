"""Whole sweeps on OpenCompass's own readers: GSM8K and MMLU in their published layout."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from mmengine.config import Config, ConfigDict
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

from aim_plugins.engines.context_scores import ContextScorer
from aim_plugins.harnesses.lm_eval import AimHFLM
from aim_plugins.harnesses.opencompass.results.summarizer import SweepSummarizer
from aim_plugins.harnesses.opencompass.run.evaluate import SweepOpenICLEvalTask
from aim_plugins.harnesses.opencompass.run.infer import SweepOpenICLInferTask
from aim_plugins.harnesses.opencompass.run.launch import task_command
from aim_plugins.harnesses.opencompass.run.partitioner import (
    SweepEvalPartitioner,
    SweepInferPartitioner,
)
from aim_plugins.modulation.logits import GaussianNoiseLogitsProcessor
from aim_plugins.sweep.table import read_table

STDS = (0.0, 0.5, 4.0)
SUBJECTS = ("anatomy", "astronomy")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a window for long prompts; rotary positions have no weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(tiny_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 8192
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory):
    """OpenCompass's data folder: a little GSM8K, MMLU and Winogrande."""
    folder = tmp_path_factory.mktemp("data")
    data = folder / "data"
    for name in ("gsm8k", "mmlu/dev", "mmlu/test", "winogrande"):
        (data / name).mkdir(parents=True)
    for split, size in (("train", 2), ("test", 3)):
        lines = [
            {"question": f"{i} apples and 2 more?", "answer": f"{i}+2={i + 2}\n#### {i + 2}"}
            for i in range(size)
        ]
        write_lines(data / "gsm8k" / f"{split}.jsonl", lines)
    for subject in SUBJECTS:
        for split, size in (("dev", 5), ("test", 9)):
            with open(data / "mmlu" / split / f"{subject}_{split}.csv", "w", newline="") as file:
                writer = csv.writer(file)
                for i in range(size):
                    question = f"{subject} {i}: which, of these?"
                    writer.writerow([question, f"a{i}", f"b{i}", f"c{i}", "none", "ABCD"[i % 4]])
    write_lines(
        data / "winogrande" / "dev.jsonl",
        [
            {
                "sentence": f"the capital of {name} is not Paris because _ is in France {i}",
                "option1": "Paris",
                "option2": "Berlin",
                "answer": str(1 + i % 2),
            }
            for i, name in enumerate(["Germany", "France", "Question"])
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPASS_DATA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def reference(checkpoint: Path):
    """The model and tokenizer as transformers alone loads them."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(checkpoint)


def write_lines(path: Path, documents: list[dict]) -> None:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def builtin(name: str, variable: str) -> list[ConfigDict]:
    """Data sets of a config that OpenCompass ships."""
    import opencompass

    path = Path(opencompass.__file__).parent / "configs" / "datasets" / name
    return list(Config.fromfile(path)[variable])


def mmlu(name: str) -> list[ConfigDict]:
    chosen = [d for d in builtin(name, "mmlu_datasets") if d["name"] in SUBJECTS]
    assert len(chosen) == len(SUBJECTS)
    return chosen


def entries(checkpoint: Path, stds=STDS, **settings) -> list[dict]:
    return [
        {
            "type": "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel",
            "abbr": f"tiny-noise{std}",
            "path": str(checkpoint),
            "model_kwargs": {"torch_dtype": "torch.float32", "device_map": "cpu"},
            "generation_kwargs": {"noise_std": std, "noise_seed": 3},
            "max_out_len": 16,
            "batch_size": 2,
            "run_cfg": {"num_gpus": 0},
            **settings,
        }
        for std in stds
    ]


def config(folder: Path, models: list[dict], datasets: list[ConfigDict]) -> Config:
    """A run's config, written and read again as OpenCompass does."""
    folder.mkdir(exist_ok=True)
    run = Config(
        {
            "models": models,
            "datasets": datasets,
            "work_dir": str(folder),
            "infer": {"partitioner": {"type": "x"}, "runner": {"type": "LocalRunner"}},
        },
        format_python_code=False,
    )
    run.dump(str(folder / "config.py"))
    return Config.fromfile(str(folder / "config.py"), format_python_code=False)


def infer_tasks(run: Config, num_worker: int = 1) -> list[Config]:
    return SweepInferPartitioner(f"{run.work_dir}/predictions/", num_worker=num_worker)(run)


def evaluate(run: Config) -> None:
    for task in SweepEvalPartitioner(f"{run.work_dir}/results/")(run):
        SweepOpenICLEvalTask(task).run()


def run_all(run: Config, num_worker: int = 1) -> None:
    for task in infer_tasks(run, num_worker):
        SweepOpenICLInferTask(task).run()
    evaluate(run)


def read(run: Config, kind: str, std: float, dataset: str) -> dict:
    return json.loads(Path(run.work_dir, kind, f"tiny-noise{std}", f"{dataset}.json").read_text())


def predictions(run: Config, dataset: str) -> dict[float, dict]:
    return {std: read(run, "predictions", std, dataset) for std in STDS}


def greedy(reference, prompt: str, std: float, length: int) -> str:
    """What transformers' own generate says with our processor, one prompt at a time."""
    model, tokenizer = reference
    batch = tokenizer([prompt], return_tensors="pt")
    noise = GaussianNoiseLogitsProcessor(std, seed=3, attention_mask=batch["attention_mask"])
    output = model.generate(
        **batch,
        max_new_tokens=length,
        do_sample=False,
        pad_token_id=0,
        logits_processor=LogitsProcessorList([noise]),
    )
    return tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def test_gsm8k_by_generation(tmp_path, checkpoint, reference):
    datasets = builtin("gsm8k/gsm8k_gen_1d7fe4.py", "gsm8k_datasets")
    datasets[0]["infer_cfg"]["inferencer"]["max_out_len"] = 24
    run = config(tmp_path / "run", entries(checkpoint), datasets)
    run_all(run)
    for std, answers in predictions(run, "gsm8k").items():
        assert len(answers) == 3
        right = 0
        for place, answer in answers.items():
            assert answer["origin_prompt"].endswith(
                f"{place} apples and 2 more?\nLet's think step by step\nAnswer:"
            )
            text = greedy(reference, answer["origin_prompt"], std, 24)
            assert answer["prediction"] == text
            numbers = re.findall(r"-?\d+\.\d+|-?\d+", text.split("Question:")[0])
            right += bool(numbers) and abs(float(numbers[-1]) - (int(place) + 2)) < 1e-6
        assert read(run, "results", std, "gsm8k")["accuracy"] == pytest.approx(100 * right / 3)


def test_mmlu_by_generation(tmp_path, checkpoint, reference):
    datasets = mmlu("mmlu/mmlu_gen_4d595a.py")
    run = config(tmp_path / "run", entries(checkpoint, max_out_len=5), datasets)
    run_all(run)
    for subject in SUBJECTS:
        for std, answers in predictions(run, f"lukaemon_mmlu_{subject}").items():
            assert len(answers) == 9
            for place in ("0", "8"):
                answer = answers[place]
                assert f"{subject} {place}: which, of these?" in answer["origin_prompt"]
                assert answer["prediction"] == greedy(reference, answer["origin_prompt"], std, 5)
                assert answer["gold"] == "ABCD"[int(place) % 4]


@pytest.fixture(scope="module")
def perplexity_run(tmp_path_factory, checkpoint):
    run = config(
        tmp_path_factory.mktemp("ppl") / "run",
        entries(checkpoint),
        mmlu("mmlu/mmlu_ppl_ac766d.py"),
    )
    run_all(run)
    return run


def noisy_logits(reference, prompt: str, std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of every position but the last under noise, and the tokens that follow them."""
    model, tokenizer = reference
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits[0]
    rows = [
        GaussianNoiseLogitsProcessor(std, seed=3)(ids[:, : end + 1], logits[end : end + 1])
        for end in range(ids.shape[1] - 1)
    ]
    return torch.cat(rows).double(), ids[0, 1:]


def test_mmlu_by_perplexity(perplexity_run, reference):
    for std, answers in predictions(perplexity_run, "lukaemon_mmlu_anatomy").items():
        by_label = {}
        for label in "ABCD":
            answer = answers["4"][f"label: {label}"]
            logits, targets = noisy_logits(reference, answer["prompt"], std)
            chosen = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
            by_label[label] = -float(chosen.sum()) / (len(targets) + 1)
            assert answer["PPL"] == pytest.approx(by_label[label], rel=1e-5)
        assert answers["4"]["prediction"] == min(by_label, key=by_label.get)
        right = sum(answer["prediction"] == answer["gold"] for answer in answers.values())
        result = read(perplexity_run, "results", std, "lukaemon_mmlu_anatomy")
        assert result["accuracy"] == pytest.approx(100 * right / 9)


def simulated_shares(reference, answer: dict, std: float) -> np.ndarray:
    """How often each choice has the largest of four noisy logits, in 200,000 draws."""
    model, tokenizer = reference
    prompts = [tokenizer(answer[f"label: {label}"]["prompt"])["input_ids"] for label in "ABCD"]
    with torch.no_grad():
        last = model(torch.tensor(prompts[:1])[:, :-1]).logits[0, -1]
    clean = last[[prompt[-1] for prompt in prompts]].numpy()
    draws = np.random.default_rng(0).normal(0, std, (200_000, 4)) + clean
    return np.bincount(draws.argmax(1), minlength=4) / len(draws)


def test_probabilities_of_choices_agree_with_many_draws(perplexity_run, reference):
    answer = predictions(perplexity_run, "lukaemon_mmlu_astronomy")[4.0]["2"]
    stated = [answer[f"label: {label}"]["probability"] for label in "ABCD"]
    assert stated == pytest.approx(simulated_shares(reference, answer, 4.0), abs=5e-3)
    assert sum(stated) == pytest.approx(1)


def test_the_table_has_the_expected_accuracy(perplexity_run, reference):
    """Of each subject and of their average; at strength 0 it is the accuracy itself."""
    subsets = [f"lukaemon_mmlu_{subject}" for subject in SUBJECTS]
    groups = [{"name": "mmlu", "subsets": subsets}]
    SweepSummarizer(perplexity_run, summary_groups=groups).summarize(time_str="now")
    rows = read_table(Path(perplexity_run.work_dir, "summary/sweep/tiny/sweep.csv"))
    table = {(row.task, row.metric, row.strength): row for row in rows}
    for subset in subsets:
        simulated = [
            simulated_shares(reference, answer, 4.0)["ABCD".index(answer["gold"])]
            for answer in predictions(perplexity_run, subset)[4.0].values()
        ]
        law = table[subset, "accuracy_expected", 4.0]
        assert law.value == pytest.approx(np.mean(simulated), abs=5e-3)
        assert law.stderr == pytest.approx(np.std(simulated, ddof=1) / 3, abs=5e-3)
        assert law.draw is None and law.n == 9
        clean = [table[subset, name, 0.0].value for name in ("accuracy", "accuracy_expected")]
        assert clean[0] == pytest.approx(clean[1])
    laws = [table[subset, "accuracy_expected", 4.0] for subset in subsets]
    average = table["mmlu", "naive_average_expected", 4.0]
    assert average.value == pytest.approx((laws[0].value + laws[1].value) / 2)
    assert average.stderr == pytest.approx(np.hypot(laws[0].stderr, laws[1].stderr) / 2)


def test_the_prompt_is_read_once_for_all_choices_and_strengths(tmp_path, checkpoint, monkeypatch):
    """Four choices differ in their last token alone: nine documents are nine forward rows."""
    rows = []
    forward = ContextScorer.forward

    def counted(self, ids, *rest):
        rows.append(len(ids))
        return forward(self, ids, *rest)

    monkeypatch.setattr(ContextScorer, "forward", counted)
    run = config(tmp_path / "run", entries(checkpoint), mmlu("mmlu/mmlu_ppl_ac766d.py")[:1])
    (task,) = infer_tasks(run)
    SweepOpenICLInferTask(task).run()
    assert sum(rows) == 9


def test_slices_on_several_gpus_give_the_same_predictions(tmp_path, checkpoint, data_folder):
    (gsm8k,) = builtin("gsm8k/gsm8k_gen_1d7fe4.py", "gsm8k_datasets")
    gsm8k["infer_cfg"]["inferencer"]["max_out_len"] = 8
    rounds = gsm8k["infer_cfg"]["prompt_template"]["template"]
    rounds["round"] = rounds["round"][-1:]
    test_file = data_folder / "data" / "gsm8k" / "test.jsonl"
    before = test_file.read_text()
    write_lines(test_file, [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(40)])
    datasets = [gsm8k, *mmlu("mmlu/mmlu_ppl_ac766d.py")]
    try:
        whole = config(tmp_path / "whole", entries(checkpoint), datasets)
        run_all(whole)
        parts = config(tmp_path / "parts", entries(checkpoint), datasets)
        tasks = infer_tasks(parts, num_worker=3)
        assert len(tasks) == 3
        for task in reversed(tasks):
            SweepOpenICLInferTask(task).run()
        evaluate(parts)
        assert not infer_tasks(parts, num_worker=2)
    finally:
        test_file.write_text(before)
    assert outcomes(parts) == outcomes(whole)
    assert len(outcomes(whole)) == 2 * len(STDS) * len(datasets)


def outcomes(run: Config) -> dict[str, list]:
    """What each file of predictions and results says, but for the rounding of perplexities."""
    found = {}
    for path in Path(run.work_dir).glob("[pr]*/*/*.json"):
        if not path.name.endswith(".cell.json") and "records" not in path.parts:
            content = json.loads(path.read_text())
            found[str(path.relative_to(run.work_dir))] = [
                value["prediction"] if "prediction" in value else value["correct"]
                for value in content.values()
                if isinstance(value, dict)
            ] or content
    return found


def test_a_broken_data_set_does_not_stop_the_others(tmp_path, checkpoint, data_folder):
    datasets = mmlu("mmlu/mmlu_ppl_ac766d.py")
    datasets[0]["name"] = "not_there"
    run = config(tmp_path / "run", entries(checkpoint, stds=(0.0,)), datasets)
    (task,) = infer_tasks(run)
    with pytest.raises(RuntimeError, match=f"inference failed for {datasets[0]['abbr']}$"):
        SweepOpenICLInferTask(task).run()
    assert len(read(run, "predictions", 0.0, datasets[1]["abbr"])) == 9


def test_a_field_that_the_data_lack_fails_before_the_model_is_loaded(
    tmp_path, checkpoint, monkeypatch
):
    dataset = short_gsm8k()
    dataset["infer_cfg"]["prompt_template"]["template"]["round"][0]["prompt"] = "{quesiton}"
    run = config(tmp_path / "run", entries(checkpoint, stds=(0.0,)), [dataset])
    (task,) = (SweepOpenICLInferTask(cfg) for cfg in infer_tasks(run))
    said = []
    monkeypatch.setattr(task, "_load", lambda: said.append("loaded"))
    monkeypatch.setattr(task.logger, "exception", lambda _: said.append(str(sys.exc_info()[1])))
    with pytest.raises(RuntimeError, match="inference failed for gsm8k"):
        task.run()
    assert len(said) == 1
    assert "gsm8k: its prompt_template has {quesiton}" in said[0]
    assert "did you mean 'question'?" in said[0]


def test_a_changed_strength_under_an_old_name_is_computed_again(tmp_path, checkpoint):
    datasets = mmlu("mmlu/mmlu_ppl_ac766d.py")[:1]
    abbr = datasets[0]["abbr"]
    run = config(tmp_path / "run", entries(checkpoint), datasets)
    run_all(run)
    assert not infer_tasks(run)
    old = read(run, "predictions", 4.0, abbr)
    kept = Path(run.work_dir, "predictions", "tiny-noise0.5", f"{abbr}.json").stat().st_mtime_ns
    models = entries(checkpoint)
    models[2]["generation_kwargs"]["noise_std"] = 8.0
    again = config(tmp_path / "run", models, datasets)
    run_all(again)
    fresh = config(tmp_path / "fresh", models[2:], datasets)
    run_all(fresh)
    new = read(again, "predictions", 4.0, abbr)
    assert new == read(fresh, "predictions", 4.0, abbr) != old
    assert read(again, "results", 4.0, abbr) == read(fresh, "results", 4.0, abbr)
    path = Path(run.work_dir, "predictions", "tiny-noise0.5", f"{abbr}.json")
    assert path.stat().st_mtime_ns == kept


def test_a_killed_task_goes_on_where_it_was(tmp_path, checkpoint, perplexity_run, monkeypatch):
    run = config(tmp_path / "run", entries(checkpoint), mmlu("mmlu/mmlu_ppl_ac766d.py"))
    (task,) = infer_tasks(run)
    task.dump(str(tmp_path / "task.py"))
    child = subprocess.Popen(
        [sys.executable, "-m", "aim_plugins.harnesses.opencompass.run.process", "infer"]
        + [str(tmp_path / "task.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    records = Path(run.work_dir, "records")
    deadline = time.monotonic() + 120
    while not (done := list(records.rglob("*.jsonl"))) and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = list(records.rglob("*.jsonl"))
    assert len(done) == 1, "the task ended before it could be killed"
    rows = []
    forward = ContextScorer.forward

    def counted(self, ids, *rest):
        rows.append(len(ids))
        return forward(self, ids, *rest)

    monkeypatch.setattr(ContextScorer, "forward", counted)
    run_all(run)
    assert 0 < sum(rows) < 18
    for subject in SUBJECTS:
        abbr = f"lukaemon_mmlu_{subject}"
        assert predictions(run, abbr) == predictions(perplexity_run, abbr)
    assert not records.exists() or not list(records.rglob("*.jsonl"))


WINOGRANDE = """
task: tiny_winogrande
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: !function parts.label
doc_to_choice: !function parts.contexts
doc_to_target: !function parts.continuation
metric_list: [{{metric: acc}}]
"""
PARTS = """
def label(doc):
    return int(doc["answer"]) - 1

def contexts(doc):
    before = doc["sentence"].split("_")[0]
    return [before + doc["option1"], before + doc["option2"]]

def continuation(doc):
    return doc["sentence"].split("_")[1].strip()
"""


def test_log_likelihoods_agree_with_the_other_harness(tmp_path, checkpoint, reference, data_folder):
    """Winogrande by both harnesses: same model, data, prompts, strengths and seed."""
    datasets = builtin("winogrande/winogrande_ll_c5cf57.py", "winogrande_datasets")
    run = config(tmp_path / "run", entries(checkpoint), datasets)
    run_all(run)
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "task.yaml").write_text(
        WINOGRANDE.format(path=data_folder / "data" / "winogrande" / "dev.jsonl")
    )
    (folder / "parts.py").write_text(PARTS)
    model, tokenizer = reference
    for std in STDS:
        results = simple_evaluate(
            AimHFLM(model, tokenizer=tokenizer, noise_std=std, noise_seed=3, batch_size=2),
            tasks=["tiny_winogrande"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
        )
        samples = sorted(results["samples"]["tiny_winogrande"], key=lambda sample: sample["doc_id"])
        for sample, answer in zip(
            samples, predictions(run, "winogrande")[std].values(), strict=True
        ):
            theirs = [float(response[0][0]) for response in sample["resps"]]
            ours = [answer[f"label: {label}"]["Loglikelihood"] for label in (1, 2)]
            assert ours == pytest.approx(theirs, abs=1e-4)
        accuracy = results["results"]["tiny_winogrande"]["acc,none"]
        assert read(run, "results", std, "winogrande")["accuracy"] == pytest.approx(100 * accuracy)


CANNED = """
from opencompass.models.base import BaseModel

class CannedModel(BaseModel):
    asked, fails_at = [], 0

    def __init__(self, path, answer, noise_std=0, **kwargs):
        super().__init__(path, **kwargs)
        self.answer = answer

    def generate(self, inputs, max_out_len):
        CannedModel.asked.extend(inputs)
        if len(CannedModel.asked) == CannedModel.fails_at:
            raise ConnectionError("the service is down")
        return [self.answer] * len(inputs)

    def get_token_len(self, prompt):
        return len(prompt)
"""


def test_a_model_of_another_class_runs_beside_a_sweep(tmp_path, checkpoint, monkeypatch):
    (tmp_path / "canned.py").write_text(CANNED)
    monkeypatch.syspath_prepend(tmp_path)
    datasets = builtin("gsm8k/gsm8k_gen_1d7fe4.py", "gsm8k_datasets")
    datasets[0]["infer_cfg"]["inferencer"]["max_out_len"] = 4
    canned = {"type": "canned.CannedModel", "abbr": "canned", "path": "", "answer": "It is 3"}
    run = config(tmp_path / "run", [canned, *entries(checkpoint, stds=(0.0,))], datasets)
    run_all(run)
    assert len(read(run, "predictions", 0.0, "gsm8k")) == 3
    result = json.loads(Path(run.work_dir, "results", "canned", "gsm8k.json").read_text())
    assert result["accuracy"] == pytest.approx(100 / 3)
    assert not infer_tasks(run)


def test_strengths_of_a_model_without_noise_are_refused(tmp_path, checkpoint, monkeypatch):
    (tmp_path / "canned_too.py").write_text(CANNED)
    monkeypatch.syspath_prepend(tmp_path)
    models = [
        {"type": "canned_too.CannedModel", "abbr": f"c{std}", "path": "", "answer": "3"}
        | {"noise_std": std}
        for std in (0.0, 1.0)
    ]
    run = config(tmp_path / "run", models, builtin("gsm8k/gsm8k_gen_1d7fe4.py", "gsm8k_datasets"))
    (task,) = infer_tasks(run)
    with pytest.raises(TypeError, match=r"CannedModel answers under one strength only: use"):
        SweepOpenICLInferTask(task).run()


def test_runners_look_for_the_files_that_a_task_writes(tmp_path, checkpoint):
    """Slurm's runner starts a task again whose files are missing."""
    run = config(tmp_path / "run", entries(checkpoint), mmlu("mmlu/mmlu_ppl_ac766d.py"))
    (task,) = (SweepOpenICLInferTask(cfg) for cfg in infer_tasks(run))
    paths = task.get_output_paths()
    assert len(paths) == len(set(paths)) == len(STDS) * len(SUBJECTS)
    task.run()
    assert all(map(os.path.exists, paths))
    (tmp_path / "run").rename(tmp_path / "done")
    parts = [SweepOpenICLInferTask(cfg) for cfg in infer_tasks(run, num_worker=2)]
    assert [part.get_output_paths() for part in parts] == [[], []]


def test_a_task_survives_blanks_in_its_path(tmp_path):
    folder = tmp_path / "my runs"
    folder.mkdir()
    command = task_command("infer", str(folder / "task.py"), "ENV=1 {task_cmd}")
    assert shlex.split(command)[-2:] == ["infer", str(folder / "task.py")]


def short_gsm8k(length: int = 6) -> ConfigDict:
    """GSM8K without its worked examples."""
    (dataset,) = builtin("gsm8k/gsm8k_gen_1d7fe4.py", "gsm8k_datasets")
    dataset["infer_cfg"]["inferencer"]["max_out_len"] = length
    template = dataset["infer_cfg"]["prompt_template"]["template"]
    template["round"] = template["round"][-1:]
    return dataset


@pytest.fixture
def forty_documents(data_folder):
    path = data_folder / "data" / "gsm8k" / "test.jsonl"
    before = path.read_text()
    write_lines(path, [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(40)])
    yield
    path.write_text(before)


def sampling(checkpoint: Path, stds=(0.0, 1.0)) -> list[dict]:
    models = entries(checkpoint, stds)
    for model in models:
        model["generation_kwargs"] |= {"do_sample": True, "temperature": 2.0}
    return models


def texts(run: Config, std: float) -> list[str]:
    return [answer["prediction"] for answer in read(run, "predictions", std, "gsm8k").values()]


def test_samples_do_not_depend_on_the_number_of_gpus(tmp_path, checkpoint, forty_documents):
    """Forty documents twice: the second replica is another sample, also in a part of its own."""
    dataset = short_gsm8k()
    dataset["n"] = 2
    whole, parts = (
        config(tmp_path / name, sampling(checkpoint), [dataset]) for name in ("whole", "parts")
    )
    for run, workers in ((whole, 1), (parts, 2)):
        for task in infer_tasks(run, workers):
            SweepOpenICLInferTask(task).run()
    assert texts(parts, 1.0) == texts(whole, 1.0)
    assert len(texts(whole, 1.0)) == 80
    replicas = zip(texts(whole, 1.0)[:40], texts(whole, 1.0)[40:], strict=True)
    assert sum(one != other for one, other in replicas) > 30


def test_samples_of_a_resumed_run_are_those_of_an_unbroken_one(tmp_path, checkpoint):
    run = config(tmp_path / "run", sampling(checkpoint), [short_gsm8k()])
    run_all(run)
    before = {std: texts(run, std) for std in (0.0, 1.0)}
    Path(run.work_dir, "predictions", "tiny-noise1.0", "gsm8k.cell.json").unlink()
    run_all(run)
    assert {std: texts(run, std) for std in (0.0, 1.0)} == before


def test_random_examples_do_not_depend_on_the_number_of_gpus(tmp_path, checkpoint, forty_documents):
    dataset = short_gsm8k()
    dataset["infer_cfg"]["retriever"] = {
        "type": "opencompass.openicl.icl_retriever.RandomRetriever",
        "ice_num": 1,
    }
    dataset["infer_cfg"]["ice_template"] = {
        "type": "opencompass.openicl.icl_prompt_template.PromptTemplate",
        "template": "</E>{question} {answer}",
        "ice_token": "</E>",
    }
    del dataset["infer_cfg"]["prompt_template"]
    whole, parts = (
        config(tmp_path / name, entries(checkpoint, (1.0,)), [dataset])
        for name in ("whole", "parts")
    )
    for run, workers in ((whole, 1), (parts, 2)):
        for task in infer_tasks(run, workers):
            SweepOpenICLInferTask(task).run()
    one, other = (read(run, "predictions", 1.0, "gsm8k") for run in (whole, parts))
    assert one == other
    assert len({answer["origin_prompt"] for answer in one.values()}) > 30


def test_a_sibling_that_merges_meanwhile_loses_nothing(
    tmp_path, checkpoint, forty_documents, monkeypatch
):
    """One part is finished; its repetition looks just before the other part merges both."""
    run = config(tmp_path / "run", entries(checkpoint, (0.0,)), [short_gsm8k()])
    first, second = (SweepOpenICLInferTask(task) for task in infer_tasks(run, 2))
    first.run()
    repeated = SweepOpenICLInferTask(infer_tasks(run, 2)[0])
    own_part = repeated._own_part

    def own_part_while_the_sibling_finishes(index):
        part = own_part(index)
        second.run()
        return part

    monkeypatch.setattr(repeated, "_own_part", own_part_while_the_sibling_finishes)
    repeated.run()
    assert len(read(run, "predictions", 0.0, "gsm8k")) == 40
    assert not infer_tasks(run, 2)


def test_prompts_alone_may_be_asked_for(tmp_path, checkpoint):
    """`--dump-only-message-path` writes prompts and no predictions."""
    run = config(tmp_path / "run", entries(checkpoint, (0.0, 1.0)), [short_gsm8k()])
    (task,) = infer_tasks(run)
    task["dump_only_message_path"] = str(tmp_path / "messages")
    SweepOpenICLInferTask(task).run()
    assert len(list((tmp_path / "messages").rglob("*.jsonl"))) == 2
    assert not list(Path(run.work_dir, "predictions").rglob("gsm8k.json"))


def test_an_interrupted_model_of_another_class_is_asked_the_rest_alone(
    tmp_path, checkpoint, forty_documents, monkeypatch
):
    (tmp_path / "canned_service.py").write_text(CANNED)
    monkeypatch.syspath_prepend(tmp_path)
    import canned_service

    model = {"type": "canned_service.CannedModel", "abbr": "canned", "path": "", "answer": "3"}
    run = config(tmp_path / "run", [model | {"batch_size": 4}], [short_gsm8k()])
    monkeypatch.setattr(canned_service.CannedModel, "fails_at", 12)
    (task,) = infer_tasks(run)
    with pytest.raises(RuntimeError, match="inference failed for gsm8k"):
        SweepOpenICLInferTask(task).run()
    asked = canned_service.CannedModel.asked
    assert len(asked) == 12
    asked.clear()
    monkeypatch.setattr(canned_service.CannedModel, "fails_at", 0)
    run_all(run)
    assert len(asked) == 40 - 8
    assert len(json.loads(Path(run.work_dir, "predictions/canned/gsm8k.json").read_text())) == 40
