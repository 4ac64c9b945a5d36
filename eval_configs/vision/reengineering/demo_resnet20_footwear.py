"""The demo's ResNet-20, re-engineered to three kinds of footwear: a second module to compose.

    vision-bench reengineer run eval_configs/vision/reengineering/demo_resnet20_footwear.py
    vision-bench reengineer compose eval_configs/vision/reengineering/demo_resnet20.py \
        --modules runs/demo-reengineer/weight runs/demo-reengineer/footwear \
        --output runs/demo-reengineer/composed

The first run trains the model; see `vision-bench demo-models`.
"""

_base_ = "demo_resnet20.py"

# Sandal, Sneaker, Ankle boot.
classes = [5, 7, 9]
n_epochs = 6
points = 3
runtimes = False  # of interest is what it shares with the other module
output = "runs/demo-reengineer/footwear"
