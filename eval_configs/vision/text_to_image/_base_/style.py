"""Styles: from captions of COCO to captions with tags of a style.

Files: COCO's `captions_train2017.json` and `captions_val2017.json` in `data/coco`, and a clone of
github.com/apple/ml-act, whose `data/style_prompts.json` has the tags, in `data/ml-act`. Choose
another style with `--cfg-options data.target=anime generate.prompts.target=anime`: anime,
art_nouveau, cartoons, cyberpunk, impressionism, sketch, watercolor and others.

The paper fits to 1,024 prompts a side. Here a fit keeps what waits of all of them in memory, 51 to
82 MB each with SDXL (computed), so that 128 are taken; `fit` tells how much holds on others.
"""

_base_ = "linear_act.py"

# To bring a style in, activations have to be moved wherever they are.
support = "none"

data = dict(
    name="coco_styles",
    root="data/coco",
    texts="data/ml-act/data",
    source="none",
    target="art_nouveau",
    n_source=128,
    n_target=128,
    seed=42,
)
generate = dict(
    prompts=dict(
        name="coco_styles",
        root="data/coco",
        texts="data/ml-act/data",
        source="none",
        target="art_nouveau",
        n=64,
        seed=42,
    )
)
