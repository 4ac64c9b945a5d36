"""Stripes, by as much as you like, in garments that no prompt asks to be striped.

    CONFIG=eval_configs/vision/text_to_image/demo_stripes.py
    vision-bench images fit --config $CONFIG -o runs/demo-images/stripes
    vision-bench images generate runs/demo-images/stripes --config $CONFIG \\
        -o runs/demo-images/stripes-drawn
    vision-bench images evaluate runs/demo-images/stripes --config $CONFIG \\
        -o runs/demo-images/stripes-scored
"""

_base_ = "_base_/demo.py"

fit = dict(
    source="eval_configs/vision/text_to_image/data/plain.jsonl",
    target="eval_configs/vision/text_to_image/data/striped.jsonl",
)
generate = dict(
    prompts=dict(
        name="files",
        root="eval_configs/vision/text_to_image/data/evaluation.jsonl",
        concept="stripes",
    ),
    strength="0:2:0.25",
)
