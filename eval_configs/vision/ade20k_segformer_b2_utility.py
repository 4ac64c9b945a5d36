"""AIM's utility modulation of SegFormer-B2 on ADE20K: noise on every class of every pixel.

    vision-bench segment evaluate eval_configs/vision/ade20k_segformer_b2_utility.py

Where the files lie is said here or on the command line: `--cfg-options data_root=/data/ADE20K`.
Published mIoU at σ = 0, 2, 4, 6, 10, 20: 46.20, 38.41, 24.29, 13.31, 4.72, 1.24
(arXiv:2603.12755), shown in the report beside ours.
"""

data_root = "data/ADEChallengeData2016"
# nvidia/segformer-b2-finetuned-ade-512-512; or a local file, without the paper's figures beside it,
# and with `preprocessing` where neither its name nor a preprocessor_config.json beside it tells.
weights = "hub"
output = "runs/ade20k-segformer-b2-utility"

dataset = "ade20k"
split = "val"
model = "segformer-b2"
# As the authors do: the shorter side to 512, then both rounded up to 32, and the labels with them.
resize = "short512"
score_at = "input"

PERTURBATION = dict(METHOD="utility", RATIO=0.0, STEP_SIZE=1.0, STEP_LIMIT=21)
draws = 1
seed = 0
# The law needs an integral for every pixel and strength: sampled pixels of every class on a CPU
# estimate it, and exact_pixels=None on a GPU is exact.
exact = True
exact_pixels = 1024
report_classes = ["person", "car", "tree"]
