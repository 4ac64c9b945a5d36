"""The configurations in eval_configs/opencompass: read as OpenCompass's command reads them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("opencompass")

from mmengine.config import Config
from opencompass.utils import get_logger

from aim_plugins.harnesses.opencompass.run.partitioner import (
    SweepEvalPartitioner,
    SweepInferPartitioner,
)

CONFIGS = Path(__file__).resolve().parents[2] / "eval_configs" / "opencompass"
DEMO, ACT_DEMO, VLLM = "eval_noise_demo", "eval_act_demo", "eval_noise_vllm"
NAMES = sorted(path.stem for path in CONFIGS.glob("eval_*.py"))
NOISE = [name for name in NAMES if name.startswith("eval_noise")]
ACT = [name for name in NAMES if name.startswith("eval_act")]
README_STRENGTHS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
README_STRENGTHS += [1.6, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1]
MMLU_SUBJECTS = 57


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """Reads a configuration, dumps it and reads it again, as OpenCompass does."""
    from opencompass.utils.run import get_config_from_arg

    folder = tmp_path_factory.mktemp("dumps")

    def read(name: str) -> Config:
        dump = folder / f"{name}.py"
        if not dump.exists():
            options = Namespace(config=str(CONFIGS / f"{name}.py"), accelerator=None)
            get_config_from_arg(options).dump(dump)
        return Config.fromfile(dump, format_python_code=False)

    return read


def each_config(*names: str):
    marks = {DEMO: [pytest.mark.model], ACT_DEMO: [pytest.mark.model]}
    cases = [pytest.param(name, marks=marks.get(name, [])) for name in names or NAMES]
    return pytest.mark.parametrize("name", cases)


def types(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "type":
                yield item
            yield from types(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from types(item)


def test_the_configs_that_the_readme_names_are_there():
    assert {DEMO, "eval_noise_llama3", "eval_noise_qwen2", "eval_noise_ppl"} <= set(NAMES)
    assert {"eval_noise_slurm", "eval_act_gemma2", ACT_DEMO, VLLM} <= set(NAMES)
    assert sorted(NOISE + ACT) == NAMES


@each_config()
def test_every_type_is_importable_after_dumping(reloaded, name):
    found = set(types(reloaded(name).to_dict()))
    runner, kind = "VLLM" if name == VLLM else "HuggingFace", "AcT" if name in ACT else "Noise"
    assert f"aim_plugins.harnesses.opencompass.{runner}{kind}Model" in found
    for dotted in found:
        module, _, attribute = dotted.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), dotted


@each_config()
def test_a_config_says_what_it_does_how_to_start_it_and_what_it_writes(name):
    text = (CONFIGS / f"{name}.py").read_text(encoding="utf-8")
    docstring = text.split('"""')[1]
    assert f"opencompass eval_configs/opencompass/{name}.py" in docstring
    written = re.search(r"results go to\s+(runs/[a-z0-9_]+)", docstring)
    assert f'work_dir = "{written[1]}"' in text


@each_config()
def test_abbrs_are_unique_and_name_the_strength_as_a_short_number(reloaded, name):
    models = reloaded(name).models
    abbrs = [model.abbr for model in models]
    assert len(set(abbrs)) == len(abbrs)
    for model in models:
        written = re.search(r"-(noise|act)(\d+\.\d)(-seed\d)?$", model.abbr)
        asked = model.strength if name in ACT else model.generation_kwargs.noise_std
        assert float(written[2]) == asked, model.abbr


