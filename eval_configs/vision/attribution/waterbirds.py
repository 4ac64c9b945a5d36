"""The worst group of a classifier of Waterbirds, helped; section 5 of the paper: 64 % to 83 %.

    vision-bench attribute edit eval_configs/vision/attribution/waterbirds.py \
        --data-root data/waterbird_complete95_forest2water2 --weights resnet50-waterbirds.pth

The folder holds metadata.csv as its authors publish it. The weights are those of a ResNet-50 that
was fine-tuned on its training split. Images of the validation split are attributed and select.
"""

dataset = "waterbirds"
model = "torchvision:resnet50"
preprocessing = "published"
selection_split = "val"
batch_size = 128

targets = "worst-group"
target_count = 20
reference_count = 40
sizes = "1,2,3,5,8,12,20,30,50,80,120,160,200,250,330"

components = "conv_filters"
patterns = [r"(.*\.)?conv\d"]
alpha = 0.05
num_ablations = 8000
gradient_passes = 1000
