"""SeaM's third question, as its authors ask it: ResNet-18 or ResNet-50, reused for a folder.

    vision-bench reengineer defects eval_configs/vision/reengineering/defects.py \
        --data-root MIT67 --weights resnet18-f37072fd.pth

MIT67/train/CLASS and MIT67/test/CLASS hold the images: MIT indoor scenes, or any other of the
paper's targets (CUB-200, Flower-102, Stanford 40 Actions, Stanford Dogs). For the other network,
--model torchvision:resnet50 --weights resnet50-0676ba61.pth. All settings are those of the README
of the authors' code and of its defaults.
"""

model = "torchvision:resnet18"
pretrained_on = "imagenet"
preprocessing = "published"

dataset = "folder"
split = "test"
train_split = "train"

lr_s1_output_layer = 0.1
lr_s2_output_layer = 0.001
lr_mask = 0.05
alpha = 0.5
prune_threshold = 0.6
lr_s3_output_layer = 0.05
lr_s3_hidden_layer = 0.005
momentum = 0.0
momentum_retrain = 0.5
weight_decay = 0.0001
augment = "resized-crop-flip"
n_epochs = 300
early_stop = 30
