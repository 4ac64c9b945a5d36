"""GSM8K and MMLU of Qwen2 base and instruct models under 32 strengths of logit noise.

    opencompass eval_configs/opencompass/eval_noise_qwen2.py

The models come from the Hugging Face hub, the data sets from COMPASS_DATA_CACHE or OpenCompass's
own download. Each model is loaded once, on one GPU. The results go to runs/opencompass_qwen2/TIME/:
the usual folders, and a curve for each model in summary/sweep/*/report.html.
"""

from mmengine.config import read_base

from aim_plugins.harnesses.opencompass import HuggingFaceNoiseChatModel, HuggingFaceNoiseModel

with read_base():
    from opencompass.configs.datasets.gsm8k.gsm8k_gen import gsm8k_datasets
    from opencompass.configs.datasets.mmlu.mmlu_gen_4d595a import mmlu_datasets
    from opencompass.configs.summarizers.groups.mmlu import mmlu_summary_groups

    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer

work_dir = "runs/opencompass_qwen2"
datasets = gsm8k_datasets + mmlu_datasets
summarizer["summary_groups"] = mmlu_summary_groups

models = []
for size in ("0.5B", "1.5B", "7B"):
    for x in range(32):
        common = dict(
            generation_kwargs=dict(noise_std=x / 10),
            max_out_len=1024,
            batch_size=16,
            run_cfg=dict(num_gpus=1),
        )
        models.append(
            dict(
                type=HuggingFaceNoiseModel,
                abbr=f"qwen2-{size}-noise{x / 10}",
                path=f"Qwen/Qwen2-{size}",
                **common,
            )
        )
        models.append(
            dict(
                type=HuggingFaceNoiseChatModel,
                abbr=f"qwen2-{size}-instruct-noise{x / 10}",
                path=f"Qwen/Qwen2-{size}-Instruct",
                **common,
            )
        )
