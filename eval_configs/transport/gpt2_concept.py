"""Linear-AcT towards a concept in GPT-2 (settings of arXiv:2410.23054).

    CONFIG=eval_configs/transport/gpt2_concept.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/gpt2_concept
    aim-plugins transport evaluate runs/transport/gpt2_concept --config $CONFIG \\
        -o runs/transport/gpt2_concept_evaluation

`_base_/concept.py` says which files it needs.
"""

_base_ = ["_base_/gpt2.py", "_base_/concept.py"]
