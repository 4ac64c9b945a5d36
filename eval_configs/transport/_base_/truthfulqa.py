"""Truthfulness on TruthfulQA, two-fold: fitted on one half of the questions, asked on the other.

Files: `data/TruthfulQA.csv`, from which the tasks of the other half are made first:

    python eval_configs/transport/make_truthfulqa_tasks.py data/TruthfulQA.csv data/truthfulqa

For the second fold: `--cfg-options data.fold=1 evaluate.tasks="[truthfulqa_without_fold1_mc1,
truthfulqa_without_fold1_mc2]"`; the figure to report is the mean of both.
"""

_base_ = "linear_act.py"

support = "none"

data = dict(
    name="truthfulqa",
    root="data/TruthfulQA.csv",
    fold=0,
    n_folds=2,
    answers="all",
    seed=0,
)
generate = dict(strength="0:1:0.1")
evaluate = dict(
    tasks=["truthfulqa_without_fold0_mc1", "truthfulqa_without_fold0_mc2"],
    include_path="data/truthfulqa",
)
