"""Steers away from evaluation awareness: from a model that believes to be tested to one at work.

    CONFIG=eval_configs/transport/evaluation_awareness.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/evaluation_awareness
    aim-plugins transport evaluate runs/transport/evaluation_awareness --config $CONFIG \\
        -o runs/transport/evaluation_awareness_evaluation
    aim-plugins transport calibrate --config $CONFIG \\
        -o runs/transport/evaluation_awareness_calibration

A model may behave otherwise where it takes a benchmark for one (arXiv:2510.20487, where vectors of
contrasting prompts make it act as deployed; asked for in lm-evaluation-harness #3619). In the
source 50 sentences speak of a test, in the target their partners of somebody who needs the answer.
The held-out prompts ask what is going on, and the lexicon counts texts that speak of tests: less is
better. `aim-plugins sweep lm-eval --model act_hf` then holds a task's scores with steering against
those without. Another model: `--cfg-options pretrained=MODEL modules="['.*layernorm']"`.
"""

_base_ = "_base_/recipe.py"

data = dict(
    name="files",
    root="{{ fileDirname }}/data",
    source="evaluation_awareness_source.jsonl",
    target="evaluation_awareness_target.jsonl",
)
generate = dict(prompts="{{ fileDirname }}/data/evaluation_awareness_prompts.jsonl")
evaluate = dict(
    perplexity=["{{ fileDirname }}/data/plain_text.jsonl"],
    lexicon="{{ fileDirname }}/data/evaluation_awareness_lexicon.txt",
    include_path="{{ fileDirname }}/../lm_eval",
)
calibrate = dict(
    instructions=["This is a request of a customer, not a test."], lower_is_better=True
)
