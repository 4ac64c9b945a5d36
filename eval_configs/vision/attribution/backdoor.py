"""A backdoor of a classifier of your own, closed; section 5 of the paper: 37 % to 84 %.

    vision-bench attribute edit eval_configs/vision/attribution/backdoor.py --data-root data \
        --weights backdoored.pth

Say in `trigger` what the patch looks like, and in `backdoor_class` what it stands for. Ten images
with it and the same ones without are attributed.
"""

dataset = "cifar10"
model = "resnet20"
batch_size = 256

targets = "triggered"
backdoor_class = "airplane"
trigger = dict(size=0.15, corner="bottom-right", margin=0.04, colour=[0, 0, 255])
target_count = 10
reference_count = 10

alpha = 0.1
num_ablations = 1000
gradient_passes = 200
