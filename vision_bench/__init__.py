"""Modulation of frozen vision models, measured over many strengths.

Logit noise needs a model's outputs only, and these need computing only once. The rooms of the
package:

- `vision_bench.logits`: logits and labels of a data set, cached in a file;
- `vision_bench.classification`: accuracy against noise strength, exact and sampled;
- `vision_bench.cli`: the command `vision-bench`.

Importing this package imports nothing else.
"""
