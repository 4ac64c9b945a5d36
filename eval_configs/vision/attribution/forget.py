"""A class that an ImageNet classifier forgets, as in section 5 of the paper.

    vision-bench attribute edit eval_configs/vision/attribution/forget.py --targets "chain saw" \
        --data-root data/imagenet
"""

dataset = "imagenet"
model = "torchvision:resnet50"
weights = "hub"
batch_size = 256

targets = "chain saw"
target_count = 10
reference_count = 50

components = "conv_filters"
patterns = [r"(.*\.)?conv\d"]
alpha = 0.05
num_ablations = 8000
gradient_passes = 1000
