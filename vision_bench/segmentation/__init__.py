"""Semantic segmentation under noise on its logits."""
