"""Which filters the answers of the demo's ResNet-20 rest on.

    vision-bench attribute run eval_configs/vision/attribution/demo_resnet20.py

The first run trains the model; see `vision-bench demo-models`.
"""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "resnet20"
weights = "demo:resnet20"
preprocessing = "published"

# All 784 filters.
components = "conv_filters"
examples = 40
alpha = 0.05
num_ablations = 1600
gradient_passes = 100
eval_alphas = [0.025, 0.05, 0.1]
eval_masks = 60
baselines = ["leave_one_out", "gradient_times_parameter"]
output = "runs/demo-attribution/resnet20"
