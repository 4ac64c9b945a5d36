"""Linear-AcT towards a style in FLUX.1-schnell (settings of arXiv:2410.23054).

    CONFIG=eval_configs/vision/text_to_image/flux_schnell_style.py
    vision-bench images fit --config $CONFIG -o runs/images/flux_schnell_style
    vision-bench images evaluate runs/images/flux_schnell_style --config $CONFIG \\
        -o runs/images/flux_schnell_style_drawn

`_base_/style.py` says which files it needs.
"""

_base_ = ["_base_/flux_schnell.py", "_base_/style.py"]
