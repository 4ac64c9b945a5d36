"""`aim_hf` inside lm-evaluation-harness: equal to `hf` without noise, and to itself everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import LlavaForConditionalGeneration

from aim_plugins.harnesses.lm_eval import AimHFLM
from tests.harnesses.conftest import assert_equal_to_rounding, responses

ALL = ["tiny_choice", "tiny_generation", "tiny_perplexity"]


def build(model_class, checkpoint, **arguments):
    arguments = {"dtype": "float32", "device": "cpu", "batch_size": 4, **arguments}
    return model_class(str(checkpoint), **arguments)


def evaluate(model, tasks_folder, tasks=ALL, **options):
    options = {"bootstrap_iters": 10, "verbosity": "ERROR", **options}
    return simple_evaluate(
        model,
        tasks=tasks,
        task_manager=TaskManager(include_path=str(tasks_folder), include_defaults=False),
        **options,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("logits_cache", [True, False])
def test_without_noise_every_response_is_that_of_hf_to_the_bit(
    tiny_checkpoint, tasks_folder, dtype, logits_cache
):
    options = {"dtype": dtype, "logits_cache": logits_cache}
    ours = evaluate(build(AimHFLM, tiny_checkpoint, noise_std=0, **options), tasks_folder)
    theirs = evaluate(build(HFLM, tiny_checkpoint, **options), tasks_folder)
    assert responses(ours) == responses(theirs)
    assert ours["results"] == theirs["results"]


@pytest.mark.parametrize(
    "gen_kwargs",
    [
        {"eos_token_id": 270},
        {"do_sample": True, "temperature": 0.8},
        {"until": ["a", "the"]},
    ],
    ids=str,
)
def test_without_noise_every_way_of_decoding_is_that_of_hf(
    tiny_checkpoint, tasks_folder, gen_kwargs
):
    # In a batch `hf` itself writes on after an end token where others are still at it.
    size = 4 if "do_sample" in gen_kwargs else 1
    ours, theirs = (
        evaluate(model, tasks_folder, ["tiny_generation"], gen_kwargs=gen_kwargs)
        for model in (
            build(AimHFLM, tiny_checkpoint),
            build(HFLM, tiny_checkpoint, batch_size=size),
        )
    )
    assert responses(ours) == responses(theirs)


def test_without_noise_a_model_spread_by_parallelize_is_that_of_hf(tiny_checkpoint, tasks_folder):
    ours = build(AimHFLM, tiny_checkpoint, parallelize=True)
    theirs = build(HFLM, tiny_checkpoint, parallelize=True)
    assert responses(evaluate(ours, tasks_folder)) == responses(evaluate(theirs, tasks_folder))


def test_noise_changes_the_responses(tiny_checkpoint, tasks_folder):
    noisy = evaluate(build(AimHFLM, tiny_checkpoint, noise_std=2), tasks_folder)
    plain = evaluate(build(HFLM, tiny_checkpoint), tasks_folder)
    for task in ALL:
        assert responses(noisy)[task] != responses(plain)[task]


@pytest.mark.parametrize("batch_size", [1, 7, 16, "auto"])
def test_answers_do_not_depend_on_batch_size(tiny_checkpoint, tasks_folder, batch_size):
    reference = evaluate(build(AimHFLM, tiny_checkpoint, noise_std=1.5), tasks_folder)
    model = build(AimHFLM, tiny_checkpoint, noise_std=1.5, batch_size=batch_size, max_batch_size=8)
    assert_equal_to_rounding(responses(evaluate(model, tasks_folder)), responses(reference))


def test_an_automatic_batch_size_stays_within_the_models_positions(tiny_checkpoint, tasks_folder):
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=48, n_embd=32, n_layer=2, n_head=2
        )
        model = GPT2LMHeadModel(config).eval()
    options = {"tokenizer": tokenizer, "noise_std": [0, 1]}
    fixed = AimHFLM(model, batch_size=4, **options)
    automatic = AimHFLM(model, batch_size="auto", max_batch_size=4, **options)
    assert_equal_to_rounding(
        responses(evaluate(automatic, tasks_folder)), responses(evaluate(fixed, tasks_folder))
    )


def test_answers_do_not_depend_on_limit(tiny_checkpoint, tasks_folder):
    model = build(AimHFLM, tiny_checkpoint, noise_std=1.5)
    whole = responses(evaluate(model, tasks_folder))
    part = responses(evaluate(model, tasks_folder, limit=5))
    assert_equal_to_rounding(part, {task: whole[task][:5] for task in ALL})


def test_a_list_of_strengths_is_reported_by_the_stock_evaluation(tiny_checkpoint, tasks_folder):
    model = build(AimHFLM, tiny_checkpoint, noise_std=[0, 1.5])
    merged = evaluate(model, tasks_folder)
    for std in (0, 1.5):
        alone = evaluate(build(AimHFLM, tiny_checkpoint, noise_std=std), tasks_folder)
        for task, metric in [
            ("tiny_choice", "acc"),
            ("tiny_choice", "acc_stderr"),
            ("tiny_perplexity", "word_perplexity"),
        ]:
            name, _, stderr = metric.partition("_stderr")
            label = f"{name}@{std:g}{'_stderr' if metric.endswith('_stderr') else ''},none"
            assert merged["results"][task][label] == pytest.approx(
                alone["results"][task][f"{metric},none"], rel=1e-4
            )
    assert len(merged["samples"]["tiny_choice"]) == 28


def test_a_table_cannot_be_mistaken_for_one_answer(tiny_checkpoint):
    model = build(AimHFLM, tiny_checkpoint, noise_std=[0, 1])
    with pytest.raises(RuntimeError, match="2 columns.*sweep lm-eval"):
        model.loglikelihood([])


def test_use_cache_never_returns_another_modulations_answers(
    tiny_checkpoint, tasks_folder, tmp_path
):
    def cached(std, seed=0):
        model = build(AimHFLM, tiny_checkpoint, noise_std=std, noise_seed=seed)
        return responses(
            evaluate(model, tasks_folder, ["tiny_choice"], use_cache=str(tmp_path / "cache"))
        )

    def fresh(std, seed=0):
        model = build(AimHFLM, tiny_checkpoint, noise_std=std, noise_seed=seed)
        return responses(evaluate(model, tasks_folder, ["tiny_choice"]))

    for _ in range(2):
        for std, seed in [(0, 0), (5, 0), (5, 1)]:
            assert cached(std, seed) == fresh(std, seed)
    plain = evaluate(
        build(HFLM, tiny_checkpoint),
        tasks_folder,
        ["tiny_choice"],
        use_cache=str(tmp_path / "cache"),
    )
    assert responses(plain) == fresh(0)


def test_use_cache_does_spare_the_second_run(tiny_checkpoint, tasks_folder, tmp_path, monkeypatch):
    first = evaluate(
        build(AimHFLM, tiny_checkpoint, noise_std=1),
        tasks_folder,
        ["tiny_choice", "tiny_generation"],
        use_cache=str(tmp_path / "cache"),
    )
    again = build(AimHFLM, tiny_checkpoint, noise_std=1)
    monkeypatch.setattr(again.model, "forward", lambda *_, **__: pytest.fail("computed again"))
    second = evaluate(
        again,
        tasks_folder,
        ["tiny_choice", "tiny_generation"],
        use_cache=str(tmp_path / "cache"),
    )
    assert_equal_to_rounding(responses(second), responses(first))


def test_use_cache_tells_tokenisations_apart(tiny_checkpoint, tasks_folder, tmp_path):
    def run(**options):
        model = build(AimHFLM, tiny_checkpoint, noise_std=1, **options)
        cache = str(tmp_path / "cache")
        return responses(evaluate(model, tasks_folder, ["tiny_generation"], use_cache=cache))

    plain = run(truncation=False)
    model = build(AimHFLM, tiny_checkpoint, noise_std=1)
    shorter = build(AimHFLM, tiny_checkpoint, noise_std=1, max_length=20)
    assert plain == responses(evaluate(model, tasks_folder, ["tiny_generation"]))
    fresh = responses(evaluate(shorter, tasks_folder, ["tiny_generation"]))
    assert run(max_length=20) == fresh != plain


def test_use_cache_is_refused_for_a_list_of_strengths(tiny_checkpoint, tasks_folder, tmp_path):
    model = build(AimHFLM, tiny_checkpoint, noise_std=[0, 1])
    with pytest.raises(ValueError, match="--use_cache holds one answer"):
        evaluate(model, tasks_folder, use_cache=str(tmp_path / "cache"))


def test_cached_requests_do_not_carry_answers(tiny_checkpoint, tasks_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path))
    for std in (0, 3):
        model = build(AimHFLM, tiny_checkpoint, noise_std=std)
        cached = evaluate(model, tasks_folder, ["tiny_choice"], cache_requests=True)
        assert responses(cached) == responses(evaluate(model, tasks_folder, ["tiny_choice"]))


def test_a_peft_adapter_is_modulated_like_the_model_it_adapts(
    tiny_checkpoint, tasks_folder, tmp_path
):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = get_peft_model(base, LoraConfig(r=2, init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    ours = build(AimHFLM, tiny_checkpoint, peft=str(tmp_path), noise_std=0)
    theirs = build(HFLM, tiny_checkpoint, peft=str(tmp_path))
    assert responses(evaluate(ours, tasks_folder)) == responses(evaluate(theirs, tasks_folder))
    table = build(AimHFLM, tiny_checkpoint, peft=str(tmp_path), noise_std=[0, 1])
    assert evaluate(table, tasks_folder)["results"]["tiny_choice"]["sample_len"] == 14


def test_an_encoder_decoder_is_refused_before_its_weights_are_read(tmp_path, tiny_checkpoint):
    from transformers import AutoTokenizer, T5Config

    T5Config(vocab_size=400, d_model=16, num_layers=1, num_heads=2).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="causal language models"):
        build(AimHFLM, tmp_path, noise_std=1)


def test_a_model_that_sees_answers_text_as_its_own_class_does(seeing_checkpoint):
    lm = build(AimHFLM, seeing_checkpoint, noise_std=0)
    (row,) = lm.loglikelihood([Instance("loglikelihood", {}, ("the capital", " of France"), 0)])
    model = LlavaForConditionalGeneration.from_pretrained(seeing_checkpoint, dtype="float32").eval()
    context, rest = (lm.tok_encode(text) for text in ("the capital", " of France"))
    with torch.no_grad():
        law = model(torch.tensor([context + rest])).logits[0].log_softmax(-1)
    wanted = sum(law[len(context) - 1 + place, token] for place, token in enumerate(rest))
    assert row[0] == pytest.approx(float(wanted), abs=1e-4)


def test_an_empty_continuation_names_its_document(tiny_checkpoint):
    model = build(AimHFLM, tiny_checkpoint)
    request = Instance("loglikelihood", {}, ("a", ""), 0, ("some_task", 3, 1))
    with pytest.raises(ValueError, match="document 3 of task 'some_task' has an empty"):
        model.loglikelihood([request])


def test_a_text_without_tokens_scores_as_in_hf(tiny_checkpoint):
    requests = [
        Instance("loglikelihood_rolling", {}, (text,), index)
        for index, text in enumerate(("", "the capital of"))
    ]
    ours = build(AimHFLM, tiny_checkpoint, noise_std=0).loglikelihood_rolling(requests)
    theirs = build(HFLM, tiny_checkpoint).loglikelihood_rolling(requests)
    assert list(map(str, ours)) == list(map(str, theirs))  # which the samples file holds
    assert str(ours[0]) == "0"


def test_noise_given_for_generation_only_is_refused(tiny_checkpoint, tasks_folder):
    model = build(AimHFLM, tiny_checkpoint)
    with pytest.raises(ValueError, match="noise_std is an argument of the model"):
        evaluate(model, tasks_folder, ["tiny_generation"], gen_kwargs={"noise_std": 1.0})


def test_bad_noise_is_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="noise_std=-1"):
        AimHFLM(str(tmp_path / "no such model"), noise_std=-1)


def test_a_chat_template_reaches_the_model(demo_model, tasks_folder):
    ours = build(AimHFLM, demo_model, noise_std=0)
    theirs = build(HFLM, demo_model)
    options = {"apply_chat_template": True, "limit": 2}
    left = evaluate(ours, tasks_folder, ["tiny_choice"], **options)
    right = evaluate(theirs, tasks_folder, ["tiny_choice"], **options)
    assert responses(left) == responses(right)
    prompt = left["samples"]["tiny_choice"][0]["arguments"][0][0]
    assert "<|im_start|>user" in prompt


def test_two_processes_give_the_results_of_one(tiny_checkpoint, tasks_folder, tmp_path):
    launch = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", *launch),
            *("--mixed_precision", "no", "-m", "lm_eval"),
            *("--model", "aim_hf", "--device", "cpu", "--batch_size", "4", "--log_samples"),
            *("--model_args", f"pretrained={tiny_checkpoint},dtype=float32,noise_std=1.5"),
            *("--tasks", ",".join(ALL), "--include_path", str(tasks_folder)),
            *("--output_path", str(tmp_path)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = tmp_path.rglob("results_*.json")
    two = json.loads(path.read_text())["results"]
    one = evaluate(build(AimHFLM, tiny_checkpoint, noise_std=1.5), tasks_folder)["results"]
    for task in ALL:
        for metric, value in one[task].items():
            if isinstance(value, float) and "stderr" not in metric:
                assert two[task][metric] == pytest.approx(value, rel=1e-4)
            if metric == "sample_len":
                assert two[task][metric] == 14
