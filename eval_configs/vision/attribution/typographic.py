"""Typographic attacks on CLIP, made to fail: section 5 of the paper, with a CLIP of your own.

    vision-bench attribute edit eval_configs/vision/attribution/typographic.py \
        --data-root DATA --model clip:clip-vit-base-patch16

`clip-vit-base-patch16` is a folder that transformers saved, with tokenizer and image processor;
DATA holds a folder for each class, such as mug/1.jpg. On each image the name of another class is
written, drawn for it; `word_classes` names those that may be. To see what photographs with real
notes on them gain, give `model.safetensors` of the results as `weights` to `vision-bench classify`.

Components are the 82,944 rows of the image tower's linear layers, as of the paper's other ViT-B/16,
with its share of ablated ones. The paper's counts of images and masks are not known here: these are
those of its backdoor, with masks as for ImageNet.
"""

dataset = "folder"
model = "clip:clip-vit-base-patch16"
prompts = ["a photo of a {}."]
batch_size = 64

targets = "typographic"
writing = dict(
    size=0.15, corner="bottom-right", margin=0.04, colour=[0, 0, 0], paper=[255, 255, 255]
)
target_count = 10
reference_count = 10

components = "linear_rows"
patterns = [r"vision_model\..*"]
alpha = 0.05
num_ablations = 20000
gradient_passes = 1000
