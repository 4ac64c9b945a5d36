"""Coverage of torchvision's ResNet-50 by ImageNet's validation images.

    vision-bench coverage run eval_configs/vision/coverage/imagenet_torchvision.py \
        --data-root DATA --weights resnet50-11ad3fa6.pth

DATA holds train/ and val/. The training images are read three times; a part of them will do.
"""

dataset = "imagenet"
model = "torchvision:resnet50"
preprocessing = "published"
train_limit = 20000
batch_size = 64
workers = 4