@each_config(*ACT)
def test_every_steered_model_has_the_strengths_from_0_to_1(reloaded, name):
    strengths = defaultdict(list)
    for model in reloaded(name).models:
        strengths[model.type].append(model.strength)
    tenths = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert strengths and all(found == tenths for found in strengths.values())
    (transport,) = {model.transport for model in reloaded(name).models}
    docstring = (CONFIGS / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    assert transport in docstring or "make demo-act" in docstring


@each_config(*(name for name in NOISE if name not in (DEMO, VLLM)))
def test_every_model_has_the_32_strengths_of_the_readme_of_aim(reloaded, name):
    strengths = defaultdict(set)
    for model in reloaded(name).models:
        strengths[model.path].add(model.generation_kwargs.noise_std)
    assert strengths
    assert all(sorted(found) == README_STRENGTHS for found in strengths.values())


@each_config(*(name for name in NAMES if name not in (DEMO, ACT_DEMO, VLLM)))
def test_the_data_sets_are_the_whole_of_mmlu_with_its_average(reloaded, name):
    cfg = reloaded(name)
    abbrs = {data.abbr for data in cfg.datasets}
    mmlu = {abbr for abbr in abbrs if abbr.startswith("lukaemon_mmlu_")}
    assert len(mmlu) == MMLU_SUBJECTS
    others = {"eval_noise_ppl": set(), "eval_act_gemma2": {"truthful_qa"}}
    assert abbrs - mmlu == others.get(name, {"gsm8k"})
    (average,) = [group for group in cfg.summarizer.summary_groups if group["name"] == "mmlu"]
    assert set(average["subsets"]) == mmlu


def test_the_slurm_config_keeps_our_tasks_and_asks_for_one_gpu(reloaded):
    cfg = reloaded("eval_noise_slurm")
    for stage in (cfg.infer, cfg.eval):
        assert stage.runner.type.endswith(".SlurmRunner")
        assert ".SweepOpenICL" in stage.runner.task.type
    assert cfg.infer.partitioner.num_worker > 1
    assert {model.run_cfg.num_gpus for model in cfg.models} == {1}


def partition(cfg: Config, folder: Path) -> tuple[list[Config], list[Config]]:
    cfg["work_dir"] = str(folder)
    return SweepInferPartitioner(str(folder))(cfg), SweepEvalPartitioner(str(folder))(cfg)


def test_the_config_for_vllm_is_one_task_of_16_strengths(reloaded, tmp_path, monkeypatch):
    """Read where vLLM is not installed."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    cfg = reloaded(VLLM)
    (infer,), (evaluate,) = partition(cfg, tmp_path)
    assert [data.abbr for data in infer.datasets[0]] == ["gsm8k"]
    assert len(infer.sweep.models) == len(evaluate.sweep.models) == 16
    stds = [model.generation_kwargs.noise_std for model in cfg.models]
    assert stds == [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.4, 2.6, 2.8, 3]
    for model in cfg.models:
        assert model.max_seq_len + model.max_out_len <= model.model_kwargs.max_model_len


def test_the_full_llama_3_config_is_six_tasks_of_a_modest_size(reloaded, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    infer, evaluate = partition(reloaded("eval_noise_llama3"), tmp_path)
    assert len(infer) == len(evaluate) == 6
    for task in infer:
        task.dump(tmp_path / "task.py")
        # Spelling out 32 x 58 pairs would take megabytes.
        assert (tmp_path / "task.py").stat().st_size < 400_000
        read = Config.fromfile(tmp_path / "task.py", format_python_code=False)
        assert len(read.sweep.models) == 32
        assert len(read.datasets[0]) == 1 + MMLU_SUBJECTS
        assert list(tmp_path.iterdir()) == [tmp_path / "task.py"]


def test_the_steered_gemma_is_one_task(
    reloaded, make_transport, tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(tmp_path)
    cfg = reloaded("eval_act_gemma2")
    with pytest.raises(FileNotFoundError, match="transport='runs/transport/gemma2_2b_toxicity'"):
        partition(cfg, tmp_path / "out")
    make_transport(tmp_path / cfg.models[0].transport, tiny_checkpoint)
    (infer,), (evaluate,) = partition(cfg, tmp_path / "out")
    assert len(infer.sweep.models) == len(evaluate.sweep.models) == 11
    assert len(infer.datasets[0]) == MMLU_SUBJECTS + 1


def test_a_dry_run_of_the_full_llama_3_config_needs_no_gpu_model_or_data(tmp_path, monkeypatch):
    """By the stock command's own entry point."""
    from opencompass.cli.main import main

    said: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(get_logger(), "info", said.append)
    config = str(CONFIGS / "eval_noise_llama3.py")
    monkeypatch.setattr("sys.argv", ["opencompass", config, "--dry-run", "-w", str(tmp_path)])
    main()
    assert "Partitioned into 6 tasks." in said


@pytest.mark.model
@pytest.mark.parametrize(("name", "kind"), [(DEMO, "Noise"), (ACT_DEMO, "AcT")])
def test_a_demo_asks_the_chat_model_questions_and_the_base_model_choices(
    reloaded, make_transport, tiny_checkpoint, demo_model, tmp_path, monkeypatch, name, kind
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "demo-act" / "sentiment" / "transports" / "linear-all"
    make_transport(folder, tiny_checkpoint)
    infer, evaluate = partition(reloaded(name), tmp_path / "out")
    asked = {
        task.models[0].type.rpartition(".")[2]: [data.abbr for data in task.datasets[0]]
        for task in infer
    }
    assert asked == {
        f"HuggingFace{kind}Model": ["continents", "capitals"],
        f"HuggingFace{kind}ChatModel": ["questions"],
    }
    assert len(evaluate) == 2
    assert {model.path for model in infer[0].sweep.models} == {str(demo_model)}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_making_the_demo_data_again_gives_the_committed_files(tmp_path):
    path = CONFIGS / "make_demo_data.py"
    spec = importlib.util.spec_from_file_location("make_opencompass_demo_data", path)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    maker.write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in (CONFIGS / "data").iterdir()}
    assert made == committed


def test_demo_answers_agree_with_facts_known_otherwise():
    lettered = {
        document[key]: document[document["answer"]]
        for name, key in (("capitals", "capital"), ("continents", "country"))
        for document in read_lines(CONFIGS / "data" / f"{name}.jsonl")
    }
    assert lettered["Kabul"] == "Afghanistan"
    assert lettered["Buenos Aires"] == "Argentina"
    assert lettered["Angola"] == "Africa"
    assert lettered["Andorra"] == "Europe"
    answers = {
        document["question"]: document["answer"]
        for document in read_lines(CONFIGS / "data" / "questions.jsonl")
    }
    assert answers["What is the capital of Italy?"] == "The capital of Italy is Rome."
    assert (
        answers["What is the capital of the United Kingdom?"]
        == "The capital of the United Kingdom is London."
    )
