"""Utility modulation of a small SegFormer trained here on made scenes.

    vision-bench segment evaluate eval_configs/vision/demo_scenes.py

The first run composes the scenes and trains the model; see `vision-bench demo-models`.
"""

dataset = "folder"
data_root = "demo:scenes"
split = "validation"
model = "demo:segformer"

PERTURBATION = dict(METHOD="utility", RATIO=0.0, STEP_SIZE=0.5, STEP_LIMIT=17)
draws = 3
report_classes = [0, 3, 6]
output = "runs/demo-vision/segmentation"
