"""Runs all strengths of a config from one model load each; import it beside your models.

    from mmengine.config import read_base
    with read_base():
        from aim_plugins.harnesses.opencompass.sweep import infer, eval, summarizer

Entries of `models` that differ in `abbr` and modulation alone become one task, for inference and
for evaluation. Folders, `-r`, `--debug` and `-m` stay as they are. With several GPUs each
model's data sets are split; set `infer["partitioner"]["num_worker"]` where the GPUs are on other
machines.
"""

from opencompass.runners import LocalRunner

from aim_plugins.harnesses.opencompass.results.summarizer import SweepSummarizer
from aim_plugins.harnesses.opencompass.run.evaluate import SweepOpenICLEvalTask
from aim_plugins.harnesses.opencompass.run.infer import SweepOpenICLInferTask
from aim_plugins.harnesses.opencompass.run.partitioner import (
    SweepEvalPartitioner,
    SweepInferPartitioner,
)

infer = dict(
    partitioner=dict(type=SweepInferPartitioner),
    runner=dict(type=LocalRunner, max_num_workers=16, task=dict(type=SweepOpenICLInferTask)),
)
eval = dict(
    partitioner=dict(type=SweepEvalPartitioner),
    runner=dict(type=LocalRunner, max_num_workers=4, task=dict(type=SweepOpenICLEvalTask)),
)
summarizer = dict(type=SweepSummarizer)
