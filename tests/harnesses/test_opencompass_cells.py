"""Cells: what makes a finished file stale, and how slices become a whole."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("opencompass")

from mmengine.config import Config, ConfigDict

from aim_plugins.harnesses.opencompass.cells import Cell

ANSWERS = {str(index): {"prediction": f"answer {index}"} for index in range(10)}


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return [
        ConfigDict(
            type="opencompass.models.HuggingFaceBaseModel",
            abbr=f"m-{std}",
            path=str(folder),
            batch_size=8,
            max_out_len=16,
            generation_kwargs=dict(noise_std=std),
            run_cfg=dict(num_gpus=0),
        )
        for std in (0.0, 0.5)
    ]


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "1+1?", "answer": "2"}\n')
    return ConfigDict(
        type="opencompass.datasets.CustomDataset",
        abbr="questions",
        path=str(path),
        reader_cfg=dict(input_columns=["question"], output_column="answer"),
        infer_cfg=dict(
            prompt_template=dict(
                type="opencompass.openicl.icl_prompt_template.PromptTemplate",
                template="Q: {question}",
            ),
            retriever=dict(type="opencompass.openicl.icl_retriever.ZeroRetriever"),
            inferencer=dict(type="opencompass.openicl.icl_inferencer.GenInferencer"),
        ),
        eval_cfg=dict(evaluator=dict(type="opencompass.openicl.AccEvaluator")),
    )


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def write(path, answers=ANSWERS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(answers))


def finish(cell):
    write(cell.prediction)
    cell.note_prediction()
    write(cell.result, {"accuracy": 50.0})
    cell.note_result(count=10)


def change(settings, dotted, value):
    changed = copy.deepcopy(settings)
    *path, last = dotted.split(".")
    inner = changed
    for key in path:
        inner = inner[key]
    inner[last] = value
    return changed


def test_files_lie_where_opencompass_looks_for_them(run, models, dataset):
    cell = Cell(run, models[1], dataset)
    assert cell.prediction == run / "predictions" / "m-0.5" / "questions.json"
    assert cell.result == run / "results" / "m-0.5" / "questions.json"
    assert cell.slice_path(3) == run / "predictions" / "m-0.5" / "questions_3.json"


def test_a_finished_cell_is_found_finished_by_any_later_cell(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    assert not cell.has_prediction()
    assert not cell.has_result()
    finish(cell)
    again = Cell(str(run), copy.deepcopy(models[0]), copy.deepcopy(dataset))
    assert again.has_prediction()
    assert again.has_result()
    assert again.result_note()["count"] == 10


def test_reading_and_asking_write_nothing(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    assert (cell.has_prediction(), cell.has_slice(0, 2), cell.merge_slices(2)) == (False,) * 3
    assert not cell.discard_prediction()
    assert not cell.discard_result()
    assert cell.prediction_note() is None
    assert not run.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("generation_kwargs.noise_std", 0.25),
        ("generation_kwargs.noise_seed", 1),
        ("generation_kwargs.noise_mean", 0.5),
        ("generation_kwargs.do_sample", True),
        ("max_out_len", 17),
        ("type", "opencompass.models.HuggingFacewithChatTemplate"),
        ("path", "org/another"),
    ],
)
def test_a_changed_model_or_strength_under_an_old_abbr_is_stale(run, models, dataset, key, value):
    finish(Cell(run, models[1], dataset))
    changed = Cell(run, change(models[1], key, value), dataset)
    assert changed.prediction.exists()
    assert not changed.has_prediction()
    assert not changed.has_result()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("infer_cfg.prompt_template.template", "Question: {question}"),
        ("reader_cfg.test_range", "[0:5]"),
        ("infer_cfg.inferencer.max_out_len", 3),
    ],
)
def test_a_changed_prompt_under_an_old_abbr_is_stale(run, models, dataset, key, value):
    finish(Cell(run, models[1], dataset))
    changed = Cell(run, models[1], change(dataset, key, value))
    assert not changed.has_prediction()
    assert not changed.has_result()


def test_changed_scoring_makes_only_the_result_stale(run, models, dataset):
    finish(Cell(run, models[1], dataset))
    evaluator = change(dataset, "eval_cfg.evaluator.type", "opencompass.openicl.EMEvaluator")
    postprocessor = change(models[1], "pred_postprocessor", dict(type="first-capital"))
    for cell in (Cell(run, models[1], evaluator), Cell(run, postprocessor, dataset)):
        assert cell.has_prediction()
        assert not cell.has_result()


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 1), ("run_cfg.num_gpus", 1), ("summarizer_abbr", "another name")],
)
def test_what_does_not_shape_answers_is_not_stale(run, models, dataset, key, value):
    finish(Cell(run, models[1], dataset))
    same = Cell(run, change(models[1], key, value), dataset)
    assert same.has_prediction()
    assert same.has_result()


def test_a_new_abbr_has_the_same_fingerprints(run, models, dataset):
    old = Cell(run, models[1], dataset)
    renamed = Cell(run, change(models[1], "abbr", "new"), change(dataset, "abbr", "newer"))
    assert renamed.prediction_fingerprint == old.prediction_fingerprint
    assert renamed.result_fingerprint == old.result_fingerprint


def test_the_seed_of_sampled_texts_matters_without_noise_too(run, models, dataset):
    def prints(**options):
        entry = {**models[0], "generation_kwargs": {"noise_std": 0, **options}}
        return Cell(run, entry, dataset).prediction_fingerprint

    assert prints(noise_seed=1) == prints(noise_seed=2)
    assert prints(noise_seed=1, do_sample=True) != prints(noise_seed=2, do_sample=True)


def test_where_the_noise_stands_and_the_seed_of_no_noise_do_not_matter(run, models, dataset):
    bare = {key: value for key, value in models[0].items() if key != "generation_kwargs"}
    prints = {
        Cell(run, {**bare, **noise}, dataset).prediction_fingerprint
        for noise in (
            {},
            dict(noise_std=0),
            dict(noise_std=0.0, noise_seed=5, noise_mean=1.0),
            dict(generation_kwargs=dict(noise_std=0.0, noise_seed=6)),
        )
    }
    assert len(prints) == 1


def test_a_changed_question_is_stale_even_at_the_same_size_and_time(run, models, dataset):
    finish(Cell(run, models[0], dataset))
    path = Path(dataset["path"])
    path.write_text('{"question": "1+2?", "answer": "3"}\n')
    # Another inode time than before, because a file system's clock may be coarser than this test.
    os.utime(path, (1, 1))
    assert not Cell(run, models[0], dataset).has_prediction()


def test_a_touched_or_copied_file_is_not_stale(run, models, dataset):
    finish(Cell(run, models[0], dataset))
    for path in (Path(dataset["path"]), Path(models[0]["path"]) / "config.json"):
        os.utime(path, (1, 1))
    assert Cell(run, models[0], dataset).has_prediction()


@pytest.mark.parametrize("size", [1000, 40 << 20])
def test_changed_weights_are_stale_even_at_the_same_size(run, models, dataset, size):
    weights = Path(models[0]["path"]) / "model.safetensors"
    weights.write_bytes(bytes(size))
    finish(Cell(run, models[0], dataset))
    weights.write_bytes(bytes([1]) * size)
    os.utime(weights, (1, 1))
    assert not Cell(run, models[0], dataset).has_prediction()


def test_an_added_model_file_is_stale_and_a_hidden_one_is_not(run, models, dataset):
    folder = Path(models[0]["path"])
    finish(Cell(run, models[0], dataset))
    (folder / ".cache").write_text("when it was downloaded")
    assert Cell(run, models[0], dataset).has_prediction()
    (folder / "generation_config.json").write_text("{}")
    assert not Cell(run, models[0], dataset).has_prediction()


def test_files_in_opencompass_data_folder_count(run, models, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    test = tmp_path / "data" / "gsm8k" / "test.jsonl"
    write(test)
    by_name = change(dataset, "path", "opencompass/gsm8k")  # which it maps to data/gsm8k
    by_path = change(change(dataset, "path", "./data/gsm8k/test.jsonl"), "abbr", "by_path")
    for data in (by_name, by_path):
        finish(Cell(run, models[0], data))
        assert Cell(run, models[0], data).has_prediction()
    write(test, {"another": "question"})
    for data in (by_name, by_path):
        assert not Cell(run, models[0], data).has_prediction()


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["file_path"], "more.jsonl"),
        (["needle_file_name"], "more.jsonl"),
        (["root_dir"], "more"),
        (["dataFolder"], "more"),
        (["Filename"], "more.jsonl"),
        (["data_files"], {"train": "none.jsonl", "test": "more.jsonl"}),
        (["test_paths"], ["none.jsonl", ["more.jsonl"]]),
        (["sources", 0, "path"], "more.jsonl"),
    ],
)
def test_a_changed_file_is_stale_whatever_setting_names_it(
    run, models, dataset, tmp_path, monkeypatch, keys, value
):
    """The reader's own names of its files."""
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / "more.jsonl", tmp_path / "more" / "deep" / "test.csv"]
    for path in files:
        write(path)
    for key in reversed(keys):
        value = [value] if key == 0 else {key: value}
    settings = {**dataset, **value}
    finish(Cell(run, models[0], settings))
    assert Cell(run, models[0], settings).has_prediction()
    for path in files:
        write(path, {"another": "question"})
    assert not Cell(run, models[0], settings).has_prediction()


