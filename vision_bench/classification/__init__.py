"""Image classification under noise on its logits."""
