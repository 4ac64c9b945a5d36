"""The demo's ResNet-20, cut to the channels that three kinds of footwear need, and fine-tuned.

    vision-bench reengineer run eval_configs/vision/reengineering/demo_resnet20_channels.py

The first run trains the model; see `vision-bench demo-models`.
"""

_base_ = "demo_resnet20.py"

# Sandal, Sneaker, Ankle boot.
classes = [5, 7, 9]
granularity = "channel"
train_batch_size = 32
lr_head = 0.01
lr_mask = 0.01
alpha = 4
n_epochs = 12
target_share = 0.26
# Narrow layers are not worth filling up to blocks of channels.
round_to = 1
fine_tune = 4
output = "runs/demo-reengineer/channel"
