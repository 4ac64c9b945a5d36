"""A utility curve of a timm classifier on ImageNet's validation images: 101 strengths.

    vision-bench classify eval_configs/vision/imagenet_timm.py --cfg-options \
        data_root=DATA model=timm:NAME weights=FILE

`data_root` holds the folder `val` with a folder for each class; images in one folder need their
list of labels as `labels`. How far logits spread differs between models: look at the curve, and
change `perturb_step`. How images are prepared is known of timm's own files; for others, give
`preprocessing`.
"""

dataset = "imagenet"
data_root = "data/imagenet"
model = "timm:resnet50.a1_in1k"
weights = "hub"  # downloads once; or the path of the file
batch_size = 64
workers = 4

num_perturb_steps = 101
perturb_step = 0.2
draws = 1
report_classes = ["tench", "golden retriever", "airliner"]
output = "runs/imagenet_resnet50"
