"""Fine-tuning of the selected module, and of the whole model as long, for the same classes.

SeaM trains no weight. What is given away by closing channels of a frozen model is mostly won back
by a few epochs of training what is left; the whole model is given the same, for a fair comparison.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from vision_bench.models.model import LogitsOnly
from vision_bench.reengineering.baselines import Accuracy, accuracy, logits_of
from vision_bench.reengineering.batches import TrainingImages
from vision_bench.reengineering.fine_tuning import Recipe, fine_tune
from vision_bench.reengineering.module import Module
from vision_bench.reengineering.target import Target
from vision_bench.reengineering.training import read_file, write_file

TUNED_MODULE, TUNED_WHOLE = "module, fine-tuned", "whole model, fine-tuned"


def tuned(
    network: Module,
    target: Target,
    *,
    lr: float,
    epochs: int,
    seed: int,
    file: Path,
    title: str,
    masks: Mapping[str, Tensor] | None = None,
) -> Module:
    """A copy of a network, fine-tuned once; its weights are kept in a file.

    Args:
        network: The network, which stays as it is.
        target: The problem.
        lr: Highest learning rate of stochastic gradient descent with momentum 0.9,
            which rises and falls once.
        epochs: Passes over the training images; the state that is best on the validation images is
            kept.
        seed: Seed of dropout.
        file: Where the weights are kept; beside it, meanwhile, the state after each epoch, from
            which a killed run goes on.
        title: Of the progress bar.
        masks: Of weights that are zero and stay so, by their name in the model.
    """
    found = copy.deepcopy(network).to(target.device)
    unfinished = file.with_name(f"{file.stem}.unfinished{file.suffix}")
    if file.is_file():
        unfinished.unlink(missing_ok=True)  # a kill may have left it
        found.load_state_dict(read_file(file)[0])
        return found.cpu().eval()
    prefix = "base.model." if isinstance(found.base, LogitsOnly) else "base."
    held = {f"{prefix}{name}": mask for name, mask in (masks or {}).items()}
    found.requires_grad_(True)
    recipe = Recipe(epochs, 0, momentum=0.9, weight_decay=5e-4, seed=seed, one_cycle=True)
    groups = [{"params": list(found.parameters()), "lr": lr, "setting": "lr_fine_tune"}]
    fine_tune(found, groups, target, recipe, masks=held, title=title, file=unfinished)
    write_file(file, found.state_dict(), {})
    unfinished.unlink()
    return found.cpu()


def accuracy_of(network: nn.Module, images: TrainingImages, batch_size: int) -> Accuracy:
    """The accuracy of a network whose outputs are those of the problem."""
    return accuracy(*logits_of(network, images, batch_size))
