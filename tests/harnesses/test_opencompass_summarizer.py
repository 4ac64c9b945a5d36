"""Tables, curves and reports, from results that the tests write in OpenCompass's layout."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config, ConfigDict
from opencompass.datasets.custom import make_custom_dataset_config
from opencompass.utils import get_logger

from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.command import COMMAND_VARIABLE
from aim_plugins.harnesses.opencompass.config.entries import sweep_groups
from aim_plugins.harnesses.opencompass.results.summarizer import SweepSummarizer, chance_level
from aim_plugins.harnesses.opencompass.results.table import split_sweeps
from aim_plugins.harnesses.opencompass.results.texts import documents_shown, sample_texts
from aim_plugins.harnesses.opencompass.run.evaluate import SweepOpenICLEvalTask
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.sweep.documents import read_scores
from aim_plugins.sweep.table import pool_draws, read_table


class Run:
    """A run's folder, into which tests write results and their notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work_dir = folder / "out"
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        self.entries: list[ConfigDict] = []
        self.datasets: list[ConfigDict] = []
        self.warnings: list[str] = []
        self.more: dict[str, Any] = {}

    def add_entry(self, std: float, seed: int = 0, name: str = "tiny", **more: Any) -> ConfigDict:
        noise = {"noise_std": std, "noise_seed": seed, "noise_mean": more.pop("mean", 0.0)}
        entry = ConfigDict(
            type="aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel",
            abbr=f"{name}-std{std}-seed{seed}-mean{noise['noise_mean']}",
            path=str(self.folder / "model"),
            generation_kwargs=noise,
            **more,
        )
        self.entries.append(entry)
        return entry

    def add_dataset(self, abbr: str, **changes: Any) -> ConfigDict:
        path = self.folder / f"{abbr}.jsonl"
        fields = {"question": "2 + 2?", "answer": "A", **changes.pop("fields", {})}
        path.write_text(json.dumps(fields) + "\n")
        dataset = ConfigDict(
            make_custom_dataset_config({"path": str(path), "abbr": abbr, **changes})
        )
        self.datasets.append(dataset)
        return dataset

    def cell(self, entry: ConfigDict, dataset: ConfigDict) -> Cell:
        return Cell(self.work_dir, entry, dataset)

    def add_result(
        self,
        entry: ConfigDict,
        dataset: ConfigDict,
        result: dict[str, float],
        n: int = 4,
        **scores: str,
    ) -> None:
        cell = self.cell(entry, dataset)
        cell.result.parent.mkdir(parents=True, exist_ok=True)
        cell.result.write_text(json.dumps(result))
        metrics = {name: {"scale": 100, "scores": text} for name, text in scores.items()}
        cell.note_result(statistics={"documents": n, "metrics": metrics})

    def add_accuracy(self, entry: ConfigDict, dataset: ConfigDict, scores: str) -> None:
        accuracy = 100 * scores.count("1") / len(scores)
        self.add_result(entry, dataset, {"accuracy": accuracy}, len(scores), accuracy=scores)

    def config(self) -> Config:
        config = {
            "models": self.entries,
            "datasets": self.datasets,
            "work_dir": str(self.work_dir),
            **self.more,
        }
        dumped = self.folder / "config.py"
        Config(config, format_python_code=False).dump(str(dumped))
        return Config.fromfile(str(dumped), format_python_code=False)

    def summarize(self, **options: Any) -> None:
        summarizer = SweepSummarizer(self.config(), **options)
        summarizer.logger.warning = self.warnings.append
        try:
            summarizer.summarize(time_str="now")
        finally:
            del summarizer.logger.warning

    def sweep(self, name: str = "") -> Path:
        folders = list((self.work_dir / "summary" / "sweep").iterdir())
        (folder,) = [folder for folder in folders if not name or folder.name == name]
        return folder

    def rows(self, name: str = "") -> dict[tuple[str, str, float, int | None], Any]:
        rows = read_table(self.sweep(name) / "sweep.csv")
        return {(row.task, row.metric, row.strength, row.draw): row for row in rows}

    def strengths(self, name: str = "") -> list[dict[str, str]]:
        with open(self.sweep(name) / "strengths.csv", newline="") as file:
            return list(csv.DictReader(file))

    def stock_table(self) -> dict[str, list[str]]:
        with open(self.work_dir / "summary" / "summary_now.csv", newline="") as file:
            return {line[0]: line[4:] for line in csv.reader(file)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def binomial_stderr(share: float, n: int) -> float:
    return math.sqrt(share * (1 - share) / (n - 1))


# Rows and tables --------------------------------------------------------------------------------


def test_percentages_become_shares_with_errors_over_documents(run):
    dataset = run.add_dataset("sums")
    for std, scores in ((0.0, "1111101111"), (0.5, "1110001111")):
        run.add_accuracy(run.add_entry(std), dataset, scores)
    run.summarize()
    rows = run.rows()
    assert rows["sums", "accuracy", 0.0, 0].value == pytest.approx(0.9)
    assert rows["sums", "accuracy", 0.5, 0].value == pytest.approx(0.7)
    assert rows["sums", "accuracy", 0.5, 0].stderr == pytest.approx(binomial_stderr(0.7, 10))
    assert {row.n for row in rows.values()} == {10}
    assert [line["sums"] for line in run.strengths()] == ["90.0", "70.0"]


def test_seeds_are_draws_of_one_strength(run):
    dataset = run.add_dataset("sums")
    for seed, shares in ((7, ("1111", "1100")), (8, ("1111", "1000"))):
        for std, scores in zip((0.0, 0.5), shares, strict=True):
            run.add_accuracy(run.add_entry(std, seed), dataset, scores)
    run.summarize()
    rows = run.rows()
    values = {(std, draw): row.value for (_, _, std, draw), row in rows.items()}
    assert values == {(0, 0): 1, (0, 1): 1, (0.5, 0): 0.5, (0.5, 1): 0.25}
    assert [(line["strength"], line["sums"]) for line in run.strengths()] == [
        ("0", "100.0"),
        ("0.5", "37.5"),
    ]
    (_, point) = pool_draws(rows.values())
    assert (point.value, point.draws, point.n) == (0.375, 2, 4)


def test_strengths_are_compared_in_pairs(run):
    dataset = run.add_dataset("sums")
    for std, scores in ((0.0, "1111111101"), (0.5, "1100000001")):
        run.add_accuracy(run.add_entry(std), dataset, scores)
    run.summarize()
    kept = read_scores(run.sweep() / "documents.jsonl")
    assert [(one.strengths, one.scores.tolist()) for one in kept] == [
        ((0.0,), [1] * 8 + [0, 1]),
        ((0.5,), [1] * 2 + [0] * 7 + [1]),
    ]
    with open(run.sweep() / "sweep.csv", newline="") as file:
        plain, noisy = csv.DictReader(file)
    assert plain["difference"] == ""
    assert float(noisy["difference"]) == pytest.approx(-0.6)
    assert float(noisy["p"]) == pytest.approx(2 / 2**6)  # six answers become wrong, none right


def test_an_unexplained_metric_stays_as_reported_without_an_error(run):
    dataset = run.add_dataset("sums")
    run.add_result(run.add_entry(0.0), dataset, {"bleu": 31.5}, n=9)
    run.summarize()
    row = run.rows()["sums", "bleu", 0.0, 0]
    assert (row.value, row.stderr, row.n) == (31.5, None, 9)


def test_a_scale_that_fits_at_one_strength_by_chance_is_not_claimed(run):
    dataset = run.add_dataset("sums")
    run.add_result(run.add_entry(0.0), dataset, {"f1": 100.0}, f1="1111")
    run.add_result(run.add_entry(0.5), dataset, {"f1": 85.0})
    run.summarize()
    rows = run.rows()
    assert [(row.value, row.stderr) for row in rows.values()] == [(100, None), (85, None)]


def test_zero_fits_the_scale_of_the_other_strengths(run):
    dataset = run.add_dataset("sums")
    run.add_accuracy(run.add_entry(0.0), dataset, "1100")
    cell_of_zero = run.add_entry(0.5)
    run.add_result(cell_of_zero, dataset, {"accuracy": 0.0})  # with no scores at all
    run.summarize()
    assert [row.value for row in run.rows().values()] == [0.5, 0]


def test_zero_at_every_strength_is_a_share_without_spread(run):
    dataset = run.add_dataset("sums")
    run.add_accuracy(run.add_entry(0.5), dataset, "0000")
    run.summarize()
    assert [(row.value, row.stderr) for row in run.rows().values()] == [(0, 0)]


def test_every_metric_has_rows_and_the_first_of_opencompass_a_column(run):
    dataset = run.add_dataset("sums")
    run.add_result(
        run.add_entry(0.0), dataset, {"other": 3.0, "accuracy": 50.0, "type": 1}, accuracy="1010"
    )
    run.summarize()
    assert [(task, metric) for task, metric, *_ in run.rows()] == [
        ("sums", "accuracy"),
        ("sums", "other"),
    ]
    assert run.strengths() == [{"strength": "0", "sums": "50.0"}]


# Groups of data sets ----------------------------------------------------------------------------


@pytest.fixture
def three(run):
    """One entry on three data sets of 4, 10 and 20 documents; shares 0.75, 0.6 and 0.5."""
    entry = run.add_entry(0.5)
    run.add_accuracy(entry, run.add_dataset("a"), "1110")
    run.add_accuracy(entry, run.add_dataset("b"), "1111110000")
    run.add_accuracy(entry, run.add_dataset("c"), "1" * 10 + "0" * 10)
    return run


ERRORS = {
    "a": math.sqrt(0.75 * 0.25 / 3),
    "b": math.sqrt(0.6 * 0.4 / 9),
    "c": math.sqrt(0.5 * 0.5 / 19),
}


def test_an_average_over_data_sets_has_the_error_of_independent_documents(three):
    three.summarize(summary_groups=[{"name": "all", "subsets": ["a", "b", "c"]}])
    row = three.rows()["all", "naive_average", 0.5, 0]
    assert row.value == pytest.approx((0.75 + 0.6 + 0.5) / 3)
    expected = math.sqrt(sum(error**2 for error in ERRORS.values())) / 3
    assert row.stderr == pytest.approx(expected)
    assert row.n == 34
    assert three.strengths()[0]["all"] == repr((75.0 + 60.0 + 50.0) / 3)


def test_a_weighted_average_and_one_of_averages(three):
    groups = [
        {"name": "ab", "subsets": ["a", "b"], "weights": {"a": 1, "b": 3}},
        {"name": "top", "subsets": [["ab", "weighted_average"], ["c", "accuracy"]]},
    ]
    three.summarize(summary_groups=groups)
    rows = three.rows()
    inner = math.hypot(0.25 * ERRORS["a"], 0.75 * ERRORS["b"])
    assert rows["ab", "weighted_average", 0.5, 0].value == pytest.approx(0.25 * 0.75 + 0.75 * 0.6)
    assert rows["ab", "weighted_average", 0.5, 0].stderr == pytest.approx(inner)
    top = rows["top", "naive_average", 0.5, 0]
    assert top.value == pytest.approx((0.25 * 0.75 + 0.75 * 0.6 + 0.5) / 2)
    assert top.stderr == pytest.approx(math.hypot(inner, ERRORS["c"]) / 2)
    assert top.n == 34


@pytest.mark.parametrize(
    ("option", "metric", "value"),
    [
        ({"sum": True}, "sum", 185.0),
        (
            {"std": True},
            "standard_deviation",
            math.sqrt((13.3333333**2 + 1.6666667**2 + 11.6666667**2) / 3),
        ),
        ({"harmonic_mean": True}, "harmonic_mean", 3 / (1 / 75 + 1 / 60 + 1 / 50)),
    ],
)
def test_what_is_no_average_stays_as_reported(three, option, metric, value):
    three.summarize(summary_groups=[{"name": "all", "subsets": ["a", "b", "c"], **option}])
    row = three.rows()["all", metric, 0.5, 0]
    assert row.value == pytest.approx(value, rel=1e-6)
    assert row.stderr is None


def test_an_average_with_an_unexplained_part_has_no_error(three):
    three.add_result(three.entries[0], three.datasets[2], {"accuracy": 50.0}, n=20)
    three.summarize(summary_groups=[{"name": "all", "subsets": ["a", "b", "c"]}])
    row = three.rows()["all", "naive_average", 0.5, 0]
    assert (row.value, row.stderr, row.n) == (pytest.approx(185 / 3), None, 34)


def test_listed_data_sets_are_the_columns(three):
    three.summarize(
        summary_groups=[{"name": "all", "subsets": ["a", "b", "c"]}],
        dataset_abbrs=["----- knowledge -----", "all", ["c", "accuracy"], "absent"],
    )
    assert list(three.strengths()[0]) == ["strength", "all", "c:accuracy"]


# Missing and stale cells ------------------------------------------------------------------------


def test_a_missing_cell_leaves_the_rest(run):
    one, two = run.add_dataset("one"), run.add_dataset("two")
    for std in (0.0, 0.5):
        run.add_accuracy(run.add_entry(std), one, "1100")
    run.add_accuracy(run.entries[0], two, "1110")
    run.summarize(summary_groups=[{"name": "both", "subsets": ["one", "two"]}])
    assert run.strengths() == [
        {"strength": "0", "one": "50.0", "two": "75.0", "both": "62.5"},
        {"strength": "0.5", "one": "50.0", "two": "", "both": ""},
    ]
    assert (run.sweep() / "curves" / "one-accuracy.png").exists()
    assert (run.sweep() / "report.html").exists()
    assert any("1 of 4 cells" in warning for warning in run.warnings)


def test_pairs_that_the_config_does_not_combine_are_not_missed(run):
    texts, chats = run.add_dataset("texts"), run.add_dataset("chats")
    base, chat = run.add_entry(0.0, name="base"), run.add_entry(0.0, name="chat", mode="mid")
    run.add_accuracy(base, texts, "1100")
    run.add_accuracy(chat, chats, "1000")
    run.more["model_dataset_combinations"] = [
        {"models": [base], "datasets": [texts]},
        {"models": [chat], "datasets": [chats]},
    ]
    run.summarize()
    assert run.warnings == []
    (base_folder, chat_folder) = sorted((run.work_dir / "summary" / "sweep").iterdir())
    assert run.strengths(base_folder.name) == [{"strength": "0", "texts": "50.0"}]
    assert run.strengths(chat_folder.name) == [{"strength": "0", "chats": "25.0"}]


def test_a_stale_result_is_not_shown(run):
    dataset = run.add_dataset("sums")
    for std in (0.0, 0.5):
        run.add_accuracy(run.add_entry(std), dataset, "1100")
    run.entries[1]["max_out_len"] = 3
    run.entries[0]["max_out_len"] = 3
    run.add_accuracy(run.entries[0], dataset, "1110")
    run.summarize()
    assert [line["sums"] for line in run.strengths()] == ["75.0", ""]
    assert run.stock_table()["sums"] == ["75.00", "-"]
    assert any("1 results are left out" in text and "std0.5" in text for text in run.warnings)


def test_a_stale_result_with_other_metrics_does_not_disturb(run):
    dataset = run.add_dataset("sums")
    stale, fresh = run.add_entry(0.0), run.add_entry(0.5)
    cell = run.cell(stale, dataset)
    cell.result.parent.mkdir(parents=True)
    cell.result.write_text(json.dumps({"score": 12.0}))
    cell.note_result(statistics={"documents": 4, "metrics": {}})
    stale["max_out_len"] = fresh["max_out_len"] = 3
    run.add_accuracy(fresh, dataset, "1100")
    run.summarize()
    assert run.stock_table()["sums"] == ["-", "50.00"]


def write_unnoted(cell: Cell, result: dict[str, Any], answers: int, *, parts: int = 1) -> None:
    """Writes what a stock task leaves: answers, whole or in parts, and metrics."""
    cell.result.parent.mkdir(parents=True, exist_ok=True)
    cell.prediction.parent.mkdir(parents=True, exist_ok=True)
    cell.result.write_text(json.dumps(result))
    for part in range(parts):
        texts = {str(index): {"prediction": "4", "gold": "4"} for index in range(answers)}
        path = cell.prediction if parts == 1 else cell.slice_path(part)
        path.write_text(json.dumps(texts))


def test_results_of_stock_tasks_are_shown_with_one_warning(run):
    sums, more = run.add_dataset("sums"), run.add_dataset("more")
    more["n"] = 2  # answers to each document
    for std, value in ((0.0, 90.0), (0.5, 40.0)):
        entry = run.add_entry(std)
        write_unnoted(run.cell(entry, sums), {"accuracy": value}, 5, parts=3)
        write_unnoted(run.cell(entry, more), {"accuracy": value}, 8)
    run.summarize()
    rows = run.rows()
    shown = [(row.value, row.stderr, row.n) for row in rows.values()]
    assert shown == [(90, None, 15), (40, None, 15), (90, None, 4), (40, None, 4)]
    assert run.stock_table()["sums"] == ["90.00", "40.00"]
    (warning,) = run.warnings
    assert "4 results" in warning and "may be of another configuration" in warning


def test_documents_of_a_stock_result_are_counted_in_its_details_without_predictions(run):
    cell = run.cell(run.add_entry(0.0), run.add_dataset("sums"))
    details = {"type": "GEN", **{str(index): {"pred": "4"} for index in range(6)}}
    write_unnoted(cell, {"accuracy": 50.0, "details": details}, 1)
    cell.prediction.unlink()
    run.summarize()
    assert [row.n for row in run.rows().values()] == [6]


@pytest.mark.parametrize("spoilt", ["half a file", "stale predictions", "begun predictions"])
def test_a_stock_result_that_cannot_be_of_this_configuration_is_left_out(run, spoilt):
    dataset = run.add_dataset("sums")
    run.add_accuracy(run.add_entry(0.0), dataset, "1100")
    entry = run.add_entry(0.5)
    cell = run.cell(entry, dataset)
    write_unnoted(cell, {"accuracy": 90.0}, 5)
    if spoilt == "half a file":
        cell.result.write_text('{"accuracy": 9')
    elif spoilt == "stale predictions":
        other = ConfigDict({**entry, "max_out_len": 3})
        run.cell(other, dataset).note_prediction()
    else:
        cell.begin_prediction()
    run.summarize()
    assert run.stock_table()["sums"] == ["50.00", "-"]
    assert any("1 results are left out" in text for text in run.warnings)


def test_draws_of_every_strength_are_numbered_by_one_order_of_seeds(run):
    for std, seed in ((0.0, 5), (0.5, 7), (0.5, 6), (1.0, 6), (1.0, 7), (1.0, 5)):
        run.add_entry(std, seed)
    ((sweep,),) = map(split_sweeps, sweep_groups(run.entries))
    numbers = {(*sweep.strengths(column), column.seed): draw for _, column, draw in sweep.entries()}
    # Seeds appear in the order 5, 7, 6.
    assert [numbers[1.0, seed] for seed in (5, 7, 6)] == [0, 1, 2]
    assert [numbers[0.5, seed] for seed in (7, 6)] == [0, 1]
    assert numbers[0.0, 5] == 0


def test_a_sweep_without_any_result_is_only_mentioned(run):
    dataset = run.add_dataset("sums")
    run.add_accuracy(run.add_entry(0.0, name="one"), dataset, "1100")
    run.add_entry(0.0, name="two", max_out_len=9)
    run.summarize()
    assert [path.name for path in (run.work_dir / "summary" / "sweep").iterdir()] == [
        "one-std0.0-seed0-mean0.0"
    ]
    assert any("there is no result yet" in warning for warning in run.warnings)


def test_what_the_default_summarizer_takes_is_taken(run, monkeypatch):
    """Older configs of OpenCompass name a prompt_db."""
    run.add_result(run.add_entry(0.5), run.add_dataset("sums"), {"accuracy": 50.0})
    warnings: list[str] = []
    monkeypatch.setattr(get_logger(), "warning", warnings.append)
    summarizer = SweepSummarizer(config=run.config(), prompt_db={"database_path": "docs"})
    assert any("prompt_db is deprecated" in said for said in warnings)
    assert summarizer.dataset_abbrs is None


def test_nothing_at_all_gives_opencompass_table_of_dashes(run):
    run.add_dataset("sums")
    run.add_entry(0.0)
    run.summarize()
    assert run.stock_table()["sums"] == ["-"]


# Sweeps of a config -----------------------------------------------------------------------------


def test_each_model_has_its_own_folder(run):
    dataset = run.add_dataset("sums")
    for name, length in (("small", 5), ("large", 6)):
        for std in (0.0, 0.5):
            run.add_accuracy(run.add_entry(std, name=name, max_out_len=length), dataset, "1100")
    run.summarize()
    assert len(run.rows("small")) == len(run.rows("large")) == 2


def test_each_noise_mean_is_a_sweep_that_starts_at_the_same_model(run):
    run.add_entry(0.0)
    for mean in (0.0, 1.0):
        run.add_entry(0.5, mean=mean)
    (group,) = sweep_groups(run.entries)
    sweeps = {sweep.name: sweep.columns for sweep in split_sweeps(group)}
    assert sweeps == {
        f"tiny-mean={mean:g}": (
            Column((GaussianNoise(0.0),)),
            Column((GaussianNoise(0.5, mean),)),
        )
        for mean in (0.0, 1.0)
    }


def test_entries_of_one_shown_name_keep_their_own_curves(run):
    dataset = run.add_dataset("sums")
    for std, scores in ((0.0, "1111"), (0.5, "1100")):
        entry = run.add_entry(std, summarizer_abbr="shown")
        run.add_accuracy(entry, dataset, scores)
    run.summarize()
    assert [row.value for row in run.rows().values()] == [1, 0.5]
    assert run.stock_table()["dataset"] == ["shown"]


def test_a_strength_given_twice_is_refused(run):
    run.add_dataset("sums")
    run.add_entry(0.5)
    twin = run.add_entry(0.5)
    twin["abbr"] = "twin"
    with pytest.raises(ValueError, match="twin"):
        run.summarize()


# Files ------------------------------------------------------------------------------------------


def test_the_files_are_those_of_the_sweep_with_lm_eval(run, capsys):
    dataset = run.add_dataset("sums")
    for std in (0.0, 0.5):
        run.add_accuracy(run.add_entry(std), dataset, "1100")
    run.summarize()
    assert sorted(path.name for path in run.sweep().iterdir()) == [
        "curves",
        "documents.jsonl",
        "manifest.json",
        "report.html",
        "strengths.csv",
        "sweep.csv",
    ]
    assert sorted(path.name for path in (run.sweep() / "curves").iterdir()) == [
        "sums-accuracy.png",
        "sums-accuracy.svg",
    ]
    assert sorted(path.suffix for path in (run.work_dir / "summary").glob("summary_now.*")) == [
        ".csv",
        ".md",
        ".txt",
    ]
    printed = capsys.readouterr().out
    # Wilson's interval of two of four.
    assert "0.5 0.500 [0.150, 0.850]" in printed
    assert printed.endswith(f"report:    {run.sweep() / 'report.html'}\n")


def test_the_manifest_says_what_was_asked_for(run, monkeypatch):
    monkeypatch.setenv(COMMAND_VARIABLE, json.dumps(["aim-plugins", "sweep", "api_key=sesame"]))
    dataset = run.add_dataset("sums")
    for seed in (3, 4):
        for std in (0.5, 0.0):
            entry = run.add_entry(std, seed, model_kwargs={"token": "sesame"})
            run.add_accuracy(entry, dataset, "1100")
    run.summarize()
    text = (run.sweep() / "manifest.json").read_text()
    manifest = json.loads(text)
    arguments = manifest["arguments"]
    assert arguments["harness"] == "opencompass"
    assert arguments["model"] == "aim_plugins.harnesses.opencompass.models.HuggingFaceNoiseModel"
    assert arguments["tasks"] == ["sums"]
    assert arguments["noise_std"] == [0.0, 0.5]
    assert (arguments["noise_seed"], arguments["noise_draws"]) == (3, 2)
    assert manifest["model"] == "tiny"
    assert manifest["command"] == ["aim-plugins", "sweep", "api_key=***"]
    assert manifest["versions"]["opencompass"]
    assert "sesame" not in text + (run.sweep() / "report.html").read_text()


def test_summarising_again_changes_nothing_and_forgets_no_command(run, monkeypatch):
    monkeypatch.setenv(COMMAND_VARIABLE, json.dumps(["opencompass", "config.py"]))
    dataset = run.add_dataset("sums")
    run.add_accuracy(run.add_entry(0.0), dataset, "1100")
    run.summarize()
    files = {path: path.read_bytes() for path in run.sweep().rglob("*") if path.is_file()}
    created = json.loads(files[run.sweep() / "manifest.json"])["created"]
    monkeypatch.delenv(COMMAND_VARIABLE)
    monkeypatch.setattr("sys.argv", ["/bin/opencompass", "config.py", "-m", "viz", "-r"])
    monkeypatch.setattr(
        "aim_plugins.harnesses.opencompass.results.manifest.new_manifest",
        lambda *_: {
            **json.loads(files[run.sweep() / "manifest.json"]),
            "created": "later",
        },
    )
    run.summarize()
    assert created != "later"
    assert {path: path.read_bytes() for path in files} == files


def test_the_stock_command_is_known_by_its_words(run, monkeypatch):
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    monkeypatch.setattr("sys.argv", ["/bin/opencompass", "config.py", "-w", "out"])
    run.add_accuracy(run.add_entry(0.0), run.add_dataset("sums"), "1100")
    run.summarize()
    manifest = run.sweep() / "manifest.json"
    assert json.loads(manifest.read_text())["command"] == ["opencompass", "config.py", "-w", "out"]


def test_curves_of_a_data_set_that_left_the_config_go(run):
    entry = run.add_entry(0.0)
    for abbr in ("kept", "left"):
        run.add_accuracy(entry, run.add_dataset(abbr), "1100")
    run.summarize()
    curves = run.sweep() / "curves"
    (curves / "notes.txt").write_text("mine")
    run.datasets.pop()
    run.summarize()
    assert sorted(path.name for path in curves.iterdir()) == [
        "kept-accuracy.png",
        "kept-accuracy.svg",
        "notes.txt",
    ]


def test_hashing_prompts_leaves_the_config_as_it_was(run):
    dataset = run.add_dataset("sums")
    dataset["infer_cfg"]["retriever"] = {"type": "FixKRetriever", "fix_id_list": [0]}
    run.add_accuracy(run.add_entry(0.0), dataset, "1100")
    summarizer = SweepSummarizer(run.config())
    summarizer.summarize(time_str="now")
    assert summarizer.dataset_cfgs[0]["infer_cfg"]["retriever"]["fix_id_list"] == [0]


# Chance and texts -------------------------------------------------------------------------------

OPTIONS = {"fields": {"A": "red", "B": "blue", "C": "green"}}


@pytest.mark.parametrize(
    ("changes", "chance"),
    [
        ({**OPTIONS, "infer_method": "ppl"}, 1 / 3),
        ({**OPTIONS, "infer_method": "gen"}, 1 / 3),
        ({}, None),
    ],
)
def test_chance_is_one_over_the_options(run, changes, chance):
    assert chance_level(run.add_dataset("quiz", **changes)) == chance


def test_chance_of_a_postprocessor_that_reads_options(run):
    dataset = run.add_dataset("quiz")
    dataset["eval_cfg"]["pred_postprocessor"] = {"type": "first_option", "options": "ABCD"}
    assert chance_level(dataset) == 0.25


def test_chance_is_a_line_of_the_curve_and_of_the_average(run):
    entry = run.add_entry(0.0)
    for abbr in ("one", "two"):
        run.add_accuracy(entry, run.add_dataset(abbr, **OPTIONS, infer_method="ppl"), "1100")
    run.add_accuracy(entry, run.add_dataset("sums"), "1100")
    run.summarize(summary_groups=[{"name": "both", "subsets": ["one", "two"]}])
    curves = run.sweep() / "curves"
    drawn = [path.stem for path in curves.glob("*.svg") if ">chance<" in path.read_text()]
    assert sorted(drawn) == ["both-naive_average", "one-accuracy", "two-accuracy"]


def test_texts_hold_prompt_gold_answers_and_verdicts_by_strength(tmp_path):
    dialogue = [{"role": "HUMAN", "prompt": "2 + 2?"}, {"role": "BOT", "prompt": ""}]
    for name, answers in (("clean", ["4", "6"]), ("noisy", ["5", "6"])):
        content = {
            str(index): {"origin_prompt": dialogue, "prediction": text, "gold": ["4", "four"]}
            for index, text in enumerate(answers)
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (sample,) = sample_texts(
        {0.0: tmp_path / "clean.json", 0.5: tmp_path / "noisy.json"},
        {0.0: [1.0, 0.0], 0.5: [0.0]},  # a number of scores that does not fit is no verdict
        documents=1,
    )
    assert sample.prompt == "HUMAN: 2 + 2?"
    assert sample.target == "4\nfour"
    assert sample.texts == {0.0: "4", 0.5: "5"}
    assert sample.scores == {0.0: 1.0}


def test_a_report_of_many_data_sets_shows_fewer_documents_of_each():
    assert documents_shown(1) == documents_shown(10) == 24
    assert documents_shown(57) == 4
    assert documents_shown(5000) == 1


# With the evaluation ----------------------------------------------------------------------------


def test_evaluated_predictions_reach_the_tables_and_the_report(run):
    """Answers of every kind, through the real evaluators; accuracies are counted here."""
    quiz = run.add_dataset("quiz", **OPTIONS, infer_method="ppl")
    sums = run.add_dataset("sums")
    sums["eval_cfg"]["evaluator"] = {"type": "opencompass.datasets.Gsm8kEvaluator"}
    golds = {"quiz": ["A", "B", "C", "A"], "sums": ["4", "8", "12", "16"]}
    answers = {
        ("quiz", 0.0): ["A", "B", "C", "B"],
        ("quiz", 0.5): ["B", "B", "A", "B"],
        ("sums", 0.0): ["4.0", "8", "12", "</script>"],
        ("sums", 0.5): ["5", "9", "13", "17"],
    }
    for dataset in run.datasets:
        fields = {"question": "?", **OPTIONS["fields"]} if dataset is quiz else {"question": "?"}
        lines = [json.dumps({**fields, "answer": g}) + "\n" for g in golds[dataset["abbr"]]]
        Path(dataset["path"]).write_text("".join(lines))
    for std in (0.0, 0.5):
        entry = run.add_entry(std)
        for dataset in run.datasets:
            cell = run.cell(entry, dataset)
            cell.prediction.parent.mkdir(parents=True, exist_ok=True)
            pairs = zip(answers[dataset["abbr"], std], golds[dataset["abbr"]], strict=True)
            content = {
                str(index): {"origin_prompt": "a prompt", "prediction": text, "gold": gold}
                for index, (text, gold) in enumerate(pairs)
            }
            cell.prediction.write_text(json.dumps(content))
            cell.note_prediction()
    task = {
        "models": [run.entries[0]],
        "datasets": [run.datasets],
        "work_dir": str(run.work_dir),
        "sweep": {"models": run.entries},
    }
    SweepOpenICLEvalTask(ConfigDict(task)).run()
    run.summarize()

    rows = {(task, std): row for (task, _, std, _), row in run.rows().items()}
    for (task, std), texts in answers.items():
        right = [text in (gold, f"{gold}.0") for text, gold in zip(texts, golds[task], strict=True)]
        assert rows[task, std].value == pytest.approx(sum(right) / 4)
        assert rows[task, std].stderr == pytest.approx(binomial_stderr(sum(right) / 4, 4))
    report = (run.sweep() / "report.html").read_text()
    assert "a prompt" in report and "13" in report
    assert "\\u003c/script\\u003e" in report  # what a model wrote never ends the page's script
