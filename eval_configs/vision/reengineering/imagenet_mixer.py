"""SeaM's MLP-Mixer on ImageNet, one of 67 superclasses (arXiv:2304.00245 and the defaults of its
code).

    vision-bench reengineer run eval_configs/vision/reengineering/imagenet_mixer.py \
        --data-root DATA --target-superclass-idx cat

`data_root` holds train/ and val/, each with a folder for each class. The weights are timm's,
downloaded once, or the file that `weights` names.
"""

_base_ = "_base_/imagenet.py"

model = "timm:mixer_b16_224.goog_in21k_ft_in1k"
weights = "hub"
lr_mask = 0.05
alpha = 2
output = "runs/reengineer/imagenet_mixer"
