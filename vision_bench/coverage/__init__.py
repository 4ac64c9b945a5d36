"""Coverage of image classifiers: what a test set leaves untested."""
