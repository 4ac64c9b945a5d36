"""Linear-AcT towards truthful answers of Gemma-2-2B (arXiv:2410.23054, section 4.3 and Table 3).

    CONFIG=eval_configs/transport/gemma2_2b_truthfulqa.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/gemma2_2b_truthfulqa
    aim-plugins transport evaluate runs/transport/gemma2_2b_truthfulqa --config $CONFIG \\
        -o runs/transport/gemma2_2b_truthfulqa_evaluation

`_base_/truthfulqa.py` says which files it needs. In the paper, MC1 rises from 21.05 to 26.00
and MC2 from 32.80 to 40.17.
"""

_base_ = ["_base_/gemma2_2b.py", "_base_/truthfulqa.py"]
