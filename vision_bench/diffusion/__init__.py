"""Transports of activations on diffusion pipelines, with a strength for each image of a batch."""
