"""Sentences to learn from: data sets in their published layout, corpora, text files."""
