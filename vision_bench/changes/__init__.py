"""Changes of what a vision model computes, asked for as everywhere, beside noise on its logits.

A change of activations, such as an edit, takes a forward pass for each strength; noise on logits
takes none. So what is measured under both stands on a grid: at every strength of the change the
logits are those of one pass, which serve all strengths of the noise.
"""
