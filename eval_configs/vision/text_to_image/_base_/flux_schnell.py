"""FLUX.1-schnell in four steps: its blocks, both streams, as `modules` has them by default."""

pipeline = "black-forest-labs/FLUX.1-schnell"
dtype = "bfloat16"
num_inference_steps = 4
guidance_scale = 0.0
height = width = 1024
batch_size = 4
