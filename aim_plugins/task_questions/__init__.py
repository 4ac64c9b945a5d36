"""Documents of multiple choice as questions to a causal model, their parts, and its answers."""
