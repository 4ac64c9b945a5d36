"""A text-to-image pipeline and a CLIP that are trained here, for machines without a model hub.

The world they know is small: tinted garments, plain, striped or at night, with a moon or without.
Both are in the published formats and of the libraries' own classes, so that they are loaded,
steered and scored by the code that handles Stable Diffusion and OpenAI's CLIP.
"""
