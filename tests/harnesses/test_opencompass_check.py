"""Bad input is worded before any task starts."""

from __future__ import annotations

import json
import logging

import pytest

pytest.importorskip("opencompass")

from mmengine.config import ConfigDict
from opencompass.datasets.custom import make_custom_dataset_config

from aim_plugins.harnesses.opencompass.config.check import check_config, visible_gpus

MODEL = "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel"
CUSTOM = "opencompass.datasets.custom.CustomDataset"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMPASS_DATA_CACHE", raising=False)
    monkeypatch.delenv("DATASET_SOURCE", raising=False)
    monkeypatch.setattr(
        "aim_plugins.harnesses.opencompass.config.content.DEFAULT_DATA_FOLDER",
        str(tmp_path / "downloads"),
    )
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "?", "answer": "!"}) + "\n")
    return tmp_path


def entry(std: float = 0.0, **settings) -> dict:
    return {
        "type": MODEL,
        "abbr": f"m-noise{std}",
        "path": "organisation/model",
        "generation_kwargs": {"noise_std": std},
        "run_cfg": {"num_gpus": 0},
        **settings,
    }


def config(*models: dict, **settings) -> ConfigDict:
    data = {"type": CUSTOM, "abbr": "data", "path": "data.jsonl"}
    return ConfigDict({"models": list(models) or [entry()], "datasets": [data], **settings})


def test_a_sound_config_passes():
    check_config(config(entry(0.0), entry(0.5)))


def test_a_name_on_the_hub_is_no_folder():
    check_config(config(entry(path="meta-llama/Meta-Llama-3-8B")))


def test_a_strength_given_twice_names_both_entries_and_the_mend():
    with pytest.raises(ValueError, match=r"'first' and abbr='second'.*noise_std=0.5.*remove one"):
        check_config(config(entry(0.5, abbr="first"), entry(0.5, abbr="second")))


def test_an_abbr_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"abbr='same' names two model entries"):
        check_config(config(entry(0.0, abbr="same"), entry(0.5, abbr="same")))


@pytest.mark.parametrize("option", ["path", "tokenizer_path", "peft_path"])
@pytest.mark.parametrize("path", ["/no/such/folder", "./models/none", "../none", "~/none"])
def test_an_unknown_model_folder_names_the_entry_and_the_path(option, path):
    with pytest.raises(FileNotFoundError, match=rf"m-noise0.0 has {option}='{path}'.*no folder"):
        check_config(config(entry(**{option: path})))


def test_a_path_whose_first_part_is_a_folder_here_is_local(here):
    (here / "models").mkdir()
    with pytest.raises(FileNotFoundError, match="path='models/smollm'"):
        check_config(config(entry(path="models/smollm")))
    (here / "models" / "smollm").mkdir()
    check_config(config(entry(path="models/smollm")))


def test_a_model_file_is_answered_with_its_folder(here):
    (here / "models").mkdir()
    (here / "models" / "model.gguf").touch()
    with pytest.raises(FileNotFoundError, match="it is a file, so write its folder 'models'"):
        check_config(config(entry(path="models/model.gguf")))


def test_a_tilde_is_answered_with_the_whole_path(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "model").mkdir()
    with pytest.raises(FileNotFoundError, match=f"write '{here}/model'"):
        check_config(config(entry(path="~/model")))


@pytest.mark.parametrize("filled_in", [True, False])
def test_a_missing_data_file_names_the_data_set_and_where_it_was_looked_for(here, filled_in):
    data = {"abbr": "mine", "path": "mine.jsonl", **({"type": CUSTOM} if filled_in else {})}
    with pytest.raises(FileNotFoundError, match=rf"mine has path='mine.jsonl'.*{here}/downloads"):
        check_config(config(datasets=[data]))


TURNS = {"round": [{"role": "HUMAN", "prompt": "Q: {quesiton}"}, {"role": "BOT", "prompt": "A:"}]}


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ("Q: {quesiton}", "quesiton"),
        ({"A": "{question} A", "B": "{question} {b}"}, "b"),
        (TURNS, "quesiton"),
        ({"A": TURNS}, "quesiton"),
    ],
)
@pytest.mark.parametrize("filled_in", [True, False])
def test_a_field_that_the_data_lack_is_named_with_what_they_have(template, field, filled_in):
    data = {"abbr": "mine", "path": "data.jsonl", "template": template}
    if filled_in:
        data = make_custom_dataset_config(data)
    with pytest.raises(ValueError, match=rf"mine: its prompt_template has \{{{field}\}}") as raised:
        check_config(config(datasets=[data]))
    mend = (
        "did you mean 'question'?" if field == "quesiton" else "choose one of 'question', 'answer'"
    )
    assert mend in str(raised.value)


def test_braces_that_are_no_field_pass():
    for template in (
        "{question} in \\boxed{ANSWER}, \\frac{a}{b}, x^{n}, {}, {0} and {{literally}} {answer}",
        [{"role": "user", "content": '{question} as {"answer": ...}'}],
        # As OpenCompass's own configs of hungarian_exam have it, without an r before the string.
        "{question}: \frac{a}{b}",
    ):
        check_config(config(datasets=[{"path": "data.jsonl", "template": template}]))


