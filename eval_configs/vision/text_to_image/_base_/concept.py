"""Negation: from captions with a concept in plain view to captions without.

The pipeline is then asked for pictures *without* the concept, in words that make it draw one.
Files as for styles, see `style.py`; of ml-act `data/diffusion_concept_prompts.json`. Choose another
concept with `--cfg-options data.source=gorilla generate.prompts.source=gorilla`: pink_elephant,
elephant, gorilla, cat, white_bear, bear.
"""

_base_ = "linear_act.py"

# An image is transported only where its activations lie between those of images with the concept.
support = "minmax"

data = dict(
    name="coco_concepts",
    root="data/coco",
    texts="data/ml-act/data",
    source="pink_elephant",
    target="none",
    n_source=128,
    n_target=128,
    seed=42,
)
generate = dict(
    prompts=dict(
        name="coco_concepts",
        root="data/coco",
        texts="data/ml-act/data",
        source="pink_elephant",
        n=64,
        seed=42,
    )
)
