"""Steering vectors of other tools: read as transports, and written from them."""
