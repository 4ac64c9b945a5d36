"""Modules of one classifier, together: what they share, and one model for all their classes."""
