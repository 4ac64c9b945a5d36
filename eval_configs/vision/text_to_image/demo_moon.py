"""The moon that "without a moon" draws, taken out: the pipeline takes no notice of the denial.

    CONFIG=eval_configs/vision/text_to_image/demo_moon.py
    vision-bench images fit --config $CONFIG -o runs/demo-images/moon
    vision-bench images generate runs/demo-images/moon --config $CONFIG \\
        -o runs/demo-images/moon-drawn
    vision-bench images evaluate runs/demo-images/moon --config $CONFIG \\
        -o runs/demo-images/moon-scored
"""

_base_ = "_base_/demo.py"

fit = dict(
    source="eval_configs/vision/text_to_image/data/moon.jsonl",
    target="eval_configs/vision/text_to_image/data/plain.jsonl",
    pooling="all",  # a moon is in one corner, which a mean over the image hardly tells
    support="none",
    timesteps="each",
)
generate = dict(
    prompts=dict(
        name="files",
        root="eval_configs/vision/text_to_image/data/evaluation_without_moon.jsonl",
        plain="eval_configs/vision/text_to_image/data/evaluation.jsonl",
        concept="a moon",
    ),
    strength="0:3:0.375",
)
