"""Blond hair told from other hair in CelebA, and the worst group of it: section 5 of the paper.

    vision-bench attribute edit eval_configs/vision/attribution/celeba.py --data-root data/celeba \
        --weights resnet50-celeba.pth

The folder holds img_align_celeba/, list_attr_celeba.txt and list_eval_partition.txt. Images of the
validation split are attributed and select. The paper's edit took the worst group from 47 % to 85 %.
"""

dataset = "celeba"
model = "torchvision:resnet50"
preprocessing = "published"
selection_split = "val"
batch_size = 128

targets = "worst-group"
target_count = 20
reference_count = 60
sizes = "1,2,3,5,8,12,16,20,25,30,35"

components = "conv_filters"
patterns = [r"(.*\.)?conv\d"]
alpha = 0.05
num_ablations = 8000
gradient_passes = 1000
