"""Linear-AcT away from a concept in FLUX.1-schnell (settings of arXiv:2410.23054).

    CONFIG=eval_configs/vision/text_to_image/flux_schnell_concept.py
    vision-bench images fit --config $CONFIG -o runs/images/flux_schnell_concept
    vision-bench images evaluate runs/images/flux_schnell_concept --config $CONFIG \\
        -o runs/images/flux_schnell_concept_drawn

`_base_/concept.py` says which files it needs.
"""

_base_ = ["_base_/flux_schnell.py", "_base_/concept.py"]
