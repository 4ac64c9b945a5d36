"""Engines: who runs the model. They turn N requests and S strengths into an N x S table."""
