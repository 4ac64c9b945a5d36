"""OpenCompass's partitioner and tasks, with all strengths of a model in one task."""
