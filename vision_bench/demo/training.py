"""What the demo's trainings share: fixed seeds, and one rise and fall of the learning rate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seeds PyTorch, takes one thread, and leaves both as they were.

    The number of threads decides how sums are rounded, and training enlarges that. On a busy
    machine, threads that wait for each other also train small networks many times slower than one.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def fit(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Int[Tensor, " batch"]], Float[Tensor, ""]],
    *,
    count: int,
    batch_size: int,
    epochs: int,
    title: str,
    progress: bool,
) -> None:
    """Minimises a loss over examples in random order.

    The learning rate rises to the optimizer's own and falls again: Smith and Topin,
    "Super-Convergence" (arXiv:1708.07120).

    Args:
        optimizer: Of the model's parameters.
        loss_of: The mean loss of the examples at these positions.
        count: Number of examples.
        batch_size: Examples in a step; what is left over at the end of an epoch is not used.
        epochs: Passes over the examples.
        title: Of the progress bar.
        progress: Whether to show it.
    """
    from tqdm import trange

    # A last, smaller batch would unsettle the statistics of batch normalisation.
    batches = max(1, count // batch_size)
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, optimizer.param_groups[0]["lr"], total_steps=steps
    )
    for step in trange(steps, desc=title, disable=not progress):
        if step % batches == 0:
            order = torch.randperm(count)
        start = step % batches * batch_size
        loss = loss_of(order[start : start + batch_size])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
