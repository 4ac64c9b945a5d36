"""Every system of `aim-plugins`, a line each: its words, what it is for, and who runs it."""

from __future__ import annotations

from aim_plugins.core.commands import System

SYSTEMS = (
    System(
        "demo-model",
        "print the folder of SmolLM2-135M-Instruct, fetching it once",
        "aim_plugins.demo_model:main",
    ),
    System(
        "lm-eval",
        "lm_eval with our models registered, no import hook needed; the same arguments",
        "aim_plugins.harnesses.lm_eval.command:lm_eval",
        needs={"lm_eval": "lm-eval"},
        guarded=False,
    ),
    System(
        "sweep lm-eval",
        "quality against strength with lm-evaluation-harness, from one model load",
        "aim_plugins.harnesses.lm_eval.command:main",
    ),
    System(
        "sweep opencompass",
        "the same with OpenCompass, from a configuration file; its own arguments",
        "aim_plugins.harnesses.opencompass.command:main",
        needs={"opencompass": "opencompass"},
    ),
    System(
        "compare",
        "two finished sweeps over the same documents, or two strengths of one, in pairs",
        "aim_plugins.comparison.commands:main",
    ),
    System(
        "coverage",
        "what the documents of tasks exercise of a model, and what they leave untested",
        "aim_plugins.task_coverage.commands:main",
    ),
    System(
        "reengineer",
        "a smaller model with the neurons and heads that one task needs",
        "aim_plugins.reengineering.commands:main",
    ),
    System(
        "attribute",
        "which heads and neurons of a model a task rests on, and an edit that ablates them",
        "aim_plugins.heads.commands:main",
    ),
    System(
        "transport",
        "learn, look at, apply and evaluate activation transports",
        "aim_plugins.steering.commands.parser:main",
    ),
    System(
        "jobs",
        "many of these commands as batch jobs: by Slurm, by Ray, or on this machine",
        "aim_plugins.jobs.commands:main",
    ),
)
