"""Learning maps of activations, keeping them, and measuring what they do.

Source: "Controlling Language and Diffusion Models by Transporting Activations", arXiv 2410.23054.
"""
