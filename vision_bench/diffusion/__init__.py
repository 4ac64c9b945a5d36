"""Transports of activations on diffusion pipelines: learned in one run, a strength for each image."""
