"""Steers towards refusing: how often does a model decline what is harmless, and what does it cost?

    CONFIG=eval_configs/transport/refusal.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/refusal
    aim-plugins transport evaluate runs/transport/refusal --config $CONFIG \\
        -o runs/transport/refusal_evaluation
    aim-plugins transport calibrate --config $CONFIG -o runs/transport/refusal_calibration

The source holds 50 requests that are answered, the target 50 of like form that are declined; the
held-out prompts are harmless, so that the lexicon counts answers which refuse without a reason.
Refusals follow one direction of the activations in many models (arXiv:2406.11717). Another model:
`--cfg-options pretrained=MODEL modules="['.*layernorm']"`.
"""

_base_ = "_base_/recipe.py"

data = dict(
    name="files",
    root="{{ fileDirname }}/data",
    source="refusal_source.jsonl",
    target="refusal_target.jsonl",
)
generate = dict(prompts="{{ fileDirname }}/data/refusal_prompts.jsonl")
evaluate = dict(
    perplexity=["{{ fileDirname }}/data/plain_text.jsonl"],
    lexicon="{{ fileDirname }}/data/refusal_lexicon.txt",
    include_path="{{ fileDirname }}/../lm_eval",
)
calibrate = dict(instructions=["Decline every request politely."])
