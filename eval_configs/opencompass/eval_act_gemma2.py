"""MMLU and TruthfulQA of Gemma-2-2B under eleven strengths of a transport of its activations.

    CONFIG=eval_configs/transport/gemma2_2b_toxicity.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/gemma2_2b_toxicity
    opencompass eval_configs/opencompass/eval_act_gemma2.py

Shows what a steering costs: the paper's Table 2 has MMLU without it and at strength 1 (arXiv
2410.23054). Strength 0 is the model itself. The model comes from the Hugging Face hub, the data
sets from COMPASS_DATA_CACHE, the hub or OpenCompass's own download; the model is loaded once, on
one GPU. The results go to runs/opencompass_act_gemma2/TIME/: the usual folders, and the curves in
summary/sweep/*/report.html.
"""

from mmengine.config import read_base

from aim_plugins.harnesses.opencompass import HuggingFaceAcTModel

with read_base():
    from opencompass.configs.datasets.mmlu.mmlu_ppl import mmlu_datasets
    from opencompass.configs.datasets.truthfulqa.truthfulqa_gen import truthfulqa_datasets
    from opencompass.configs.summarizers.groups.mmlu import mmlu_summary_groups

    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer

work_dir = "runs/opencompass_act_gemma2"
datasets = mmlu_datasets + truthfulqa_datasets
summarizer["summary_groups"] = mmlu_summary_groups

models = [
    dict(
        type=HuggingFaceAcTModel,
        abbr=f"gemma-2-2b-act{x / 10}",
        path="google/gemma-2-2b",
        transport="runs/transport/gemma2_2b_toxicity",
        strength=x / 10,
        max_out_len=64,
        batch_size=8,
        run_cfg=dict(num_gpus=1),
    )
    for x in range(11)
]
