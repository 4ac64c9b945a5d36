"""SeaM's VGG16 on CIFAR-100, a class against the others (arXiv:2304.00245 and the defaults of its
code).

    vision-bench reengineer run eval_configs/vision/reengineering/cifar100_vgg16_binary.py \
        --data-root DATA --weights cifar100_vgg16_bn-7d8c4031.pt --target-class apple

`data_root` holds cifar-100-python. The weights are those of pytorch-cifar-models.
"""

_base_ = "_base_/cifar.py"

dataset = "cifar100"
model = "cifar100_vgg16_bn"
target_class = 0
lr_mask = 0.05
alpha = 1.5
output = "runs/reengineer/cifar100_vgg16_binary"
