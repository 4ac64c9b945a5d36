"""Linear-AcT towards truthful answers of Llama-3-8B (arXiv:2410.23054, section 4.3 and Table 3).

    CONFIG=eval_configs/transport/llama3_8b_truthfulqa.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/llama3_8b_truthfulqa
    aim-plugins transport evaluate runs/transport/llama3_8b_truthfulqa --config $CONFIG \\
        -o runs/transport/llama3_8b_truthfulqa_evaluation

`_base_/truthfulqa.py` says which files it needs. In the paper, MC1 rises from 25.46 to 33.22
and MC2 from 40.27 to 48.69.
"""

_base_ = ["_base_/llama3_8b.py", "_base_/truthfulqa.py"]
