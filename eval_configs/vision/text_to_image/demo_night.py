"""Nightfall over garments by the window of day; each denoising step has maps of its own.

    CONFIG=eval_configs/vision/text_to_image/demo_night.py
    vision-bench images fit --config $CONFIG -o runs/demo-images/night
    vision-bench images generate runs/demo-images/night --config $CONFIG \\
        -o runs/demo-images/night-drawn
    vision-bench images evaluate runs/demo-images/night --config $CONFIG \\
        -o runs/demo-images/night-scored
"""

_base_ = "_base_/demo.py"

fit = dict(
    source="eval_configs/vision/text_to_image/data/plain.jsonl",
    target="eval_configs/vision/text_to_image/data/night.jsonl",
    timesteps="each",
)
generate = dict(
    prompts=dict(
        name="files",
        root="eval_configs/vision/text_to_image/data/evaluation.jsonl",
        concept="night",
    ),
    strength="0:1:0.125",
)
