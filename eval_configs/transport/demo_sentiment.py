"""Steers SmolLM2-135M from blame to praise: sentiment, from 50 sentences a side.

    CONFIG=eval_configs/transport/demo_sentiment.py
    aim-plugins transport fit --config $CONFIG -o runs/transport/sentiment
    aim-plugins transport evaluate runs/transport/sentiment --config $CONFIG \\
        -o runs/transport/sentiment_evaluation
    aim-plugins transport calibrate --config $CONFIG -o runs/transport/sentiment_calibration

Each source sentence has a partner of the same form and length about the same thing, so that the
judgement is what differs. Sentiment is scored by VADER's rules, from -1 to 1.
"""

_base_ = "_base_/demo.py"

data = dict(
    name="files",
    root="{{ fileDirname }}/data",
    source="sentiment_source.jsonl",
    target="sentiment_target.jsonl",
)
generate = dict(prompts="{{ fileDirname }}/data/sentiment_prompts.jsonl")
evaluate = dict(
    perplexity=["{{ fileDirname }}/data/plain_text.jsonl"],
    sentiment="vader",
)
calibrate = dict(instructions=["Write a review full of praise."])
