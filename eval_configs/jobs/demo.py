"""Which attention heads of the demo model know a capital's country: two shards, put together.

    aim-plugins jobs eval_configs/jobs/demo.py

The shards fill one folder, that of the job `heads`, which goes on from there once both are built.
"""

_STUDY = [
    *("aim-plugins", "attribute", "--model", "demo:smollm2", "--tasks", "aim_demo_capitals"),
    *("--include-path", "eval_configs/lm_eval", "--limit", 40, "--num-ablations", 40),
    *("--gradient-passes", 8, "--eval-alphas", 0.05, "--eval-masks", 10, "--random-edits", 2),
    *("--edit-sizes", "1,2,4", "--output", "{jobs}/heads/results"),
]

output = "runs/demo-jobs"
jobs = [dict(name=f"shard-{part}", command=[*_STUDY, "--shard", f"{part}/2"]) for part in (1, 2)]
then = [dict(name="heads", command=_STUDY)]
