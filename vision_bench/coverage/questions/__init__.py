"""Research questions about coverage criteria: what their values can tell of a suite, and the cost.

Those of DeepImportance (ICSE 2020) and WISDOM, each against a baseline of the same size: images
that are real and unchanged.
"""
