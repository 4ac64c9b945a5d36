"""The commands of `aim-plugins transport`: fit, generate, evaluate, compare, and the artifact's."""
