"""SeaM on CIFAR: images shifted by a rim of four pixels, and mirrored."""

_base_ = "seam.py"

augment = "crop-flip"
