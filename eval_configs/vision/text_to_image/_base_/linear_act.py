"""Linear-AcT on text-to-image models as its code runs it (arXiv:2410.23054, appendix on images).

An option at the top holds for every command, those in `fit`, `generate` and `evaluate` for one;
`evaluate` has those of `generate` too.
`--cfg-options fit.batch_size=4` replaces one, and an option on the command line wins over both.

The map of a module moves an image by the mean of its activations, is fitted at the first denoising
step, which is all that the original looks at, and serves all steps.
"""

method = "linear"
pooling = "mean"
timesteps = "first"
incremental = "causal"

generate = dict(strength="0:1:0.1", seed=42)
evaluate = dict(clip="openai/clip-vit-large-patch14")
