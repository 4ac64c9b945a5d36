"""Words of settings that mean the same everywhere in this room."""

from __future__ import annotations

from typing import Literal

Augment = Literal["none", "flip", "crop-flip", "resized-crop-flip"]
"""What images are trained on: themselves, mirrored at random; with a rim of an eighth of their side
and cut back, which for CIFAR's 32 pixels are the usual 4; or a random part, resized."""

Granularity = Literal["weight", "channel"]
"""What has a mask of its own."""

MASK, MODULE, TRAINING = "mask", "module", "training"
"""Folders in the results of a study: masks, the module as a network, and the state of training."""
