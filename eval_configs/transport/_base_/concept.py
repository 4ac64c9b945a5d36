"""Concept induction: from sentences without a concept of OneSec to those with it.

Files: `data/OneSecConcepts-100_1.5.0`, and `data/wikipedia.jsonl` for the perplexity. Choose the
concept with `--cfg-options data.concept=cloud evaluate.concept=cloud`.
"""

_base_ = "linear_act.py"

# To bring a concept in, activations have to be moved wherever they are.
support = "none"

data = dict(
    name="onesec",
    root="data",
    concept="football",
    against="negative",
    n_source=700,
    n_target=700,
    seed=0,
)
generate = dict(
    prompts=dict(name="repeat", text="Once upon a time", n=500),
    strength="0:1:0.1",
    max_new_tokens=32,
    do_sample=True,
    seed=0,
)
evaluate = dict(
    perplexity=["data/wikipedia.jsonl"],
    judge="meta-llama/Meta-Llama-3-8B-Instruct",
    concept="football",
)
