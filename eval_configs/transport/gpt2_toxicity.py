"""Linear-AcT against toxicity in GPT-2 (settings of arXiv:2410.23054).

    CONFIG=eval_configs/transport/gpt2_toxicity.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/gpt2_toxicity
    aim-plugins transport evaluate runs/transport/gpt2_toxicity --config $CONFIG \\
        -o runs/transport/gpt2_toxicity_evaluation

`_base_/toxicity.py` says which files it needs.
"""

_base_ = ["_base_/gpt2.py", "_base_/toxicity.py"]
