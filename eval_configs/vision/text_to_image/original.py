"""The style command of AcT's own README, in its own settings, to compare with.

    CONFIG=eval_configs/vision/text_to_image/original.py
    vision-bench images fit --config $CONFIG -o runs/images/original
    vision-bench images evaluate runs/images/original --config $CONFIG -o runs/images/original_drawn

It fits with a scheduler of a single step, on 256 prompts a side, and has a support where the paper
has none. Each map is fitted behind those of the modules before it, but in the order of the modules'
names, in which many come after modules that run later; here it is the order in which they run.
With `--incremental atonce`, as its option of the same name, no order counts.
"""

_base_ = "sdxl_lightning_style.py"

support = "minmax"
data = dict(n_source=256, n_target=256)
fit = dict(num_inference_steps=1)
generate = dict(strength=None, min_strength=0.0, max_strength=1.0, strength_steps=11, max_batches=4)
