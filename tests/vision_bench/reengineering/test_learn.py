"""Learning masks: the algorithm written out by hand, and its state through a restart.

Run side by side with `Reengineer` of the authors' code (github.com/qibinhang/SeaM, commit 529aae1)
on a ResNet-20, the scores were equal to the bit in each of 7 epochs, at lr_mask .05 and .3.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aim_plugins.modulation.masks import WeightMasks
from vision_bench.reengineering.learn import Learner, Recipe
from vision_bench.reengineering.module import Module, make_head


def network(dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(16, 5),
        )
        model[1].running_mean.normal_(0, 0.1)
    return model.eval()


def batches(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(6, 3, 6, 6, generator=generator), torch.arange(6) % 3) for _ in range(4)]


def learner(recipe: Recipe, dropout: float = 0.0) -> Learner:
    model = network(dropout)
    return Learner(Module(model, make_head(5, 3, 0)), model, WeightMasks(model), recipe)


def by_hand(recipe: Recipe, epochs: int) -> tuple[list[Tensor], Tensor]:
    """The paper's algorithm on the same network: two Adams, the head alone every fifth epoch."""
    model, head = network(), make_head(5, 3, 0)
    weights = [model[0].weight, model[0].bias, model[6].weight, model[6].bias]
    scores = [torch.ones_like(one, requires_grad=True) for one in weights]
    alone = torch.optim.Adam(head.parameters(), recipe.lr_head)
    both = torch.optim.Adam(
        [
            {"params": scores, "lr": recipe.stages[0][0]},
            {"params": head.parameters(), "lr": recipe.lr_head},
        ]
    )
    for epoch in range(epochs):
        for images, labels in batches():
            bits = [(one > 0).float().requires_grad_() for one in scores]
            w = [weight.detach() * bit for weight, bit in zip(weights, bits, strict=True)]
            hidden = F.conv2d(images, w[0], w[1])
            norm = model[1]
            hidden = F.batch_norm(
                hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias
            )
            hidden = F.adaptive_avg_pool2d(F.relu(hidden), 2).flatten(1)
            loss = F.cross_entropy(head(F.relu(F.linear(hidden, w[2], w[3]))), labels)
            slopes = torch.autograd.grad(loss, [*bits, *head.parameters()])
            elements = sum(one.numel() for one in scores)
            for score, slope in zip(scores, slopes[:4], strict=True):
                score.grad = slope.clamp(-1, 1) + recipe.stages[0][1] / elements
            for parameter, slope in zip(head.parameters(), slopes[4:], strict=True):
                parameter.grad = slope
            (alone if epoch % 5 == 0 else both).step()
    return scores, head.weight


def test_scores_follow_the_algorithm_of_the_paper() -> None:
    recipe = Recipe(lr_head=0.1, stages=((0.06, 2.0),), epochs=7)
    ours = learner(recipe)
    for epoch in range(7):
        ours.train(epoch, batches())
    scores, head = by_hand(recipe, 7)
    for name, expected in zip(ours.masks.names, scores, strict=True):
        torch.testing.assert_close(ours.masks.scores_of(name), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.module.head.weight, head, atol=1e-5, rtol=1e-5)
    assert 0 < ours.masks.retained_ratio() < 1


def test_every_fifth_epoch_trains_the_head_alone() -> None:
    ours = learner(Recipe(stages=((0.2, 1.0),), epochs=11))
    moved = []
    for epoch in range(11):
        before = copy.deepcopy(ours.state())
        ours.train(epoch, batches())
        moved.append(any(not torch.equal(before[name], one) for name, one in ours.state().items()
                         if name.startswith("masks.")))  # fmt: skip
        assert not torch.equal(before["head.weight"], ours.module.head.weight)
    assert [epoch for epoch, one in enumerate(moved) if not one] == [0, 5, 10]


def test_training_leaves_the_model_as_it_was() -> None:
    ours, untouched = learner(Recipe(epochs=3)), network()
    for epoch in range(3):
        ours.train(epoch, batches())
        ours.right(batches(1))
    model = ours.named
    expected = untouched.state_dict()
    for name, one in model.state_dict().items():
        assert torch.equal(one, expected[name]), name
    assert all(one.requires_grad for one in model.parameters())
    assert not any(module.training for module in model.modules())


def test_a_restored_state_goes_on_as_if_never_stopped() -> None:
    recipe = Recipe(stages=((0.2, 1.0),), epochs=8)
    whole, first = learner(recipe, dropout=0.5), learner(recipe, dropout=0.5)
    for epoch in range(8):
        whole.train(epoch, batches(epoch))
    for epoch in range(4):
        first.train(epoch, batches(epoch))
    second = learner(recipe, dropout=0.5)
    second.restore(copy.deepcopy(first.state()))
    torch.manual_seed(99)  # what was drawn meanwhile does not matter
    for epoch in range(4, 8):
        second.train(epoch, batches(epoch))
    for name, one in whole.state().items():
        assert torch.equal(one, second.state()[name]), name


def test_a_snapshot_is_no_view_of_what_goes_on_training() -> None:
    """The authors' best masks alias live tensors, and change with later epochs."""
    ours = learner(Recipe(stages=((0.5, 1.0),), epochs=8))
    ours.train(0, batches())
    taken = ours.snapshot(0, 0.0, 0.0)
    kept = copy.deepcopy(taken)
    for epoch in range(1, 6):
        ours.train(epoch, batches())
    for name, mask in taken.point.masks.items():
        assert torch.equal(mask, kept.point.masks[name])
    for name, one in taken.point.head.items():
        assert torch.equal(one, kept.point.head[name])
    assert taken.epoch.share == 1.0 > ours.masks.retained_ratio()


def test_stages_go_on_from_where_the_one_before_arrived() -> None:
    """Two stages of the same rates are one training; a stage of hardly any rate leaves masks."""
    once = learner(Recipe(stages=((0.2, 1.0),), epochs=8))
    twice = learner(Recipe(stages=((0.2, 1.0), (0.2, 1.0)), epochs=4))
    slow = learner(Recipe(stages=((0.2, 1.0), (1e-9, 1.0)), epochs=4))
    for epoch in range(8):
        for one in (once, twice, slow):
            one.train(epoch, batches(epoch))
        if epoch == 3:
            before = [score.clone() for score in slow.masks.scores]
    assert all(map(torch.equal, once.masks.scores, twice.masks.scores))
    for score, other in zip(slow.masks.scores, before, strict=True):
        assert (score - other).abs().max() < 1e-6


def test_a_loss_that_is_no_number_is_said() -> None:
    ours = learner(Recipe(epochs=3))
    images, labels = batches()[0]
    with pytest.raises(ValueError, match="learning masks: the loss is nan"):
        ours.train(0, [(images * torch.nan, labels)])
