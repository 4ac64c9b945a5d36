"""AIM's focus modulation of SegFormer-B2 on ADE20K: one class, person, becomes ever more likely.

    vision-bench segment evaluate eval_configs/vision/ade20k_segformer_b2_person.py

Any other class: `--cfg-options PERTURBATION.TARGET_IDX=car`; less likely instead of more:
`--cfg-options PERTURBATION.POSITIVE=False`.
Published recall of person at σ = 0, 2, 4, 6, 10, 20: 91.24, 95.77, 97.32, 98.06, 98.76, 99.36
(arXiv:2603.12755); its IoU and mIoU stand in the report beside ours too.
"""

_base_ = ["./ade20k_segformer_b2_utility.py"]

output = "runs/ade20k-segformer-b2-person"

PERTURBATION = dict(METHOD="single", TARGET_IDX="person", POSITIVE=True)
report_classes = ["person"]
