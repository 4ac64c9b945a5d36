"""The style command of AcT's own README, in its own settings, to compare with.

    CONFIG=eval_configs/vision/text_to_image/original.py
    vision-bench images fit --config $CONFIG -o runs/images/original
    vision-bench images evaluate runs/images/original --config $CONFIG -o runs/images/original_drawn

The same are the modules, the method, its support (the paper has none for styles), 256 prompts a
side and a scheduler of a single step. What differs:

- The order. Each map is fitted behind those of the modules before it, there as they are registered,
  block by block and attentions before resnets; here as they run. The original's is not available.
  With `--incremental atonce`, as its option of the same name, no order counts.
- The draw of captions and tags, and the noise, come from other generators.
- It draws 32 images; the README's command draws one, and 64 are the default of its config.

All 512 prompts are fitted at once, which takes 26 to 42 GB beside the weights (computed from
shapes, 51 to 82 MB a prompt); `--limit 64` takes a quarter.
"""

_base_ = "sdxl_lightning_style.py"

support = "minmax"
data = dict(n_source=256, n_target=256)
fit = dict(num_inference_steps=1)
generate = dict(strength=None, min_strength=0.0, max_strength=1.0, strength_steps=11, max_batches=4)
