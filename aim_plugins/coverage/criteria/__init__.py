"""The coverage criteria of the literature, a file for each family."""
