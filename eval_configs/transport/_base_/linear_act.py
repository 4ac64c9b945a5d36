"""Linear-AcT as the paper runs it: sentence means, causal, all tokens (arXiv:2410.23054).

Sections of a config hold options of the commands by their long names, with underscores:
`data` and `fit` those of `transport fit`, `generate` and `evaluate` those of the commands of these
names. `--cfg-options fit.batch_size=8` overrides one, an option on the command line wins over both.
"""

method = "linear"
pooling = "mean"
positions = "all"
incremental = True

fit = dict(batch_size=32, dtype="bfloat16", max_length=512)
