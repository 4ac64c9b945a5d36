"""Conditions that were learned: of which prompts a transport acts at all.

Source: CAST, arXiv 2409.05907.
"""
