"""MMLU by perplexity under 32 strengths of logit noise and 4 draws of it.

    opencompass eval_configs/opencompass/eval_noise_ppl.py

Scoring needs one pass over each question for all 128 entries of a model, so draws are cheap; they
give the error bars. The models come from the Hugging Face hub, the data set from COMPASS_DATA_CACHE
or OpenCompass's own download. The results go to runs/opencompass_ppl/TIME/: the usual folders, and
a curve for each model in summary/sweep/*/report.html.
"""

from mmengine.config import read_base

from aim_plugins.harnesses.opencompass import HuggingFaceNoiseModel

with read_base():
    from opencompass.configs.datasets.mmlu.mmlu_ppl import mmlu_datasets
    from opencompass.configs.summarizers.groups.mmlu import mmlu_summary_groups

    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer

work_dir = "runs/opencompass_ppl"
datasets = mmlu_datasets
summarizer["summary_groups"] = mmlu_summary_groups

paths = {
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "qwen2-7b": "Qwen/Qwen2-7B",
}

models = []
for name, path in paths.items():
    for x in range(32):
        # Without noise every draw is the same.
        for seed in range(4 if x else 1):
            models.append(
                dict(
                    type=HuggingFaceNoiseModel,
                    abbr=f"{name}-noise{x / 10}-seed{seed}",
                    path=path,
                    generation_kwargs=dict(noise_std=x / 10, noise_seed=seed),
                    batch_size=4,
                    run_cfg=dict(num_gpus=1),
                )
            )
