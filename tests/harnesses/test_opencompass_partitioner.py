"""Tasks: one for each model, of what is left to do, and small, however many strengths there are."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("opencompass")

from mmengine.config import Config
from opencompass.registry import PARTITIONERS
from opencompass.utils import get_logger
from opencompass.utils.run import try_fill_in_custom_cfgs

from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.run.partitioner import SweepInferPartitioner

BASE = """
from mmengine.config import read_base
from aim_plugins.harnesses.opencompass import HuggingFaceNoiseModel
with read_base():
    from aim_plugins.harnesses.opencompass.sweep import infer, eval, summarizer
{imports}models = []
"""

LOOP = """
for x in range({count}):
    models.append(
        dict(
            type=HuggingFaceNoiseModel,
            abbr=f'{name}-noise-{{round(x * 0.1, 2)}}',
            path='org/{name}',
            max_seq_len=2048,
            max_out_len=256,
            batch_size=8,
            generation_kwargs=dict(noise_std=round(x * 0.1, 2), noise_seed=7),
            run_cfg=dict(num_gpus={gpus}),
        )
    )
"""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def messages(caplog, monkeypatch):
    """What OpenCompass's logger is told, debugging included; it does not hand it on."""
    logger = get_logger()
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.setLevel(level)


@pytest.fixture
def load(tmp_path):
    """Reads a config as the stock command does: from a file, dumped, and read again."""

    def load(*loops, imports="", datasets=None, **settings):
        source = tmp_path / "config.py"
        text = BASE.format(imports=imports) + "".join(loops)
        if datasets is None:
            datasets = []
            for name in ("capitals", "rivers", "numbers"):
                path = tmp_path / f"{name}.jsonl"
                path.write_text('{"question": "q", "A": "1", "B": "2", "answer": "A"}\n')
                datasets.append(dict(path=str(path), abbr=name, infer_method="ppl"))
        source.write_text(f"{text}\ndatasets = {datasets}\n")
        cfg = try_fill_in_custom_cfgs(Config.fromfile(source, format_python_code=False))
        cfg["work_dir"] = str(tmp_path / "run")
        cfg.merge_from_dict(settings)
        cfg.dump(tmp_path / "dumped.py")
        return Config.fromfile(tmp_path / "dumped.py", format_python_code=False)

    return load


def loop(name="llama", count=3, gpus=0):
    return LOOP.format(name=name, count=count, gpus=gpus)


def partition(cfg, stage="infer"):
    folder = {"infer": "predictions/", "eval": "results/"}[stage]
    cfg[stage].partitioner["out_dir"] = f"{cfg.work_dir}/{folder}"
    return PARTITIONERS.build(cfg[stage].partitioner)(cfg)


def abbrs(configs):
    return [config["abbr"] for config in configs]


def finish(cfg, model, dataset, stage="infer"):
    cell = Cell(cfg.work_dir, cfg.models[model], cfg.datasets[dataset])
    path, note = {
        "infer": (cell.prediction, cell.note_prediction),
        "eval": (cell.result, cell.note_result),
    }[stage]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"0": {"prediction": "A"}}')
    note()
    return path


@pytest.mark.parametrize("stage", ["infer", "eval"])
def test_the_entries_of_a_loop_are_one_task(load, stage):
    cfg = load(loop(count=32))
    (task,) = partition(cfg, stage)
    assert abbrs(task.models) == ["llama-noise-0.0"]
    assert abbrs(task.sweep.models) == abbrs(cfg.models)
    assert [abbrs(datasets) for datasets in task.datasets] == [["capitals", "rivers", "numbers"]]
    assert task.work_dir == cfg.work_dir
    assert task.sweep.get("slice") == ([0, 1] if stage == "infer" else None)


def test_every_model_has_its_own_task_in_the_order_of_the_config(load):
    tasks = partition(load(loop("qwen", 2), loop("llama", 3)))
    assert [abbrs(task.sweep.models)[0] for task in tasks] == ["qwen-noise-0.0", "llama-noise-0.0"]
    assert [len(task.sweep.models) for task in tasks] == [2, 3]


def test_a_dumped_task_reads_back_with_the_same_fingerprints(load, tmp_path):
    cfg = load(loop())
    (task,) = partition(cfg)
    task.dump(str(tmp_path / "params.py"))
    again = Config.fromfile(tmp_path / "params.py")
    for entry, own in zip(cfg.models, again.sweep.models, strict=True):
        for dataset, data in zip(cfg.datasets, again.datasets[0], strict=True):
            here, there = Cell(cfg.work_dir, entry, dataset), Cell(again.work_dir, own, data)
            assert here.prediction == there.prediction
            assert here.result_fingerprint == there.result_fingerprint


