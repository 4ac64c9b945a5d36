"""GSM8K and MMLU of Llama 3, Llama 2 and Qwen2 under 32 strengths of logit noise.

    opencompass eval_configs/opencompass/eval_noise_llama3.py

The models come from the Hugging Face hub, the data sets from COMPASS_DATA_CACHE or OpenCompass's
own download. Each model is loaded once, on one GPU. The results go to
runs/opencompass_llama3/TIME/: the usual folders, and a curve for each model in
summary/sweep/*/report.html.
"""

from mmengine.config import read_base

from aim_plugins.harnesses.opencompass import HuggingFaceNoiseChatModel, HuggingFaceNoiseModel

with read_base():
    from opencompass.configs.datasets.gsm8k.gsm8k_gen import gsm8k_datasets
    from opencompass.configs.datasets.mmlu.mmlu_gen_4d595a import mmlu_datasets
    from opencompass.configs.summarizers.groups.mmlu import mmlu_summary_groups

    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer

work_dir = "runs/opencompass_llama3"
datasets = gsm8k_datasets + mmlu_datasets
summarizer["summary_groups"] = mmlu_summary_groups

base_models = {
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "qwen2-7b": "Qwen/Qwen2-7B",
}
chat_models = {
    "llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama-2-7b-chat": "meta-llama/Llama-2-7b-chat-hf",
    "qwen2-7b-instruct": "Qwen/Qwen2-7B-Instruct",
}

models = []
for abbr, path in base_models.items():
    for x in range(32):
        models.append(
            dict(
                type=HuggingFaceNoiseModel,
                abbr=f"{abbr}-noise{x / 10}",
                path=path,
                generation_kwargs=dict(noise_std=x / 10),
                max_out_len=1024,
                batch_size=8,
                run_cfg=dict(num_gpus=1),
            )
        )
for abbr, path in chat_models.items():
    for x in range(32):
        models.append(
            dict(
                type=HuggingFaceNoiseChatModel,
                abbr=f"{abbr}-noise{x / 10}",
                path=path,
                generation_kwargs=dict(noise_std=x / 10),
                max_out_len=1024,
                batch_size=8,
                # Llama 3 ends a turn with <|eot_id|>, which no other model knows.
                stop_words=["<|eot_id|>"],
                run_cfg=dict(num_gpus=1),
            )
        )
