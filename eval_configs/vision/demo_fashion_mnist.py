"""Utility modulation of a ResNet-20 trained here on Fashion-MNIST, or on digits without it.

    vision-bench classify eval_configs/vision/demo_fashion_mnist.py

The first run trains the model; see `vision-bench demo-models`.
"""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "resnet20"
weights = "demo:resnet20"
# What it was trained with: images keep their size, and have the normalisation of CIFAR-10.
preprocessing = dict(size=None, mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010])

# AIM's settings for CIFAR: 101 strengths.
num_perturb_steps = 101
perturb_step = 0.2
draws = 5
output = "runs/demo-vision/classification"