@pytest.mark.parametrize("stage", ["infer", "eval"])
def test_only_unfinished_entries_and_data_sets_become_work(load, stage):
    cfg = load(loop())
    for model, dataset in [(0, 0), (0, 1), (0, 2), (1, 1), (2, 1), (2, 2)]:
        finish(cfg, model, dataset, stage)
    (task,) = partition(cfg, stage)
    # Left: entry 1 on the first and third data sets, and entry 2 on the first.
    assert abbrs(task.models) == ["llama-noise-0.1"]
    assert abbrs(task.sweep.models) == ["llama-noise-0.1", "llama-noise-0.2"]
    assert abbrs(task.datasets[0]) == ["capitals", "numbers"]


@pytest.mark.parametrize("stage", ["infer", "eval"])
def test_a_finished_run_has_no_tasks(load, stage):
    cfg = load(loop())
    for model in range(3):
        for dataset in range(3):
            finish(cfg, model, dataset, stage)
    assert partition(cfg, stage) == []


def test_stale_and_half_written_predictions_are_work_again(load, tmp_path):
    cfg = load(loop(count=2))
    paths = [finish(cfg, model, dataset) for model in range(2) for dataset in range(3)]
    paths[1].with_name("rivers.cell.json").unlink()
    (tmp_path / "numbers.jsonl").write_text('{"question": "z", "A": "1", "answer": "A"}\n')
    (task,) = partition(cfg)
    assert abbrs(task.sweep.models) == ["llama-noise-0.0", "llama-noise-0.1"]
    assert abbrs(task.datasets[0]) == ["rivers", "numbers"]
    cfg.models[1].generation_kwargs.noise_std = 0.15
    (task,) = partition(cfg)
    assert abbrs(task.datasets[0]) == ["capitals", "rivers", "numbers"]


@pytest.mark.parametrize("stage", ["infer", "eval"])
def test_partitioning_writes_and_removes_nothing(load, tmp_path, stage):
    cfg = load(loop())
    path = finish(cfg, 0, 0)
    path.write_text("{")  # stale by now
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    partition(cfg, stage)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_config_is_checked_first(load):
    twice = loop(count=1).replace("append(", "extend([").replace("\n    )\n", "\n    ] * 2)\n")
    for stage in ("infer", "eval"):
        with pytest.raises(ValueError, match="abbr='llama-noise-0.0'"):
            partition(load(twice), stage)


def test_gpus_are_asked_for_only_where_work_is_left(load):
    cfg = load(loop(count=1, gpus=1), loop("qwen", 1))
    with pytest.raises(ValueError, match="num_gpus=1.*0 GPUs are visible"):
        partition(cfg)
    for dataset in range(3):
        finish(cfg, 0, dataset)
    (task,) = partition(cfg)
    assert abbrs(task.models) == ["qwen-noise-0.0"]
    cfg.models[1]["run_cfg"]["num_gpus"] = 1
    for dataset in range(3):
        finish(cfg, 1, dataset)
    assert partition(cfg) == []


def test_several_processes_are_refused_for_inference_alone(load):
    cfg = load(loop())
    for model in cfg.models:
        model["run_cfg"]["num_procs"] = 2
    with pytest.raises(
        ValueError, match=r"noise-0.0 has run_cfg=dict\(num_procs=2\).*num_procs=1;"
    ):
        partition(cfg)
    assert len(partition(cfg, "eval")) == 1


def test_a_cell_of_overlapping_combinations_is_in_one_task(load):
    cfg = load(loop())
    first, second, third = cfg.datasets
    cfg["model_dataset_combinations"] = [
        dict(models=cfg.models[:2], datasets=[first]),
        dict(models=[cfg.models[0], cfg.models[2]], datasets=[first, second]),
        dict(models=cfg.models[:1], datasets=[second, third]),
    ]
    for stage in ("infer", "eval"):
        cells = [
            (model, dataset)
            for task in partition(cfg, stage)
            for model in abbrs(task.sweep.models)
            for dataset in abbrs(task.datasets[0])
        ]
        assert sorted(cells) == [
            ("llama-noise-0.0", "capitals"),
            ("llama-noise-0.0", "numbers"),
            ("llama-noise-0.0", "rivers"),
            ("llama-noise-0.1", "capitals"),
            ("llama-noise-0.2", "capitals"),
            ("llama-noise-0.2", "rivers"),
        ]


def test_a_score_of_unknown_predictions_is_work_again(load):
    cfg = load(loop(count=1))
    for dataset in range(3):
        finish(cfg, 0, dataset, "eval")
    assert partition(cfg, "eval") == []
    cell = Cell(cfg.work_dir, cfg.models[0], cfg.datasets[1])
    cell.note_result(statistics={}, unverified=True)
    (task,) = partition(cfg, "eval")
    assert abbrs(task.datasets[0]) == ["rivers"]


def test_scoring_needs_no_gpu(load):
    assert len(partition(load(loop(gpus=1)), "eval")) == 1


