"""Labelled images from the local disk."""
