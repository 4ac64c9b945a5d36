"""Folding a transport into a model's weights."""
