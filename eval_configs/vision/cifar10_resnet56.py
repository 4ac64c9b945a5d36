"""AIM's utility curve of ResNet-56 on CIFAR-10: 101 strengths from 0 to 20 (arXiv:2603.12755).

    vision-bench classify eval_configs/vision/cifar10_resnet56.py --cfg-options \
        data_root=DATA weights=cifar10_resnet56-187c023a.pt

`data_root` holds cifar-10-batches-py. The weights are those of pytorch-cifar-models; with them the
report shows the paper's figures beside ours.
"""

dataset = "cifar10"
data_root = "data"
model = "cifar10_resnet56"
weights = "hub"  # downloads once; or the path of the file

num_perturb_steps = 101
perturb_step = 0.2
draws = 1
output = "runs/cifar10_resnet56"
