"""Steers SmolLM2-135M towards the sea: one concept, from 48 sentences a side written for this.

    aim-plugins transport fit --config eval_configs/transport/demo_sea.py -o runs/transport/sea
    aim-plugins transport evaluate runs/transport/sea --config eval_configs/transport/demo_sea.py

Source and target say the same kind of thing at the same length, the target about the sea, so that
the concept is what differs. Presence of the concept is counted by a list of its words, none of
which stands in a prompt.
"""

_data = "{{ fileDirname }}/data"

pretrained = "demo:smollm2"
modules = [r".*layernorm"]
method = "linear"
incremental = True
pooling = "mean"
support = "none"
positions = "all"

data = dict(
    name="files",
    root=_data,
    source="sea_source.jsonl",
    target="sea_target.jsonl",
)
fit = dict(batch_size=16, dtype="float32", max_length=64)
generate = dict(
    prompts=f"{_data}/sea_prompts.jsonl",
    strengths="0:1:0.1",
    max_new_tokens=32,
    do_sample=True,
    temperature=1.0,
    seed=0,
)
evaluate = dict(
    perplexity=f"{_data}/plain_text.jsonl",
    concept=dict(lexicon=f"{_data}/sea_lexicon.txt"),
)
