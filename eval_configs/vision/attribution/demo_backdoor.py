"""The demo's ResNet-20 with a backdoor: a blue patch makes it answer "Bag". The edit closes it.

    vision-bench attribute edit eval_configs/vision/attribution/demo_backdoor.py

The first run trains the model; see `vision-bench demo-models backdoored`. It was trained with the
patch of the settings' default on 5 % of the images of other classes, under the label of class 8.
"""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "resnet20"
weights = "demo:backdoored"
preprocessing = "published"
limit = 1500
batch_size = 250

targets = "triggered"
backdoor_class = 8

# Ten images with the patch, and the same ten without it, as in the paper.
target_count = 10
reference_count = 10
sizes = "1,2,3,5,8,12,20"
num_ablations = 200
gradient_passes = 60
output = "runs/demo-attribution/backdoor"
