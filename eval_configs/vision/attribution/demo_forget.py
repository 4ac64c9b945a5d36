"""The demo's ResNet-20 of Fashion-MNIST forgets a class: sandals, or the digit 5.

    vision-bench attribute edit eval_configs/vision/attribution/demo_forget.py

The first run trains the model; see `vision-bench demo-models`.
"""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "resnet20"
weights = "demo:resnet20"
preprocessing = "published"
limit = 3000
batch_size = 250

targets = "5"
direction = "lower"
# The filters of the last six convolutions and of their shortcut: those before serve every class.
patterns = [r"layer3.*"]
target_count = 20
reference_count = 80
sizes = "1,2,3,5,8,12,20,30,50"
num_ablations = 300
gradient_passes = 100
output = "runs/demo-attribution/forgotten"
