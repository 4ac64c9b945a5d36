"""Two finished sweeps over the same documents, or two strengths of one, in pairs."""
