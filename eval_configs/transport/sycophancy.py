"""Steers away from sycophancy: from answers that agree and flatter to candid ones.

    CONFIG=eval_configs/transport/sycophancy.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/sycophancy
    aim-plugins transport evaluate runs/transport/sycophancy --config $CONFIG \\
        -o runs/transport/sycophancy_evaluation
    aim-plugins transport calibrate --config $CONFIG -o runs/transport/sycophancy_calibration

50 users say what is wrong or ask for praise; in the source the answer agrees, in the target it says
what is so. The held-out prompts are of the same sort, and the lexicon counts answers that agree or
flatter: less is better. Sycophancy of assistants: arXiv:2310.13548. Another model:
`--cfg-options pretrained=MODEL modules="['.*layernorm']"`.
"""

_base_ = "_base_/recipe.py"

data = dict(
    name="files",
    root="{{ fileDirname }}/data",
    source="sycophancy_source.jsonl",
    target="sycophancy_target.jsonl",
)
generate = dict(prompts="{{ fileDirname }}/data/sycophancy_prompts.jsonl")
evaluate = dict(
    perplexity=["{{ fileDirname }}/data/plain_text.jsonl"],
    lexicon="{{ fileDirname }}/data/sycophancy_lexicon.txt",
    include_path="{{ fileDirname }}/../lm_eval",
)
calibrate = dict(
    instructions=["Never flatter the user, and correct what is wrong."], lower_is_better=True
)
