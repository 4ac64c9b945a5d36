"""The paper's ViT-B/16 on ImageNet (arXiv:2404.11534): 82,944 rows of linear layers, no head.

    vision-bench attribute run eval_configs/vision/attribution/imagenet_vit_b_16.py \
        --data-root DATA --weights vit_b_16-c867db91.pth

`data_root` holds train/ and val/. The paper has 100,000 masks without gradients; `num_ablations`
and `prior` say otherwise here.
"""

dataset = "imagenet"
model = "torchvision:vit_b_16"
preprocessing = "published"
components = "linear_rows"
alpha = 0.05
examples = 500
num_ablations = 20000
gradient_passes = 1000
eval_alphas = [0.025, 0.05, 0.1]
baselines = ["gradient_times_parameter", "neuron_conductance", "internal_influence"]
output = "runs/attribute/imagenet_vit_b_16"
