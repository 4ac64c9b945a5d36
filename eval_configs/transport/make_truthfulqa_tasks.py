"""Makes TruthfulQA's multiple-choice tasks of the questions that a fold did not fit.

    python eval_configs/transport/make_truthfulqa_tasks.py TruthfulQA.csv FOLDER [--seed 0]

FOLDER then holds, for each of the two folds, a file of questions and two tasks of
lm-evaluation-harness (`--include-path FOLDER`), truthfulqa_without_fold0_mc1 and so on. They are
the harness's own, with its prompts and metrics, on local questions. The seed has to be that of the
fit (`data.seed`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from aim_plugins.core.files import write_atomic
from aim_plugins.transport.data.corpora import TruthfulQuestion, read_truthfulqa, split_folds

N_FOLDS = 2


def document(question: TruthfulQuestion) -> dict:
    """A question in the form of the multiple-choice set: the right choices come first."""
    return {
        "question": question.question,
        "mc1_targets": targets((question.best,), question.incorrect),
        "mc2_targets": targets(question.correct, question.incorrect),
    }


def targets(right: tuple[str, ...], wrong: tuple[str, ...]) -> dict:
    """Choices with a label each, 1 for the right ones."""
    return {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}


def harness_task(name: str) -> Path:
    """The harness's own description of a task."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise ImportError("the tasks need lm-eval: pip install 'aim-plugins[transport]'")
    return Path(spec.origin).parent / "tasks" / "truthfulqa" / f"{name}.yaml"


def write(csv_path: Path, folder: Path, seed: int) -> None:
    """Writes questions and tasks of both folds."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folds = split_folds(read_truthfulqa(csv_path), N_FOLDS, seed)
    for fitted in range(N_FOLDS):
        others = [question for i, fold in enumerate(folds) if i != fitted for question in fold]
        name = f"truthfulqa_without_fold{fitted}"
        data = folder / f"{name}.jsonl"
        write_atomic(data, "".join(json.dumps(document(question)) + "\n" for question in others))
        for metric in ("mc1", "mc2"):
            task = {
                "include": str(harness_task(f"truthfulqa_{metric}")),
                "task": f"{name}_{metric}",
                "tag": [],
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {"validation": str(data)}},
            }
            # JSON is YAML, and needs no other quoting of paths.
            write_atomic(folder / f"{name}_{metric}.yaml", json.dumps(task, indent=2) + "\n")


def main() -> None:
    """Writes to the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, help="TruthfulQA.csv, or its folder")
    parser.add_argument("folder", type=Path, help="where the tasks go")
    parser.add_argument("--seed", type=int, default=0, help="that of the fit; default 0")
    options = parser.parse_args()
    write(options.csv, options.folder, options.seed)


if __name__ == "__main__":
    main()
