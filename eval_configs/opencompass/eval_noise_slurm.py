"""GSM8K and MMLU of Llama 3 under 32 strengths of logit noise, on a Slurm cluster.

    opencompass eval_configs/opencompass/eval_noise_slurm.py -p PARTITION

Sixteen tasks of one GPU each share the data sets of both models. Set `partition` and `qos` below to
those of your cluster, or give the partition with -p; leave --slurm away, which would replace this
file's `infer` and `eval`. Every node has to see the models, the data and the working directory. The
results go to runs/opencompass_slurm/TIME/: the usual folders, and summary/sweep/*/report.html.
"""

from mmengine.config import read_base
from opencompass.runners import SlurmRunner

from aim_plugins.harnesses.opencompass import HuggingFaceNoiseChatModel, HuggingFaceNoiseModel

with read_base():
    from opencompass.configs.datasets.gsm8k.gsm8k_gen import gsm8k_datasets
    from opencompass.configs.datasets.mmlu.mmlu_gen_4d595a import mmlu_datasets
    from opencompass.configs.summarizers.groups.mmlu import mmlu_summary_groups

    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer

work_dir = "runs/opencompass_slurm"
datasets = gsm8k_datasets + mmlu_datasets
summarizer["summary_groups"] = mmlu_summary_groups

infer["partitioner"]["num_worker"] = 16
for stage in (infer, eval):
    stage["runner"] = dict(
        type=SlurmRunner,
        max_num_workers=16,
        retry=2,
        partition=None,
        qos=None,
        task=stage["runner"]["task"],
    )
del stage

models = []
for x in range(32):
    common = dict(
        generation_kwargs=dict(noise_std=x / 10),
        max_out_len=1024,
        batch_size=8,
        run_cfg=dict(num_gpus=1),
    )
    models.append(
        dict(
            type=HuggingFaceNoiseModel,
            abbr=f"llama-3-8b-noise{x / 10}",
            path="meta-llama/Meta-Llama-3-8B",
            **common,
        )
    )
    models.append(
        dict(
            type=HuggingFaceNoiseChatModel,
            abbr=f"llama-3-8b-instruct-noise{x / 10}",
            path="meta-llama/Meta-Llama-3-8B-Instruct",
            stop_words=["<|eot_id|>"],
            **common,
        )
    )
