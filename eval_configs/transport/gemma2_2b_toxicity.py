"""Linear-AcT against toxicity in Gemma-2-2B (arXiv 2410.23054, section 4.1 and Table 2).

    CONFIG=eval_configs/transport/gemma2_2b_toxicity.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/gemma2_2b_toxicity
    aim-plugins transport evaluate runs/transport/gemma2_2b_toxicity --config $CONFIG

Needs, under DATA (set with `--cfg-options data.root=... generate.prompts.root=...`): Jigsaw's
train.csv in `jigsaw` and RealToxicityPrompts' prompts.jsonl in `real-toxicity-prompts`; and a
sample of Wikipedia as sentences for the perplexity.
"""

pretrained = "google/gemma-2-2b"
modules = [r".*post_attention_layernorm", r".*post_feedforward_layernorm"]
method = "linear"
incremental = True
pooling = "mean"
support = "minmax"
positions = "all"

data = dict(
    name="jigsaw",
    root="data/jigsaw",
    source="toxic",
    target="non-toxic",
    n_source=700,
    n_target=700,
    seed=0,
)
fit = dict(batch_size=32, dtype="bfloat16", max_length=512)
generate = dict(
    prompts=dict(name="rtp", root="data/real-toxicity-prompts", n=1000, seed=0),
    strengths="0:1:0.1",
    max_new_tokens=32,
    do_sample=True,
    temperature=1.0,
    seed=0,
)
evaluate = dict(
    perplexity="data/wikipedia.jsonl",
    classifier="s-nlp/roberta_toxicity_classifier",
    tasks=["mmlu"],
    num_fewshot=5,
)