def test_files_that_a_data_set_does_not_read_do_not_count(
    run, models, dataset, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "notes.txt"
    write(log)
    settings = {**dataset, "subject": "notes.txt", "root_dir": ".", "prompt_path": "a" * 5000}
    for part in ("reader_cfg", "infer_cfg", "eval_cfg"):
        settings[part] = {**settings[part], "log_file": str(log)}
    finish(Cell(run, models[0], settings))
    write(log, {"another": "note"})
    assert Cell(run, models[0], settings).has_prediction()


def test_data_that_is_not_here_is_neither_downloaded_nor_an_error(
    run, models, dataset, tmp_path, monkeypatch
):
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path / "empty"))

    def no_download(*_, **__):
        raise AssertionError("it downloads")

    monkeypatch.setattr("opencompass.utils.datasets.download_dataset", no_download)
    for path in ("opencompass/gsm8k", "no/such/file.jsonl", ""):
        finish(Cell(run, models[0], change(dataset, "path", path)))
    assert not (tmp_path / "empty").exists()


def test_a_prediction_without_a_note_is_not_done(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    write(cell.prediction)
    assert not cell.has_prediction()
    assert cell.discard_prediction()
    assert not cell.prediction.exists()


def test_a_truncated_prediction_is_not_done(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    finish(cell)
    cell.prediction.write_bytes(cell.prediction.read_bytes()[:-20])
    assert not cell.has_prediction()


def test_a_damaged_note_or_a_missing_file_is_not_done(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    finish(cell)
    note = cell.prediction.with_name("questions.cell.json")
    note.write_bytes(note.read_bytes()[:-20])
    assert not cell.has_prediction()
    assert cell.prediction_note() is None
    cell.result.unlink()
    assert not cell.has_result()


def test_discarding_removes_all_that_opencompass_would_resume_from(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    finish(cell)
    for name in ("tmp_questions.jsonl", "tmp_questions.json"):
        write(cell.prediction.with_name(name))
    other = Cell(run, models[0], change(dataset, "abbr", "others"))
    finish(other)
    assert cell.discard_prediction()
    assert cell.discard_result()
    assert sorted(path.name for path in cell.prediction.parent.iterdir()) == [
        "others.cell.json",
        "others.json",
    ]
    assert not cell.discard_prediction()
    assert other.has_prediction()


def test_noting_without_a_file_is_an_error(run, models, dataset):
    with pytest.raises(FileNotFoundError, match="questions.json"):
        Cell(run, models[0], dataset).note_prediction()


def test_a_table_holds_the_same_cells_as_single_ones(run, models, dataset):
    datasets = [dataset, change(dataset, "abbr", "b"), change(dataset, "reader_cfg.test_range", "")]
    rows = Cell.table(run, models, datasets)
    assert [len(row) for row in rows] == [3, 3]
    for model, row in zip(models, rows, strict=True):
        for data, cell in zip(datasets, row, strict=True):
            single = Cell(run, model, data)
            assert cell.prediction == single.prediction
            assert cell.result_fingerprint == single.result_fingerprint


def test_a_task_after_dumping_has_the_fingerprints_of_the_main_process(tmp_path, dataset, models):
    source = tmp_path / "config.py"
    source.write_text(
        "import torch\n"
        "from opencompass.models import HuggingFaceBaseModel\n"
        "from opencompass.datasets import GSM8KDataset, gsm8k_postprocess\n"
        "models = [dict(type=HuggingFaceBaseModel, abbr='a', path='org/m', stop=('x', 1),\n"
        "    model_kwargs=dict(torch_dtype=torch.float16), noise_std=0.1,\n"
        "    pred_postprocessor=dict(type=gsm8k_postprocess))]\n"
        "datasets = [dict(type=GSM8KDataset, abbr='d', path='nowhere', reader_cfg=dict(a='é'),\n"
        "    eval_cfg=dict(dataset_postprocessor=dict(type=gsm8k_postprocess)))]\n"
    )
    cfg = Config.fromfile(source, format_python_code=False)
    cfg.dump(tmp_path / "dumped.py")
    here = Cell(tmp_path, cfg.models[0], cfg.datasets[0])
    program = (
        "import sys\n"
        "from mmengine.config import Config\n"
        "from aim_plugins.harnesses.opencompass.cells import Cell\n"
        "cfg = Config.fromfile(sys.argv[1])\n"
        "cell = Cell('anywhere', cfg.models[0], cfg.datasets[0])\n"
        "print(cell.prediction_fingerprint, cell.result_fingerprint)\n"
    )
    task = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "dumped.py")],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert task.stdout.split() == [here.prediction_fingerprint, here.result_fingerprint]


def write_slice(cell, k, n):
    """Answers as OpenCompass numbers them: from 0 in every slice."""
    size = -(-len(ANSWERS) // n)
    own = list(ANSWERS.values())[k * size : (k + 1) * size]
    write(cell.slice_path(k), {str(index): answer for index, answer in enumerate(own)})
    cell.note_slice(k, n)


@pytest.mark.parametrize("n", [1, 3, 4])
def test_slices_join_into_the_whole_and_vanish(run, models, dataset, n):
    cell = Cell(run, models[0], dataset)
    for k in reversed(range(n)):
        assert not cell.merge_slices(n)
        write_slice(cell, k, n)
        assert cell.has_slice(k, n)
    assert cell.merge_slices(n)
    assert list(json.loads(cell.prediction.read_text()).items()) == list(ANSWERS.items())
    assert cell.has_prediction()
    assert cell.merge_slices(n)
    assert sorted(path.name for path in cell.prediction.parent.iterdir()) == [
        "questions.cell.json",
        "questions.json",
    ]


def test_slices_of_another_number_are_not_joined_and_do_not_stay(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    for k in (0, 1, 3):
        write_slice(cell, k, 4)
    assert not cell.has_slice(0, 2)
    write_slice(cell, 0, 2)
    assert not cell.merge_slices(2)
    write_slice(cell, 1, 2)
    assert cell.merge_slices(2)
    assert json.loads(cell.prediction.read_text()) == ANSWERS
    assert not cell.slice_path(3).exists()


def test_stale_slices_are_neither_joined_nor_kept(run, models, dataset):
    old = Cell(run, models[1], dataset)
    write_slice(old, 0, 2)
    new = Cell(run, change(models[1], "generation_kwargs.noise_std", 0.75), dataset)
    write_slice(new, 1, 2)
    assert not new.has_slice(0, 2)
    assert not new.merge_slices(2)
    assert not new.discard_prediction()
    assert new.has_slice(1, 2)
    assert new.discard_slice(0, 2)
    assert not new.slice_path(0).exists()
    write_slice(old, 2, 3)
    finish(new)
    assert not any(new.slice_path(k).exists() for k in range(3))


def test_joining_goes_on_where_a_kill_left_it(run, models, dataset, monkeypatch):
    cell = Cell(run, models[0], dataset)
    for k in range(3):
        write_slice(cell, k, 3)
    real = Path.unlink

    def killed(path, *arguments, **options):
        if path.name.startswith("questions_1"):
            raise KeyboardInterrupt
        return real(path, *arguments, **options)

    for interrupted in ("aim_plugins.harnesses.opencompass.cells.write_atomic", "pathlib.Path"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if interrupted == "pathlib.Path":
                patch.setattr(Path, "unlink", killed)
            else:
                # Killed after the whole was written and before its note was.
                patch.setattr(interrupted, write_then_die)
            Cell(run, models[0], dataset).merge_slices(3)
    assert Cell(run, models[0], dataset).merge_slices(3)
    assert json.loads(cell.prediction.read_text()) == ANSWERS
    assert not any(cell.slice_path(k).exists() for k in range(3))


def write_then_die(path, data):
    path.write_text(data)
    raise KeyboardInterrupt


def test_slices_are_joined_once_by_processes_that_finish_together(run, models, dataset):
    for attempt in range(20):
        cells = [Cell(run / str(attempt), models[0], dataset) for _ in range(4)]
        for k in range(3):
            write_slice(cells[0], k, 3)
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda cell: cell.merge_slices(3), cells))
        assert json.loads(cells[0].prediction.read_text()) == ANSWERS
        assert cells[0].has_prediction()
        assert not cells[0].slice_path(0).exists()


def test_a_data_set_whose_name_ends_in_a_number_is_no_slice(run, models, dataset):
    second = Cell(run, models[0], change(dataset, "abbr", "questions_1"))
    finish(second)
    cell = Cell(run, models[0], dataset)
    assert not cell.has_slice(1, 2)
    finish(cell)
    cell.discard_prediction()
    assert second.has_prediction()


def test_discarding_a_slice_leaves_the_others(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    for k in range(2):
        write_slice(cell, k, 2)
    write(cell.prediction.with_name("tmp_questions_0.jsonl"))
    assert cell.discard_slice(0)
    assert not cell.has_slice(0, 2)
    assert cell.has_slice(1, 2)
    assert not cell.prediction.with_name("tmp_questions_0.jsonl").exists()


def tmp_of(path):
    """What OpenCompass resumes generation from."""
    return path.with_name(f"tmp_{path.stem}.jsonl")


def test_a_begun_cell_is_not_done_whatever_file_lies_there(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    cell.begin_prediction()
    cell.begin_slice(0, 2)
    assert not cell.has_prediction()
    for path in (cell.prediction, cell.slice_path(0)):
        for text in ("", "{}"):
            path.write_text(text)
            assert not cell.has_prediction()
            assert not cell.has_slice(0, 2)
    assert not cell.merge_slices(2)
    assert "bytes" not in cell.prediction_note()
    assert cell.result_note() is None


def test_an_interrupted_inference_is_resumed_under_the_same_fingerprint(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    cell.begin_prediction()
    write(tmp_of(cell.prediction))
    again = Cell(run, change(models[0], "abbr", models[0]["abbr"]), dataset)
    assert not again.discard_prediction()  # nothing stale
    write(again.prediction)
    assert again.discard_prediction()
    assert not again.prediction.exists()
    assert json.loads(tmp_of(again.prediction).read_text()) == ANSWERS


@pytest.mark.parametrize("begun", ["otherwise", "not", "unresumable", "finished"])
def test_nothing_is_resumed_that_was_not_begun_the_same_way(run, models, dataset, begun):
    cell = Cell(run, models[1], dataset)
    write(tmp_of(cell.prediction))
    if begun == "otherwise":
        Cell(run, change(models[1], "generation_kwargs.noise_std", 0.7), dataset).begin_prediction()
    elif begun == "unresumable":
        cell.begin_prediction(resumable=False)
    elif begun == "finished":
        finish(cell)
        write(tmp_of(cell.prediction))
    cell.discard_prediction()
    assert list(cell.prediction.parent.iterdir()) == []


def test_an_interrupted_slice_is_resumed_only_as_the_same_slice(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    for k in range(3):
        cell.begin_slice(k, 3)
        write(tmp_of(cell.slice_path(k)))
    write(cell.slice_path(0))
    assert cell.discard_slice(0, 3)
    assert not cell.slice_path(0).exists()
    assert tmp_of(cell.slice_path(0)).exists()
    assert cell.discard_slice(1, 2)  # another cut of the data
    assert not tmp_of(cell.slice_path(1)).exists()
    assert cell.discard_slice(2)
    assert not tmp_of(cell.slice_path(2)).exists()


def test_a_begun_slice_of_another_model_is_stale(run, models, dataset):
    Cell(run, models[1], dataset).begin_slice(0, 2)
    new = Cell(run, change(models[1], "generation_kwargs.noise_std", 0.75), dataset)
    write(tmp_of(new.slice_path(0)))
    assert new.discard_slice(0, 2)
    assert not tmp_of(new.slice_path(0)).exists()


def test_slices_joined_after_a_begun_whole_leave_nothing_to_resume(run, models, dataset):
    cell = Cell(run, models[0], dataset)
    cell.begin_prediction()
    write(tmp_of(cell.prediction))
    for k in range(2):
        cell.begin_slice(k, 2)
        write_slice(cell, k, 2)
    assert cell.merge_slices(2)
    assert sorted(path.name for path in cell.prediction.parent.iterdir()) == [
        "questions.cell.json",
        "questions.json",
    ]


def interleave(start, ours, theirs):
    """Runs the work of another process whole before the first, the second, ... file access of ours.

    Args:
        start: Prepares an attempt.
        ours: The work of one process in an attempt.
        theirs: The work of the other.

    Yields:
        The attempt and what `ours` returned, once both are through.
    """
    accesses = [(Path, name) for name in ("read_text", "read_bytes", "stat", "unlink")]
    accesses += [(os, name) for name in ("listdir", "replace")]
    for attempt in range(1000):
        made = []

        def interrupted(real, attempt, made, *arguments, **options):
            made.append(arguments)
            if len(made) == attempt + 1:
                theirs(attempt)
            return real(*arguments, **options)

        start(attempt)
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in accesses:
                # A lambda, because a method is bound to its path and a partial is not.
                wrapped = partial(interrupted, getattr(owner, name), attempt, made)
                patch.setattr(owner, name, lambda *a, _wrapped=wrapped, **k: _wrapped(*a, **k))
            answer = ours(attempt)
        if len(made) <= attempt:
            assert attempt > 0
            return
        yield attempt, answer
    raise AssertionError("ours does not end")


@pytest.fixture
def cell_of(run, models, dataset):
    """The cell as a new process sees it, in a folder for each attempt."""
    return lambda attempt: Cell(run / str(attempt), models[0], dataset)


def start_slice(cell, k, n):
    cell.discard_prediction()
    cell.discard_slice(k, n)
    cell.begin_slice(k, n)


def is_whole(cell):
    return (
        cell.has_prediction()
        and json.loads(cell.prediction.read_text()) == ANSWERS
        and len(list(cell.prediction.parent.iterdir())) == 2
    )


def test_processes_that_join_at_once_both_find_the_whole(cell_of):
    def start(attempt):
        for k in range(3):
            write_slice(cell_of(attempt), k, 3)

    def join(attempt):
        assert cell_of(attempt).merge_slices(3)

    for attempt, _ in interleave(start, join, join):
        assert is_whole(cell_of(attempt))


def test_of_processes_that_finish_their_slices_at_once_one_joins_them(cell_of):
    def finish_slice(k, attempt):
        start_slice(cell_of(attempt), k, 2)
        write_slice(cell_of(attempt), k, 2)
        return cell_of(attempt).merge_slices(2)

    for attempt, _ in interleave(
        lambda attempt: None, partial(finish_slice, 0), partial(finish_slice, 1)
    ):
        assert is_whole(cell_of(attempt))


def test_a_slice_is_not_missed_while_another_process_joins_it(cell_of):
    """A task that asks, as it starts again, what is left to compute."""

    def start(attempt):
        for k in range(2):
            write_slice(cell_of(attempt), k, 2)

    def ask(attempt):
        cell = cell_of(attempt)
        return cell.has_prediction() or cell.has_slice(0, 2)

    for attempt, found in interleave(start, ask, lambda attempt: cell_of(attempt).merge_slices(2)):
        assert found, attempt


def test_a_process_that_starts_leaves_the_slice_of_another_alone(run, models, dataset, cell_of):
    """Both find the slices of a former model, and one is done before the other goes on."""
    former = change(models[0], "generation_kwargs.noise_std", 0.9)

    def start(attempt):
        for k in range(2):
            write_slice(Cell(run / str(attempt), former, dataset), k, 2)

    def finish_first(attempt):
        start_slice(cell_of(attempt), 0, 2)
        write_slice(cell_of(attempt), 0, 2)

    for attempt, _ in interleave(
        start, lambda attempt: start_slice(cell_of(attempt), 1, 2), finish_first
    ):
        assert cell_of(attempt).has_slice(0, 2)
        assert not cell_of(attempt).has_slice(1, 2)
