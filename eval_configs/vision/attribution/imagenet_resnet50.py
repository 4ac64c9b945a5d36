"""The paper's ResNet-50 on ImageNet (arXiv:2404.11534): 22,720 filters of convolutions named conv*.

    vision-bench attribute run eval_configs/vision/attribution/imagenet_resnet50.py \
        --data-root DATA --weights resnet50-0676ba61.pth

`data_root` holds train/ and val/. The paper has 100,000 masks without gradients; `num_ablations`
and `prior` say otherwise here.
"""

dataset = "imagenet"
model = "torchvision:resnet50"
preprocessing = "published"
components = "conv_filters"
patterns = [r"(.*\.)?conv\d"]
alpha = 0.05
examples = 1000
num_ablations = 20000
gradient_passes = 1000
eval_alphas = [0.025, 0.05, 0.1]
baselines = ["gradient_times_parameter", "neuron_conductance", "internal_influence"]
output = "runs/attribute/imagenet_resnet50"
