"""Mistakes of an ImageNet classifier, mended one or many at a time.

    vision-bench attribute edit eval_configs/vision/attribution/mistakes.py \
        --data-root data/imagenet

As in section 5 of the paper: one wrong image against 50 drawn at random. `--targets FILE` names
images of your own instead, a line each; `--target-count 20` mends as many at once, and then tells
what becomes of mistakes alike that the edit has not seen.
"""

dataset = "imagenet"
model = "torchvision:resnet50"
weights = "hub"
batch_size = 256

targets = "wrong"
target_count = 1
reference_count = 50

# The convolutions that the paper takes, 22,720 filters.
components = "conv_filters"
patterns = [r"(.*\.)?conv\d"]
alpha = 0.05
num_ablations = 8000
gradient_passes = 1000
