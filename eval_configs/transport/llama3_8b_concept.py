"""Linear-AcT towards a concept in Llama-3-8B (arXiv:2410.23054, section 4.2).

    CONFIG=eval_configs/transport/llama3_8b_concept.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/llama3_8b_concept
    aim-plugins transport evaluate runs/transport/llama3_8b_concept --config $CONFIG \\
        -o runs/transport/llama3_8b_concept_evaluation

`_base_/concept.py` says which files it needs.
"""

_base_ = ["_base_/llama3_8b.py", "_base_/concept.py"]
