"""LeNet-5 as works on coverage test it: 236 neurons, ReLU, for grey images of 28×28 pixels.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (Proceedings of the IEEE
1998), figure 2. DeepXplore (arXiv:1705.06640) and DeepImportance (ICSE 2020) take it with ReLU,
plain pooling, every map of the second convolution connected, and a padded image for the 32×32
pixels of the original.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

LENET = "lenet5"
"""Its name in `vision_bench.models.load`."""

SIDE = 28
MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels, for values in [0, 1]."""


class LeNet5(nn.Module):
    """Two convolutions and three linear layers.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        # Each activation is a module of its own: DeepLift cannot tell two runs of one apart.
        self.conv1, self.relu1 = nn.Conv2d(1, 6, 5, padding=2), nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(6, 16, 5), nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1, self.relu3 = nn.Linear(16 * 5 * 5, 120), nn.ReLU()
        self.fc2, self.relu4 = nn.Linear(120, 84), nn.ReLU()
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Float[Tensor, "batch 3 28 28"]) -> Float[Tensor, "batch classes"]:
        """Returns the logits of normalised images, of which the mean over channels is seen.

        A grey image has three equal channels, so that it is seen as it is.
        """
        features = self.pool1(self.relu1(self.conv1(images.mean(1, keepdim=True))))
        features = self.pool2(self.relu2(self.conv2(features)))
        features = self.relu3(self.fc1(features.flatten(1)))
        return self.fc3(self.relu4(self.fc2(features)))