def test_braces_pass_that_the_data_set_names_as_input():
    data = {"path": "data.jsonl", "template": "{question} {x}"}
    with pytest.raises(ValueError, match="name 'x' in input_columns too"):
        check_config(config(datasets=[data]))
    check_config(config(datasets=[{**data, "input_columns": ["question", "x"]}]))


def test_a_data_file_without_a_first_line_is_named(here):
    (here / "data.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"data: data\.jsonl does not start with a line of data"):
        check_config(config())


def test_a_missing_data_file_of_a_combination_is_found():
    data = {"type": CUSTOM, "abbr": "mine", "path": "mine.jsonl"}
    pairs = [{"models": [entry()], "datasets": [data]}]
    with pytest.raises(FileNotFoundError, match="mine has path='mine.jsonl'"):
        check_config(config(model_dataset_combinations=pairs))


def test_data_files_are_looked_for_in_the_data_cache(here, monkeypatch):
    (here / "cache").mkdir()
    (here / "data.jsonl").rename(here / "cache" / "data.jsonl")
    with pytest.raises(FileNotFoundError):
        check_config(config())
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(here / "cache"))
    check_config(config())


def test_data_sets_that_download_themselves_are_left_alone():
    data = {"type": "opencompass.datasets.GSM8KDataset", "abbr": "gsm8k", "path": "opencompass/g"}
    check_config(config(datasets=[data]))


def test_a_gpu_that_is_not_there_is_answered_with_the_mend(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=r"num_gpus=1\).*0 GPUs.*write run_cfg=dict\(num_gpus=0\)"):
        check_config(config(entry(run_cfg={"num_gpus": 1})))


def test_more_gpus_than_visible_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    check_config(config(entry(run_cfg={"num_gpus": 2})))
    with pytest.raises(ValueError, match=r"num_gpus=3\), and 2 GPUs are visible"):
        check_config(config(entry(run_cfg={"num_gpus": 3})))


def test_gpus_of_a_cluster_are_not_looked_for_here(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu = entry(run_cfg={"num_gpus": 8})
    runner = {"type": "opencompass.runners.SlurmRunner"}
    check_config(config(gpu, infer={"runner": runner}))
    check_config(config(gpu), runs_here=False)


def test_a_dry_run_without_gpus_is_warned_and_goes_on(monkeypatch, caplog):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    logger = logging.Logger("test")
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(
        "aim_plugins.harnesses.opencompass.config.check.get_logger", lambda *_, **__: logger
    )
    runner = {"type": "opencompass.runners.LocalRunner", "debug": True}
    check_config(config(entry(run_cfg={"num_gpus": 1}), infer={"runner": runner}))
    assert "0 GPUs are visible" in caplog.text


def test_npus_stand_in_the_place_of_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(
        "aim_plugins.harnesses.opencompass.config.check.is_npu_available", lambda: True
    )
    check_config(config(entry(run_cfg={"num_gpus": 2})))
    with pytest.raises(ValueError, match="2 GPUs are visible.*ASCEND_RT_VISIBLE_DEVICES"):
        check_config(config(entry(run_cfg={"num_gpus": 3})))


@pytest.mark.parametrize("place", ["datasets", "model_dataset_combinations"])
def test_different_data_sets_of_one_abbr_are_refused(here, place):
    one = {"type": CUSTOM, "abbr": "data", "path": "data.jsonl"}
    other = {**one, "reader_cfg": {"test_range": "[0:1]"}}
    both = [one, other]
    if place == "model_dataset_combinations":
        both = [{"models": [entry()], "datasets": [data]} for data in both]
    with pytest.raises(ValueError, match="abbr='data' names two different data sets"):
        check_config(config(**{place: both}))


def test_a_data_set_in_several_combinations_is_one():
    data = {"type": CUSTOM, "abbr": "data", "path": "data.jsonl"}
    pairs = [{"models": [entry(std)], "datasets": [dict(data)]} for std in (0.0, 0.5)]
    check_config(config(entry(0.0), entry(0.5), model_dataset_combinations=pairs))


def test_several_answers_of_one_column_are_refused_with_the_mend():
    sampling = {"noise_std": 0.5, "num_return_sequences": 3}
    with pytest.raises(ValueError, match=r"num_return_sequences=3\).*entry, or set n in the data"):
        check_config(config(entry(generation_kwargs=sampling)))
    sampling["num_return_sequences"] = 1
    check_config(config(entry(generation_kwargs=sampling)))
    stock = entry(type="opencompass.models.HuggingFaceBaseModel")
    stock["generation_kwargs"] = {"num_return_sequences": 3}
    check_config(config(stock))


@pytest.mark.parametrize(("devices", "number"), [("", 0), ("-1", 0), ("3", 1), ("0,1,5", 3)])
def test_gpus_are_counted_as_opencompass_counts_them(monkeypatch, devices, number):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    assert visible_gpus() == number
