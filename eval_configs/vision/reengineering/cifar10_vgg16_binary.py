"""SeaM's VGG16 on CIFAR-10, a class against the others (arXiv:2304.00245 and the defaults of its
code).

    vision-bench reengineer run eval_configs/vision/reengineering/cifar10_vgg16_binary.py \
        --data-root DATA --weights cifar10_vgg16_bn-6ee7ea24.pt --target-class airplane

`data_root` holds cifar-10-batches-py. The weights are those of pytorch-cifar-models.
"""

_base_ = "_base_/cifar.py"

dataset = "cifar10"
model = "cifar10_vgg16_bn"
target_class = 0
lr_mask = 0.01
alpha = 1
output = "runs/reengineer/cifar10_vgg16_binary"
