"""Which ranking of channels a language model's answers survive: three of them, side by side.

    python -m benchmarks.reengineering_language [--seeds 0 1] [--steps 30]

SmolLM2-135M-Instruct on the demo's capitals, in float32. Forty per cent of the documents are
learned from, and accuracies are of the others. Taylor importance in the whole model is what
`aim-plugins reengineer` uses; against it stand the same learned anew at each share in the model
that is left, and gates with a binarised forward pass, trained by Adam (0.05) on batches of eight
documents, with the share of multiply-accumulates as penalty, and ranked by their scores.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from aim_plugins.engines.loading import DEMO_MODEL, load_engine
from aim_plugins.modulation.channels import ChannelMasks
from aim_plugins.modulation.masks import masked
from aim_plugins.reengineering.groups import Removable, find_removable, masks_of
from aim_plugins.reengineering.importance import keep_most_important, taylor_importance
from aim_plugins.reengineering.removal import channel_counts
from aim_plugins.task_documents import load_documents
from aim_plugins.task_questions.answers import Answers
from aim_plugins.task_questions.questions import (
    Question,
    QuestionBatch,
    read_questions,
    score_choices,
)
from aim_plugins.task_questions.split import split_documents
from benchmarks._timing import write_result

_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
_BATCH = 8
_TASK = "aim_demo_capitals"

Ranking = dict[str, torch.Tensor]


def train_gates(
    model: Any, removable: Removable, questions: Sequence[Question], steps: int
) -> Ranking:
    """Scores of gates after so many steps of Adam."""
    ends = [one for group in removable.groups for one in (*group.outputs, *group.inputs)]
    macs = {one.layer: float(model.get_submodule(one.layer).weight.numel()) for one in ends}
    gates = ChannelMasks(model, removable.groups, macs)
    optimizer = torch.optim.Adam(gates.parameters(), lr=0.05)
    drawn = random.Random(1)
    with gates.training_on(model):
        for _ in range(steps):
            some = drawn.sample(list(questions), _BATCH)
            scores = QuestionBatch.of(some, model.device).log_likelihoods(model)
            right = torch.tensor([one.right for one in some])
            loss = F.cross_entropy(scores, right) + gates.retained_share()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    parts = gates.scores.detach().split([one.size for one in removable.groups])
    return {group.name: part for group, part in zip(removable.groups, parts, strict=True)}


def accuracies(
    model: Any, removable: Removable, ranking: Ranking, test: Sequence[Question]
) -> list[float]:
    """Accuracy at each share."""
    found = []
    for share in _SHARES:
        counts = channel_counts(model.config, removable, share)
        masks = masks_of(model, removable.groups, keep_most_important(ranking, counts))
        with masked(model, masks):
            scores = score_choices(model, test, _BATCH)
        found.append(Answers(scores, [one.right for one in test]).accuracy)
    return found


def relearned(
    model: Any, removable: Removable, learning: Sequence[Question], test: Sequence[Question]
) -> list[float]:
    """Accuracy at each share, by importance in the model of the share before."""
    found: list[float] = []
    masks: dict[str, torch.Tensor] = {}
    for share in _SHARES:
        with masked(model, masks):
            # What is closed has no slope, and stays behind what is open.
            ranking = taylor_importance(model, removable.groups, learning, _BATCH)
        counts = channel_counts(model.config, removable, share)
        masks = masks_of(model, removable.groups, keep_most_important(ranking, counts))
        with masked(model, masks):
            scores = score_choices(model, test, _BATCH)
        found.append(Answers(scores, [one.right for one in test]).accuracy)
    return found


def main() -> None:
    """Prints accuracies at each share, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=30, help="steps of the gates")
    options = parser.parse_args()
    documents = load_documents([_TASK], "eval_configs/lm_eval")[_TASK]
    engine = load_engine(DEMO_MODEL, dtype="float32", device="cpu")
    model, removable = engine.model, find_removable(engine.model)
    questions = read_questions(documents, engine.tokenizer, engine.max_length)
    results: dict[str, Any] = {"shares": list(_SHARES)}
    for seed in options.seeds:
        split = split_documents(documents, (0.4, 0.2, 0.4), seed)
        learning = [questions[one] for one in split.learning]
        test = [questions[one] for one in (*split.validation, *split.test)]
        start = time.process_time()
        ranking = taylor_importance(model, removable.groups, learning, _BATCH)
        seconds = {"taylor": time.process_time() - start}
        found = {"taylor": accuracies(model, removable, ranking, test)}
        found["taylor, learned anew"] = relearned(model, removable, learning, test)
        start = time.process_time()
        ranking = train_gates(model, removable, learning, options.steps)
        seconds["gates"] = time.process_time() - start
        found["gates"] = accuracies(model, removable, ranking, test)
        results[f"seed {seed}"] = {"accuracies": found, "cpu_seconds": seconds}
        for name, values in found.items():
            print(f"seed {seed}  {name:21}", "  ".join(f"{one:.3f}" for one in values), flush=True)
        print(f"seed {seed}  CPU seconds:", {name: round(one) for name, one in seconds.items()})
    write_result("reengineering_language", results)


if __name__ == "__main__":
    main()
