"""Adapters for evaluation harnesses: they translate requests and tables, and compute nothing.

The packages' own files import nothing heavy, because `lm_eval.register` is imported at interpreter
start.
"""
