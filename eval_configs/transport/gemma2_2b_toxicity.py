"""Linear-AcT against toxicity in Gemma-2-2B (arXiv:2410.23054, section 4.1 and Table 2).

    CONFIG=eval_configs/transport/gemma2_2b_toxicity.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/gemma2_2b_toxicity
    aim-plugins transport evaluate runs/transport/gemma2_2b_toxicity --config $CONFIG \\
        -o runs/transport/gemma2_2b_toxicity_evaluation

`_base_/toxicity.py` says which files it needs. In the paper, toxicity falls from 4.17% to 0.56% at
strength 1, with a perplexity of 13.98 and 14.79.
"""

_base_ = ["_base_/gemma2_2b.py", "_base_/toxicity.py"]
