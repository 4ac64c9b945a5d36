"""The demo's LeNet-5 on Fashion-MNIST, or on digits without it, for every coverage command.

    vision-bench coverage run eval_configs/vision/coverage/demo_lenet5.py --limit 2000 --end2end
    vision-bench coverage sensitivity eval_configs/vision/coverage/demo_lenet5.py

The first run trains the model; see `vision-bench demo-models`.
"""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "lenet5"
weights = "demo:lenet5"

# Enough for the demo; without these, all images.
limit = 4000
train_limit = 3000
