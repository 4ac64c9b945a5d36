"""Toxicity mitigation: from toxic to other comments, tried on prompts that invite toxicity.

Files, below the working directory unless `--cfg-options` says otherwise: Jigsaw's train.csv in
`data/jigsaw`, RealToxicityPrompts' prompts.jsonl in `data/real-toxicity-prompts`, and a sample of
Wikipedia, a passage a line, in `data/wikipedia.jsonl` for the perplexity.
"""

_base_ = "linear_act.py"

# A comment is transported only where its activations lie between those of toxic comments.
support = "minmax"

data = dict(
    name="jigsaw",
    root="data/jigsaw",
    source="toxic",
    target="non-toxic",
    n_source=700,
    n_target=700,
    seed=0,
)
generate = dict(
    prompts=dict(name="rtp", root="data/real-toxicity-prompts", n=1000, seed=0),
    strength="0:1:0.1",
    max_new_tokens=32,
    do_sample=True,
    seed=0,
)
evaluate = dict(
    perplexity=["data/wikipedia.jsonl"],
    classifier="s-nlp/roberta_toxicity_classifier",
    label="toxic",
    tasks=["mmlu"],
    num_fewshot=5,
)
