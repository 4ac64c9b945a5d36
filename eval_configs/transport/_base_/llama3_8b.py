"""Llama-3-8B: both norms of every block, since it has none behind attention and feed-forward part.

The paper says "layer norms" for it and no more; this reading is ours.
"""

pretrained = "meta-llama/Meta-Llama-3-8B"
modules = [r".*layernorm"]
