"""32 strengths of logit noise, 8 models, 60 tasks: 56 jobs that fill 64 GPUs at once.

    aim-plugins jobs eval_configs/jobs/noise_64_gpus.py --on slurm \
        --cfg-options slurm.slurm_partition=PARTITION
    aim-plugins jobs eval_configs/jobs/noise_64_gpus.py --on ray --cfg-options ray.address=auto

The 57 subjects of MMLU are four of lm-eval's groups. A job has one model, some tasks and every
strength; GSM8K, whose answers are written out, has two GPUs. Every node has to see the models and
the working directory; fetch the models before, and set HF_HUB_OFFLINE=1.
"""

_MODELS = {
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "mistral-7b": "mistralai/Mistral-7B-v0.3",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "gemma-2-9b": "google/gemma-2-9b",
    "olmo-2-7b": "allenai/OLMo-2-1124-7B",
    "falcon3-7b": "tiiuae/Falcon3-7B-Base",
    "granite-3.1-8b": "ibm-granite/granite-3.1-8b-base",
    "pythia-6.9b": "EleutherAI/pythia-6.9b",
}
_TASKS = {
    "mmlu_stem": 1,
    "mmlu_humanities": 1,
    "mmlu_social_sciences": 1,
    "mmlu_other": 1,
    "hellaswag": 1,
    "arc_challenge": 1,
    "gsm8k": 2,
}  # and the GPUs of each
_LAUNCH = {
    1: "aim-plugins sweep lm-eval",
    2: "accelerate launch --num_processes 2 -m aim_plugins.cli sweep lm-eval",
}

output = "runs/noise-64-gpus"
memory_gb = 64
cpus = 8
minutes = 12 * 60
retries = 2
jobs = [
    dict(
        name=f"{model}-{task}",
        command=_LAUNCH[gpus],
        options={
            "model": "aim_hf",
            "model-args": f"pretrained={path},dtype=bfloat16",
            "tasks": task,
            "noise-std": "0:3.1:0.1",
            "batch-size": 8,
            "output": "{output}",
        },
        gpus=gpus,
    )
    for model, path in _MODELS.items()
    for task, gpus in _TASKS.items()
]
