"""One pass of a model over a data set, kept on disk."""
