"""SeaM's ResNet20 on CIFAR-10, a class against the others (arXiv:2304.00245 and the defaults of its
code).

    vision-bench reengineer run eval_configs/vision/reengineering/cifar10_resnet20_binary.py \
        --data-root DATA --weights cifar10_resnet20-4118986f.pt --target-class airplane

`data_root` holds cifar-10-batches-py. The weights are those of pytorch-cifar-models.
"""

_base_ = "_base_/cifar.py"

dataset = "cifar10"
model = "cifar10_resnet20"
target_class = 0
lr_mask = 0.05
alpha = 1
output = "runs/reengineer/cifar10_resnet20_binary"
