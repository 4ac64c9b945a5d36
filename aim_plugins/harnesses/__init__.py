"""Adapters for evaluation harnesses: they translate requests and tables, and compute nothing.

This file stays empty of imports, because `lm_eval_register` is imported at interpreter start.
"""
