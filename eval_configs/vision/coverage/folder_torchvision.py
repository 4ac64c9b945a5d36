"""Coverage of a torchvision classifier of your own, on images in a folder for each class.

    vision-bench coverage run eval_configs/vision/coverage/folder_torchvision.py \
        --data-root DATA --weights WEIGHTS.pth

DATA/train/CLASS and DATA/val/CLASS hold the images. Name your architecture, and what was done to
the images of its training.
"""

dataset = "folder"
split = "val"
train_split = "train"
model = "torchvision:resnet18"
preprocessing = "published"
end2end = True
