"""Learns a condition that holds of prompts about cooking, for SmolLM2-135M.

    aim-plugins transport condition --config eval_configs/transport/conditions/cooking.py \\
        -o runs/transport/cooking

The target holds 48 beginnings of texts about cooking, the source 48 of like form about something
else. `data/cooking_prompts.jsonl` has 48 others, about cooking and not in turn, to try it on.
"""

_base_ = "../_base_/demo.py"

data = dict(
    name="files",
    root="{{ fileDirname }}/../data",
    source="cooking_source.jsonl",
    target="cooking_target.jsonl",
)

condition = dict(paired=True)
