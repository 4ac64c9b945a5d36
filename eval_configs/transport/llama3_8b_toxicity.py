"""Linear-AcT against toxicity in Llama-3-8B (arXiv:2410.23054, section 4.1 and Table 2).

    CONFIG=eval_configs/transport/llama3_8b_toxicity.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/llama3_8b_toxicity
    aim-plugins transport evaluate runs/transport/llama3_8b_toxicity --config $CONFIG \\
        -o runs/transport/llama3_8b_toxicity_evaluation

`_base_/toxicity.py` says which files it needs. In the paper, toxicity falls from 5.80% to 1.35% at
strength 1, with a perplexity of 9.06 and 9.56.
"""

_base_ = ["_base_/llama3_8b.py", "_base_/toxicity.py"]
