"""Linear-AcT on the demo's pipeline, a small Stable Diffusion of garments, 32 pixels wide.

`vision-bench demo-models text-to-image` trains it once, with the CLIP that scores its images. The
first four prompts are drawn for the eye, and all of them three times to be scored.
"""

pipeline = "demo:text-to-image"
num_inference_steps = 8
guidance_scale = 3.0

fit = dict(batch_size=30)
generate = dict(seed=1000, batch_size=4, max_batches=1)
evaluate = dict(clip="demo:clip", batch_size=30, max_batches=None, images_per_prompt=3)
