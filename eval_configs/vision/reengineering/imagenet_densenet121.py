"""SeaM's DenseNet121 on ImageNet, one of 67 superclasses (arXiv:2304.00245 and the defaults of its
code).

    vision-bench reengineer run eval_configs/vision/reengineering/imagenet_densenet121.py \
        --data-root DATA --weights densenet121-a639ec97.pth --target-superclass-idx cat

`data_root` holds train/ and val/, each with a folder for each class.
"""

_base_ = "_base_/imagenet.py"

model = "torchvision:densenet121"
preprocessing = "published"
lr_mask = 0.1
alpha = 2
output = "runs/reengineer/imagenet_densenet121"
