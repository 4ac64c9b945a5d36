"""Modulation of frozen vision models, measured over many strengths.

Logit noise needs a model's outputs only, and these need computing only once. The rooms of the
package:

- `vision_bench.models`, `vision_bench.data`, `vision_bench.segmentation_data`: by name, from files;
- `vision_bench.logits_cache`: one pass of a model over a data set, kept on disk;
- `vision_bench.classification`, `vision_bench.calibration`: a classifier against noise strength;
- `vision_bench.segmentation`, `vision_bench.perturbators`: the same for segmentation;
- `vision_bench.published`: figures that others report;
- `vision_bench.cli`: the command `vision-bench`, whose parts are `classify_*` and `segment_*`.

Importing this package imports nothing else.
"""
