"""Gemma-2-2B: the norms after attention and after the feed-forward part of every block."""

pretrained = "google/gemma-2-2b"
modules = [r".*post_attention_layernorm", r".*post_feedforward_layernorm"]
