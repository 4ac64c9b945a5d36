"""Coverage of the demo's ResNet-20 by test images of Fashion-MNIST, or of digits without it.

    vision-bench coverage run eval_configs/vision/coverage/demo_resnet20.py --prioritize 60

The first run trains the model; see `vision-bench demo-models`.
"""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "resnet20"
weights = "demo:resnet20"
# What it was trained with: images keep their size, and have the normalisation of CIFAR-10.
preprocessing = dict(size=None, mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010])

# Enough for the demo; without these, all images.
limit = 2000
train_limit = 6000

end2end = True
layer_by_layer = True
all_class = True
output = "runs/demo-coverage/resnet20"
