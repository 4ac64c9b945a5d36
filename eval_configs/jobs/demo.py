"""Two sweeps of the demo model as jobs of this machine: about a minute on two cores.

    aim-plugins jobs eval_configs/jobs/demo.py
"""

from aim_plugins.demo_model import demo_model_folder

output = "runs/demo-jobs"
jobs = [
    dict(
        name=f"smollm2-{task}",
        command="aim-plugins sweep lm-eval",
        options=dict(
            model="aim_hf",
            model_args=f"pretrained={demo_model_folder()},dtype=float32",
            tasks=f"aim_demo_{task}",
            include_path="eval_configs/lm_eval",
            noise_std="0:4:1",
            limit=40,
            batch_size=16,
            output="{output}",
        ),
    )
    for task in ("capitals", "continents")
]
