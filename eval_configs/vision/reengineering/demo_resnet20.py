"""The demo's ResNet-20, re-engineered to three garments that are easily taken for each other.

    vision-bench reengineer run eval_configs/vision/reengineering/demo_resnet20.py
    vision-bench reengineer run eval_configs/vision/reengineering/demo_resnet20.py \
        --granularity channel --output runs/demo-reengineer/channel

The first run trains the model; see `vision-bench demo-models`.
"""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "resnet20"
weights = "demo:resnet20"
preprocessing = "published"

# T-shirt/top, Pullover, Shirt.
classes = [0, 2, 6]
train_limit = 6000
validation_share = 0.25
train_batch_size = 32
tolerance = 0.03
n_epochs = 16
lr_mask = 0.1
alpha = 2
points = 4
limit = 3000
output = "runs/demo-reengineer/weight"
