"""Linear-AcT towards a concept in Gemma-2-2B (arXiv:2410.23054, section 4.2).

    CONFIG=eval_configs/transport/gemma2_2b_concept.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/gemma2_2b_concept
    aim-plugins transport evaluate runs/transport/gemma2_2b_concept --config $CONFIG \\
        -o runs/transport/gemma2_2b_concept_evaluation

`_base_/concept.py` says which files it needs.
"""

_base_ = ["_base_/gemma2_2b.py", "_base_/concept.py"]
