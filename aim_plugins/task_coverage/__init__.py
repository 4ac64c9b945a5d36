"""Coverage of a causal language model by the documents of lm-eval tasks."""
