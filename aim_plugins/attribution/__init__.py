"""What each component of a model adds to its output for an example, learned from ablations."""
