"""Steers SmolLM2-135M towards the sea: one concept, from 50 sentences a side.

    CONFIG=eval_configs/transport/demo_sea.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/sea
    aim-plugins transport evaluate runs/transport/sea --config $CONFIG \\
        -o runs/transport/sea_evaluation
    aim-plugins transport calibrate --config $CONFIG -o runs/transport/sea_calibration

Each source sentence has a partner of the same form and length about the sea, so that the
concept is what differs. Its presence is counted by words, none of which stands in a prompt.
"""

_base_ = "_base_/demo.py"

data = dict(
    name="files",
    root="{{ fileDirname }}/data",
    source="sea_source.jsonl",
    target="sea_target.jsonl",
)
generate = dict(prompts="{{ fileDirname }}/data/sea_prompts.jsonl")
evaluate = dict(
    perplexity=["{{ fileDirname }}/data/plain_text.jsonl"],
    lexicon="{{ fileDirname }}/data/sea_lexicon.txt",
)
calibrate = dict(instructions=["Write about the sea."])
