"""Linear-AcT towards truthful answers of GPT-2 (settings of arXiv:2410.23054).

    CONFIG=eval_configs/transport/gpt2_truthfulqa.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/gpt2_truthfulqa
    aim-plugins transport evaluate runs/transport/gpt2_truthfulqa --config $CONFIG \\
        -o runs/transport/gpt2_truthfulqa_evaluation

`_base_/truthfulqa.py` says which files it needs.
"""

_base_ = ["_base_/gpt2.py", "_base_/truthfulqa.py"]
