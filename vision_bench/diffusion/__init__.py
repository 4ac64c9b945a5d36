"""Transports on diffusion pipelines: learned in one run, with a strength for each image."""
