"""Evaluations of several transports laid side by side."""
