"""Focus modulation of the same model: a bag (with digits a four) becomes ever more likely.

    vision-bench segment evaluate eval_configs/vision/demo_scenes_focus.py

Less likely instead of more: `--cfg-options PERTURBATION.POSITIVE=False`.
"""

_base_ = ["./demo_scenes.py"]

# Its strengths are those of the base.
PERTURBATION = dict(METHOD="single", TARGET_IDX=6, POSITIVE=True)
report_classes = [6, 5]
output = "runs/demo-vision/segmentation-focus"
