"""Linear-AcT as the paper runs it: sentence means, causal, all tokens (arXiv:2410.23054).

An option at the top holds for every command, those in `fit`, `generate` and `evaluate` for one;
`evaluate` also reads what `generate` says of the texts. `--cfg-options fit.batch_size=8` replaces
one, and an option on the command line wins over both.
"""

method = "linear"
pooling = "mean"
positions = "all"
incremental = "causal"
dtype = "bfloat16"

fit = dict(batch_size=32, max_length=512)
