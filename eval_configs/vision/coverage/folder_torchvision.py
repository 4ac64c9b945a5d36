"""Coverage of a torchvision classifier of your own, on images in a folder for each class.

    vision-bench coverage run eval_configs/vision/coverage/folder_torchvision.py \
        --data-root DATA --model torchvision:resnet18 --weights WEIGHTS.pth \
        --preprocessing "size=256 crop=224 mean=0.485,0.456,0.406 std=0.229,0.224,0.225"

DATA/train/CLASS and DATA/val/CLASS hold the images. Preprocessing is what was done to the images of
its training; the one above is that of torchvision's published weights.
"""

dataset = "folder"
split = "val"
train_split = "train"
model = "torchvision:resnet18"
end2end = True
