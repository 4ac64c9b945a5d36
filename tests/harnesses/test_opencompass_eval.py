"""The evaluation of a sweep, on predictions that the tests write in OpenCompass's layout."""

from __future__ import annotations

import json
import math
import pickle
import shlex
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from mmengine.config import Config, ConfigDict
from opencompass.datasets import Gsm8kEvaluator
from opencompass.datasets.custom import make_custom_dataset_config
from opencompass.openicl.icl_evaluator import AccEvaluator, BaseEvaluator

from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.results.scores import (
    compare_texts,
    explain_metrics,
    mean_stderr,
    read_correctness,
)
from aim_plugins.harnesses.opencompass.run import evaluate
from aim_plugins.harnesses.opencompass.run.evaluate import SweepOpenICLEvalTask
from aim_plugins.sweep.documents import decode_scores, encode_scores

GOLD = ["4", "8", "12", "16", "20"]
ERROR = {"error": "the judge is away"}
STDS = (0.0, 0.5, 1.0)
# What the model answers at each strength; of five answers 4, 2 and 0 are right.
ANSWERS = {
    0.0: ["4", "8", "12", "16", "no"],
    0.5: ["4", "8", "13", "17", "no"],
    1.0: ["x", "y", "z", "u", "v"],
}


class Run:
    """A run's folder with one model, three strengths, and data sets of five documents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work_dir = folder / "out"
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        lines = [json.dumps({"question": f"2 * {g}?", "answer": g}) + "\n" for g in GOLD]
        (folder / "sums.jsonl").write_text("".join(lines))
        self.entries = [
            ConfigDict(
                type="aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel",
                abbr=f"tiny-std{std}",
                path=str(folder / "model"),
                generation_kwargs=dict(noise_std=std),
            )
            for std in STDS
        ]

    def dataset(self, abbr: str = "sums", **changes: Any) -> ConfigDict:
        config = make_custom_dataset_config(
            {"path": str(self.folder / "sums.jsonl"), "abbr": abbr, "data_type": "qa"}
        )
        config["eval_cfg"].update(changes)
        return ConfigDict(config)

    def predict(self, dataset: ConfigDict, answers: dict[float, list[str]] = ANSWERS) -> None:
        for entry in self.entries:
            texts = answers.get(entry["generation_kwargs"]["noise_std"])
            if texts is None:
                continue
            path = self.work_dir / "predictions" / entry["abbr"] / f"{dataset['abbr']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(prediction_text(texts))
            self.cell(entry, dataset).note_prediction()

    def cell(self, entry: ConfigDict, dataset: ConfigDict) -> Cell:
        return Cell(self.work_dir, entry, dataset)

    def task(self, *datasets: ConfigDict, **settings: Any) -> SweepOpenICLEvalTask:
        config = {
            "models": [self.entries[0]],
            "datasets": [list(datasets)],
            "work_dir": str(self.work_dir),
            "sweep": {"models": self.entries},
            **settings,
        }
        dumped = self.folder / "task.py"
        Config(config, format_python_code=False).dump(str(dumped))
        return SweepOpenICLEvalTask(Config.fromfile(str(dumped), format_python_code=False))

    def evaluate(self, *datasets: ConfigDict, **settings: Any) -> None:
        self.task(*datasets, **settings).run()

    def results(self, dataset: ConfigDict) -> list[dict[str, Any]]:
        return [json.loads(self.cell(e, dataset).result.read_text()) for e in self.entries]

    def metrics(self, dataset: ConfigDict) -> list[dict[str, Any]]:
        return [self.statistics(e, dataset)["metrics"] for e in self.entries]

    def statistics(self, entry: ConfigDict, dataset: ConfigDict) -> dict[str, Any]:
        note = self.cell(entry, dataset).result_note()
        assert note is not None
        return note["statistics"]


def prediction_text(texts: list[str], golds: list[str] = GOLD) -> str:
    return json.dumps(
        {
            str(index): {"origin_prompt": "2 * ?", "prediction": text, "gold": gold}
            for index, (text, gold) in enumerate(zip(texts, golds, strict=True))
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# Scores -----------------------------------------------------------------------------------------


def test_standard_error_is_the_sample_deviation_over_the_root_of_n():
    scores = [1, 0, 0, 1, 1, 0.25, 1]
    expected = statistics.stdev(scores) / math.sqrt(len(scores))
    assert mean_stderr(scores) == pytest.approx(expected, rel=1e-12)


def test_standard_error_of_one_document_is_unknown():
    assert mean_stderr([1]) is None


@pytest.mark.parametrize("scores", [[0, 1, 1, 0], [0.5, 1.0, 0.25], [True, False]])
def test_scores_read_back(scores):
    assert decode_scores(json.loads(json.dumps(encode_scores(scores)))) == [*map(float, scores)]


@pytest.mark.parametrize(
    ("details", "scores"),
    [
        ([{"correct": True}, {"correct": False}], [1, 0]),
        ({"0": {"is_correct": [True]}, "1": {"is_correct": [False]}}, [1, 0]),
        ([{"correct": [True, False]}, {"correct": [True, True]}], [0.5, 1]),
        ([{"correct": True}, {"pred": "x"}], None),
        ([{"correct": 100.0}, {"correct": 3.0}], None),
        ([], None),
        (None, None),
    ],
)
def test_correctness_is_read_from_details_of_every_form(details, scores):
    assert read_correctness(details) == scores


def test_a_metric_that_is_no_mean_of_the_scores_is_not_explained():
    assert explain_metrics({"f1": 61.2, "n": True}, [[1, 0, 1, 1], None]) == {}


def test_scale_is_known_of_percentages_shares_and_rounded_values():
    found = explain_metrics(
        {"percent": 200 / 3, "share": 2 / 3, "rounded": 66.67, "rounded_share": 0.6667},
        [[1, 0, 1]],
    )
    scales = {metric: entry["scale"] for metric, entry in found.items()}
    assert scales == {"percent": 100, "share": 1, "rounded": 100, "rounded_share": 1}


def test_a_tiny_share_is_not_taken_for_a_rounded_percentage():
    scores = [1] + [0] * 24_999
    assert explain_metrics({"share": 1 / 25_000}, [scores])["share"]["scale"] == 1


def test_texts_of_unequal_number_are_no_pairs():
    assert compare_texts(["1"], ["1", "2"]) is None
    assert compare_texts(["1"], None) is None
    assert compare_texts([1, "b"], ["1", "c"]) == [1, 0]


# The task ---------------------------------------------------------------------------------------


def test_every_entry_gets_the_result_of_the_stock_evaluator(run):
    dataset = run.dataset()
    run.predict(dataset)
    run.evaluate(dataset)
    assert [result["accuracy"] for result in run.results(dataset)] == [80, 40, 0]
    assert all(run.cell(entry, dataset).has_result() for entry in run.entries)


@pytest.mark.parametrize(
    ("evaluator", "metric"),
    [
        ("opencompass.openicl.icl_evaluator.AccEvaluator", "accuracy"),
        ("opencompass.openicl.icl_evaluator.AccwithDetailsEvaluator", "accuracy"),
        ("opencompass.datasets.Gsm8kEvaluator", "accuracy"),
        ("opencompass.datasets.MATHEvaluator", "accuracy"),
    ],
)
def test_scores_of_documents_are_noted_for_built_in_evaluators(run, evaluator, metric):
    dataset = run.dataset(evaluator={"type": evaluator})
    run.predict(dataset)
    run.evaluate(dataset)
    assert [found[metric]["scores"] for found in run.metrics(dataset)] == [
        "11110",
        "11000",
        "00000",
    ]
    assert run.metrics(dataset)[0][metric]["scale"] == 100
    assert run.statistics(run.entries[0], dataset)["documents"] == 5


def test_scores_are_noted_for_options_matched_by_similarity(run):
    lines = [
        {"question": "sky?", "A": "red", "B": "blue", "answer": "B"},
        {"question": "rose?", "A": "red", "B": "blue", "answer": "A"},
    ]
    path = run.folder / "colours.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = ConfigDict(make_custom_dataset_config({"path": str(path), "abbr": "colours"}))
    for entry in run.entries:
        cell = run.cell(entry, dataset)
        cell.prediction.parent.mkdir(parents=True, exist_ok=True)
        cell.prediction.write_text(prediction_text(["It is blue", "B"], ["B", "A"]))
        cell.note_prediction()
    run.evaluate(dataset)
    assert run.metrics(dataset)[0]["accuracy"]["scores"] == "10"


def test_exact_match_reads_lists_of_references(run):
    golds = [[gold] for gold in GOLD]
    lines = [json.dumps({"question": "?", "answer": gold}) + "\n" for gold in golds]
    (run.folder / "sums.jsonl").write_text("".join(lines))
    dataset = run.dataset(evaluator={"type": "opencompass.openicl.icl_evaluator.EMEvaluator"})
    run.predict(dataset)
    run.evaluate(dataset)
    assert [found["score"]["scores"] for found in run.metrics(dataset)][:2] == ["11110", "11000"]


# Four runs of five questions: question q is answered rightly in RIGHT[q] of them.
RIGHT = (4, 3, 2, 1, 0)


def answers_of_runs(right: tuple[int, ...] = RIGHT, runs: int = 4) -> list[str]:
    return [GOLD[q] if run < right[q] else "no" for run in range(runs) for q in range(len(right))]


def predict_repeated(run: Run, dataset: ConfigDict, texts: list[str]) -> None:
    for entry in run.entries:
        path = run.cell(entry, dataset).prediction
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(prediction_text(texts, GOLD * (len(texts) // len(GOLD))))
        run.cell(entry, dataset).note_prediction()


def test_questions_asked_n_times_are_counted_once_in_every_metric(run):
    dataset = run.dataset(evaluator={"type": "opencompass.datasets.Gsm8kEvaluator"})
    dataset.update(n=4, k=[2])
    predict_repeated(run, dataset, answers_of_runs())
    run.evaluate(dataset)
    statistics_ = run.statistics(run.entries[0], dataset)
    assert statistics_["documents"] == 5
    result, found = run.results(dataset)[0], statistics_["metrics"]
    both = [math.comb(right, 2) / math.comb(4, 2) for right in RIGHT]  # of two drawn at random
    expected = {"accuracy (4 runs average)": [right / 4 for right in RIGHT]}
    expected |= {name: both for name in ("G-Pass@2_1.0", "mG-Pass@2", "sums/G-Pass@2_1.0")}
    for metric, scores in expected.items():
        assert found[metric]["scale"] == 100
        assert decode_scores(found[metric]["scores"]) == pytest.approx(scores)
        assert result[metric] == pytest.approx(100 * statistics.mean(scores))
    # No number of the result is left without scale and error.
    assert found.keys() == {name for name, value in result.items() if isinstance(value, float)}


def test_of_an_evaluator_without_details_the_last_run_is_what_counts(run):
    """OpenCompass keeps no other."""
    dataset = run.dataset()
    dataset.update(n=4)
    predict_repeated(run, dataset, answers_of_runs())
    run.evaluate(dataset)
    assert run.results(dataset)[0]["accuracy"] == 20
    assert run.metrics(dataset)[0]["accuracy"] == {"scale": 100, "scores": "10000"}


@pytest.mark.parametrize("tiled", [False, True])
def test_documents_that_a_reader_repeats_are_one_question(run, monkeypatch, tiled):
    """Code data sets do so for pass@k, each in its own order."""
    from opencompass.datasets import CustomDataset

    def repeat(path, num_repeats, **settings):
        rows = list(load(path, **settings))
        order = rows * num_repeats if tiled else [row for row in rows for _ in range(num_repeats)]
        return Dataset.from_list(order)

    load = CustomDataset.load
    monkeypatch.setattr(CustomDataset, "load", staticmethod(repeat))
    dataset = run.dataset(evaluator={"type": "opencompass.datasets.Gsm8kEvaluator"})
    dataset.update(num_repeats=2)
    verdicts = ("10000", "11000") if tiled else ("11010", "00000")
    texts = [
        gold if verdict == "1" else "no"
        for gold, verdict in zip(
            GOLD * 2 if tiled else [gold for gold in GOLD for _ in range(2)],
            "".join(verdicts),
            strict=True,
        )
    ]
    for entry in run.entries:
        path = run.cell(entry, dataset).prediction
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(prediction_text(texts, GOLD * 2))
        run.cell(entry, dataset).note_prediction()
    run.evaluate(dataset)
    assert run.results(dataset)[0]["accuracy"] == 30
    found = run.statistics(run.entries[0], dataset)
    assert found["documents"] == 5
    assert found["metrics"]["accuracy"] == {"scale": 100, "scores": [1, 0.5, 0, 0, 0]}


def test_a_metric_without_known_scores_claims_no_error(run):
    dataset = run.dataset(evaluator={"type": "opencompass.openicl.icl_evaluator.BleuEvaluator"})
    run.predict(dataset, {std: [f"{text} and more words" for text in ANSWERS[std]] for std in STDS})
    run.evaluate(dataset)
    assert "score" in run.results(dataset)[0]
    assert "score" not in run.metrics(dataset)[0]


def test_postprocessing_of_the_evaluator_counts(run):
    dataset = run.dataset(
        evaluator={
            "type": "opencompass.openicl.icl_evaluator.AccEvaluator",
            "pred_postprocessor": {"type": "gsm8k"},
        }
    )
    run.predict(dataset, {std: [f"It is {text}!" for text in ANSWERS[std]] for std in STDS})
    run.evaluate(dataset)
    assert [result["accuracy"] for result in run.results(dataset)] == [80, 40, 0]
    assert run.metrics(dataset)[1]["accuracy"]["scores"] == "11000"


@pytest.mark.parametrize("dump", [False, True])
def test_results_hold_details_only_where_the_user_asked_for_them(run, dump):
    dataset = run.dataset(evaluator={"type": "opencompass.datasets.Gsm8kEvaluator"})
    run.predict(dataset)
    run.evaluate(dataset, eval={"runner": {"task": {"dump_details": dump}}})
    assert all(("details" in result) is dump for result in run.results(dataset))


def test_the_evaluator_is_left_as_it_was(run):
    dataset = run.dataset()
    run.predict(dataset)
    run.evaluate(dataset)
    assert AccEvaluator.evaluate is BaseEvaluator.evaluate


def test_an_evaluator_may_pickle_itself_while_it_is_watched():
    with evaluate._watch(AccEvaluator):
        assert isinstance(pickle.loads(pickle.dumps(AccEvaluator())), AccEvaluator)


def test_each_data_set_is_read_once(run, monkeypatch):
    built = []

    def build(config):
        built.append(config["abbr"])
        return original(config)

    original = evaluate.OpenICLEvalTask._load_and_preprocess_test_data.__globals__[
        "build_dataset_from_cfg"
    ]
    monkeypatch.setattr("opencompass.tasks.openicl_eval.build_dataset_from_cfg", build)
    datasets = [run.dataset("one"), run.dataset("two")]
    for dataset in datasets:
        run.predict(dataset)
    run.evaluate(*datasets)
    assert built == ["one", "two"]


def test_finished_results_are_kept_and_stale_ones_replaced(run):
    dataset = run.dataset()
    run.predict(dataset)
    run.evaluate(dataset)
    marked = run.cell(run.entries[0], dataset)
    marked.result.write_text(json.dumps({"accuracy": 7.0}))
    marked.note_result(statistics={"documents": 5, "metrics": {}})
    run.evaluate(dataset)
    assert [result["accuracy"] for result in run.results(dataset)] == [7, 40, 0]

    changed = run.dataset(evaluator={"type": "opencompass.datasets.Gsm8kEvaluator"})
    run.evaluate(changed)
    assert [result["accuracy"] for result in run.results(changed)] == [80, 40, 0]


def test_a_missing_prediction_is_one_line_and_the_others_go_on(run, monkeypatch):
    dataset = run.dataset()
    run.predict(dataset, {std: ANSWERS[std] for std in (0.0, 1.0)})
    log = run.work_dir / "logs" / "infer" / "tiny-std0.0" / "sums.out"
    log.parent.mkdir(parents=True)
    log.write_text("out of memory")
    task = run.task(dataset)
    lines: list[str] = []
    monkeypatch.setattr(task.logger, "error", lambda text, *_, **__: lines.append(str(text)))
    with pytest.raises(RuntimeError, match=r"1 evaluations failed: tiny-std0\.5/sums"):
        task.run()
    assert [line for line in lines if "tiny-std0.5/sums" in line and str(log) in line]
    assert len(lines) == 1
    done = [run.cell(entry, dataset).has_result() for entry in run.entries]
    assert done == [True, False, True]


def test_a_prediction_of_other_settings_leaves_no_result(run):
    dataset = run.dataset()
    run.predict(dataset)
    run.evaluate(dataset)
    run.entries[1]["max_out_len"] = 3
    with pytest.raises(RuntimeError, match=r"tiny-std0\.5/sums"):
        run.evaluate(dataset)
    assert not run.cell(run.entries[1], dataset).result.exists()


def test_a_failing_data_set_does_not_stop_the_others(run, monkeypatch):
    good, bad = run.dataset("good"), run.dataset("bad", evaluator={"type": "no.such.Evaluator"})
    gone = run.dataset("gone")
    gone["path"] = str(run.folder / "gone.jsonl")
    for dataset in (good, bad, gone):
        run.predict(dataset)
    task = run.task(bad, gone, good)
    logged: list[str] = []
    monkeypatch.setattr(task.logger, "exception", lambda text, *_: logged.append(text))
    with pytest.raises(RuntimeError, match=r"6 evaluations failed: tiny-std0\.0/bad.* and 1 more"):
        task.run()
    assert [line.split(":")[0] for line in logged] == [
        "tiny-std0.0/bad",
        "tiny-std0.5/bad",
        "tiny-std1.0/bad",
        "gone",
    ]
    assert [result["accuracy"] for result in run.results(good)] == [80, 40, 0]


def test_an_evaluator_that_returns_an_error_fails_its_cell(run, monkeypatch):
    dataset = run.dataset(evaluator={"type": "opencompass.datasets.Gsm8kEvaluator"})
    run.predict(dataset)
    monkeypatch.setattr(Gsm8kEvaluator, "score", lambda self, predictions, references: ERROR)
    with pytest.raises(RuntimeError, match="3 evaluations failed"):
        run.evaluate(dataset)
    assert not run.cell(run.entries[0], dataset).result.exists()


def test_a_truncated_prediction_fails_its_cell_alone(run):
    dataset = run.dataset()
    run.predict(dataset)
    cell = run.cell(run.entries[0], dataset)
    cell.prediction.write_text(prediction_text(ANSWERS[0.0][:4], GOLD[:4]))
    cell.note_prediction()
    with pytest.raises(RuntimeError, match=r"1 evaluations failed: tiny-std0\.0/sums"):
        run.evaluate(dataset)
    assert run.cell(run.entries[1], dataset).has_result()


def without_notes(run: Run, dataset: ConfigDict) -> None:
    for entry in run.entries:
        run.cell(entry, dataset).prediction.with_suffix(".cell.json").unlink()


def test_predictions_of_a_stock_task_are_scored_with_one_warning(run, monkeypatch):
    dataset = run.dataset()
    run.predict(dataset)
    without_notes(run, dataset)
    task = run.task(dataset)
    warnings: list[str] = []
    monkeypatch.setattr(task.logger, "warning", lambda text, *_: warnings.append(text))
    task.run()
    assert [result["accuracy"] for result in run.results(dataset)] == [80, 40, 0]
    assert run.metrics(dataset)[0]["accuracy"]["scores"] == "11110"
    (warning,) = [text for text in warnings if "not by our inference" in text]
    assert "3 predictions" in warning


def test_a_score_of_unknown_predictions_is_replaced_once_they_are_known(run):
    dataset = run.dataset()
    run.predict(dataset)
    without_notes(run, dataset)
    run.evaluate(dataset)
    run.predict(dataset, {**ANSWERS, 1.0: ANSWERS[0.0]})
    run.evaluate(dataset)
    assert [result["accuracy"] for result in run.results(dataset)] == [80, 40, 80]
    marked = run.cell(run.entries[2], dataset)
    marked.result.write_text(json.dumps({"accuracy": 7.0}))
    marked.note_result(statistics={"documents": 5, "metrics": {}})
    run.evaluate(dataset)
    assert run.results(dataset)[2]["accuracy"] == 7


def test_finished_slices_without_a_whole_are_merged(run):
    dataset = run.dataset()
    run.predict(dataset)
    cell = run.cell(run.entries[0], dataset)
    cell.discard_prediction()
    for number, part in enumerate((slice(0, 3), slice(3, 5))):
        cell.slice_path(number).write_text(prediction_text(ANSWERS[0.0][part], GOLD[part]))
        cell.note_slice(number, 2)
    run.evaluate(dataset)
    assert run.results(dataset)[0]["accuracy"] == 80


def test_name_and_output_paths_speak_for_all_entries(run):
    task = run.task(run.dataset())
    assert "OpenICLEval" in task.name_prefix
    assert task.name == "SweepOpenICLEval[tiny x3]"
    assert [Path(path).relative_to(run.work_dir).parts for path in task.get_output_paths()] == [
        ("results", f"tiny-std{std}", "sums.json") for std in STDS
    ]


def test_the_command_starts_the_task_anywhere(run):
    dataset = run.dataset()
    run.predict(dataset, {0.5: ANSWERS[0.5]})
    command = run.task(dataset).get_command("params.py", "CUDA_VISIBLE_DEVICES= {task_cmd}")
    assert command.startswith("CUDA_VISIBLE_DEVICES= ")
    assert command.endswith(" -m aim_plugins.harnesses.opencompass.run.process eval params.py")


def test_nothing_is_started_where_inference_left_nothing_to_evaluate(run):
    """Importing OpenCompass to say so takes up to a minute."""
    command = run.task(run.dataset()).get_command("params.py", "CUDA_VISIBLE_DEVICES= {task_cmd}")
    ended = subprocess.run(["env", *shlex.split(command)], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "nothing to evaluate: the inference left no predictions" in ended.stderr
    assert "params.py" not in command


def test_a_finished_evaluation_is_started_although_its_predictions_are_gone(run):
    dataset = run.dataset()
    run.predict(dataset)
    run.evaluate(dataset)
    for entry in run.entries:
        run.cell(entry, dataset).prediction.unlink()
    assert "run.process eval" in run.task(dataset).get_command("params.py", "{task_cmd}")
