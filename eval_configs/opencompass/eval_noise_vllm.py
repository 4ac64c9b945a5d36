"""GSM8K of Llama 3 under 16 strengths of logit noise, all of them in one batch of vLLM.

    opencompass eval_configs/opencompass/eval_noise_vllm.py

vLLM comes with pip install 'aim-plugins[vllm]'. The model comes from the Hugging Face hub, the data
set from COMPASS_DATA_CACHE or OpenCompass's own download. The model is loaded once, on one GPU; for
several, set num_gpus and tensor_parallel_size alike. The results go to runs/opencompass_vllm/TIME/:
the usual folders, and a curve in summary/sweep/*/report.html.
"""

from mmengine.config import read_base

from aim_plugins.harnesses.opencompass import VLLMNoiseModel

with read_base():
    from opencompass.configs.datasets.gsm8k.gsm8k_gen import gsm8k_datasets

    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer

work_dir = "runs/opencompass_vllm"
datasets = gsm8k_datasets

models = []
for x in range(16):
    models.append(
        dict(
            type=VLLMNoiseModel,
            abbr=f"llama-3-8b-noise{x / 5}",
            path="meta-llama/Meta-Llama-3-8B",
            model_kwargs=dict(
                tensor_parallel_size=1, gpu_memory_utilization=0.9, max_model_len=8192
            ),
            # Questions leave room for their answers in max_model_len.
            max_seq_len=7168,
            generation_kwargs=dict(noise_std=x / 5),
            max_out_len=1024,
            run_cfg=dict(num_gpus=1),
        )
    )
