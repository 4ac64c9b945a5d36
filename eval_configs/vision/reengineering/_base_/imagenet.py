"""SeaM on ImageNet: random parts of images, resized and mirrored."""

_base_ = "seam.py"

dataset = "imagenet"
target_superclass_idx = 0
augment = "resized-crop-flip"
batch_size = 64
workers = 4
