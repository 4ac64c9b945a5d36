"""AIM's focus modulation of SegFormer-B2 on ADE20K: several classes become more likely at once.

    vision-bench segment evaluate eval_configs/vision/ade20k_segformer_b2_targets.py

Published recall at σ = 3 (arXiv:2603.12755): traffic light 42.2 to 68.5, streetlight 29.0 to 59.2,
bicycle 75.9 to 90.2, while mIoU stays at 45.8 and above.
"""

_base_ = ["./ade20k_segformer_b2_utility.py"]

output = "runs/ade20k-segformer-b2-targets"

PERTURBATION = dict(
    METHOD="multi",
    STEP_SIZE=0.5,
    STEP_LIMIT=11,
    TARGETS=[
        dict(index="traffic light", positive=True),
        dict(index="streetlight", positive=True),
        dict(index="bicycle", positive=True),
    ],
)
report_classes = []
