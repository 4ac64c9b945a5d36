"""SeaM's ResNet20 on CIFAR-100, one of its twenty superclasses (arXiv:2304.00245 and the defaults
of its code).

    vision-bench reengineer run eval_configs/vision/reengineering/cifar100_resnet20.py \
        --data-root DATA --weights cifar100_resnet20-23dac2f1.pt --target-superclass-idx flowers

`data_root` holds cifar-100-python. The weights are those of pytorch-cifar-models.
"""

_base_ = "_base_/cifar.py"

dataset = "cifar100"
model = "cifar100_resnet20"
target_superclass_idx = 0
lr_mask = 0.1
alpha = 2
output = "runs/reengineer/cifar100_resnet20"