@pytest.mark.parametrize(
    ("visible", "gpus", "groups", "slices"),
    [
        ("0,1,2,3", 1, 1, 4),
        ("0,1,2,3", 2, 1, 2),
        ("0,1,2,3", 1, 3, 2),  # 4 GPUs over 3 models, rounded up
        ("0,1,2,3", 1, 8, 1),
        ("0,1,2,3", 0, 1, 1),
        ("2", 1, 1, 1),
    ],
)
def test_data_is_sliced_for_the_gpus_that_are_visible(
    load, monkeypatch, visible, gpus, groups, slices
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    tasks = partition(load(*(loop(f"m{group}", 2, gpus) for group in range(groups))))
    assert [list(task.sweep.slice) for task in tasks] == [
        [part, slices] for _ in range(groups) for part in range(slices)
    ]


def test_slices_hold_all_entries_and_whole_data_sets(load):
    cfg = load(loop(), **{"infer.partitioner.num_worker": 2})
    tasks = partition(cfg)
    assert len(tasks) == 2
    for task in tasks:
        assert abbrs(task.sweep.models) == abbrs(cfg.models)
        assert task.datasets[0] == cfg.datasets


def test_gpus_of_this_machine_say_nothing_about_those_of_a_scheduler(load, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    slurm = {"infer.runner.type": "opencompass.runners.SlurmRunner"}
    assert len(partition(load(loop(gpus=1), **slurm))) == 1
    assert len(partition(load(loop(gpus=1), **slurm, **{"infer.partitioner.num_worker": 3}))) == 3


def test_a_data_set_named_like_a_slice_of_another_is_not_sliced_over(load, messages):
    cfg = load(loop(), **{"infer.partitioner.num_worker": 4})
    cfg.datasets[1]["abbr"] = "capitals_3"
    assert [list(task.sweep.slice) for task in partition(cfg)] == [[0, 1]]
    assert any("abbr='capitals_3'" in message for message in messages())
    cfg.datasets[1]["abbr"] = "capitals_4"
    assert len(partition(cfg)) == 4


@pytest.mark.parametrize("number", [0, -1, 1.5, "2"])
def test_a_bad_number_of_workers_is_refused(number):
    with pytest.raises(ValueError, match="num_worker=.*whole number"):
        SweepInferPartitioner("out", num_worker=number)


def test_combinations_and_results_of_a_station_are_kept_together(load):
    cfg = load(loop())
    first, second, third = cfg.datasets
    cfg["model_dataset_combinations"] = [
        dict(models=cfg.models[:1], datasets=[first]),
        dict(models=cfg.models[1:2], datasets=[first]),
        dict(models=cfg.models[2:], datasets=[second, third]),
    ]
    tasks = partition(cfg)
    assert [(len(t.sweep.models), abbrs(t.datasets[0])) for t in tasks] == [
        (2, ["capitals"]),
        (1, ["rivers", "numbers"]),
    ]
    cfg = load(loop())
    cfg["rs_exist_results"] = [["llama-noise-0.1", "rivers"]]
    tasks = partition(cfg)
    assert [(len(t.sweep.models), abbrs(t.datasets[0])) for t in tasks] == [
        (2, ["capitals", "rivers", "numbers"]),
        (1, ["capitals", "numbers"]),
    ]


def test_the_options_of_the_evaluation_reach_its_tasks(load):
    cfg = load(loop(), **{"eval.runner.task.dump_details": True})
    (task,) = partition(cfg, "eval")
    assert task.eval.runner.task.dump_details is True
    assert "partitioner" not in task.eval


def test_a_full_run_is_few_small_tasks(load, tmp_path, messages):
    imports = (
        "    from opencompass.configs.datasets.gsm8k.gsm8k_gen import gsm8k_datasets\n"
        "    from opencompass.configs.datasets.mmlu.mmlu_gen import mmlu_datasets\n"
    )
    names = ["llama-3-8b", "llama-3-8b-it", "llama-2-7b", "llama-2-7b-it", "qwen2-7b", "qwen2-1b"]
    both = "\ndatasets = [*gsm8k_datasets, *mmlu_datasets]\n"
    cfg = load(*(loop(name, 32) for name in names), both, imports=imports, datasets="datasets")
    assert (len(cfg.models), len(cfg.datasets)) == (192, 58)
    for stage in ("infer", "eval"):
        tasks = partition(cfg, stage)
        assert [(len(t.sweep.models), len(t.datasets[0])) for t in tasks] == [(32, 58)] * 6
        for task in tasks:
            task.dump(str(tmp_path / "params.py"))
            assert (tmp_path / "params.py").stat().st_size < 400_000
    assert sum("32 entries x 58 data sets" in message for message in messages()) == 12
    assert max(map(len, messages())) < 500
