"""SeaM's MLP-Mixer on ImageNet, one of 67 superclasses (arXiv:2304.00245 and the defaults of its
code).

    vision-bench reengineer run eval_configs/vision/reengineering/imagenet_mixer.py \
        --data-root DATA --target-superclass-idx cat

`data_root` holds train/ and val/, each with a folder for each class. The weights are timm's,
downloaded once, or the file that `weights` names.
"""

dataset = "imagenet"
model = "timm:mixer_b16_224.goog_in21k_ft_in1k"
weights = "hub"
target_superclass_idx = 0
lr_head = 0.1
lr_mask = 0.05
alpha = 2
n_epochs = 300
augment = "resized-crop-flip"
baseline = "whole"  # as the paper selects; the report has the restricted one beside it
batch_size = 64
workers = 4
output = "runs/reengineer/imagenet_mixer"
