"""Text-to-image pipelines with transports: what they are asked, and how pictures are scored.

Tasks and scores are those of AcT (arXiv:2410.23054, section on text-to-image models): a style is
led into pictures, or a concept out of them, more with every strength, while the rest should stay.
"""
