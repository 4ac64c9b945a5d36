"""Modulation of frozen vision models, measured over many strengths.

Logit noise needs a model's outputs only, and these need computing only once. The rooms of the
package:

- `vision_bench.models`, `vision_bench.data`: by name, from files;
- `vision_bench.logits`: one pass of a model over a data set, kept on disk;
- `vision_bench.classification`, `vision_bench.segmentation`: quality against noise strength;
- `vision_bench.published`: figures that others report;
- `vision_bench.systems`: a line for each command of `vision-bench`.

Importing this package imports nothing else.
"""
