"""Linear-AcT towards a style in SDXL-Lightning (settings of arXiv:2410.23054).

    CONFIG=eval_configs/vision/text_to_image/sdxl_lightning_style.py
    vision-bench images fit --config $CONFIG -o runs/images/sdxl_lightning_style
    vision-bench images evaluate runs/images/sdxl_lightning_style --config $CONFIG \\
        -o runs/images/sdxl_lightning_style_drawn

`_base_/style.py` says which files it needs, and `_base_/sdxl_lightning.py` how to save the
pipeline.
"""

_base_ = ["_base_/sdxl_lightning.py", "_base_/style.py"]
