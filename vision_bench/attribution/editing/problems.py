"""The problems that edits are for: forget classes, mend mistakes, close a backdoor, help a group.

Source: arXiv:2404.11534, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aim_plugins.core.errors import first_few
from vision_bench.attribution.editing.choices import TRIGGERED, WORST_GROUP, WRONG
from vision_bench.attribution.editing.goal import Examined, Goal
from vision_bench.attribution.editing.problem import (
    Answering,
    Problem,
    Sources,
    joined,
    members_of,
    named_images,
)
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.attribution.editing.split import without
from vision_bench.data.classes import class_index
from vision_bench.data.classification import ClassificationData
from vision_bench.data.trigger import TriggeredImages

EDITED_IMAGES, ALIKE, OTHERS = "edited images", "mistakes alike", "other images"
PATCHED, CLEAN = "with patch", "clean"
ALL = "all images"


def make_problem(
    settings: EditSettings,
    data: ClassificationData,
    test: ClassificationData,
    answering: Answering,
) -> Problem:
    """Makes the problem that the settings ask for.

    Args:
        settings: What is asked.
        data: Images that are attributed and select.
        test: Images that are tested.
        answering: What the model answers.

    Raises:
        ValueError: If there are no such images, or too few.
        FileNotFoundError: If there is no such file.
    """
    found = _MAKERS[settings.kind](Sources(settings, data, test, answering))
    for part in (*found.goal.aims, *found.goal.rest):
        for name, examined in (("select", found.selection), ("are tested", found.test)):
            if not examined.parts[part].any():
                raise ValueError(
                    f"targets={settings.words!r}: none of the images that {name} are of "
                    f"{part!r}: give more images (limit), or another selection_share"
                )
    return found


def _of_classes(sources: Sources) -> Problem:
    """Classes that are forgotten, or told better."""
    settings, data, test = sources.settings, sources.data, sources.test
    own = members_of(data, settings.targets, "targets")
    targets = sources.drawn(own.nonzero().flatten().tolist(), settings.target_count, "targets")
    references = sources.references((~own).nonzero().flatten().tolist())
    labels = sorted(set(test.labels[members_of(test, settings.targets, "targets")].tolist()))
    named = first_few([test.classes[one] for one in labels])
    name, others = f"class {named}" if len(labels) == 1 else f"classes {named}", "other classes"

    def parts(given: ClassificationData) -> dict[str, Bool[Tensor, " images"]]:
        members = members_of(given, settings.targets, "targets")
        return {name: members, others: ~members}

    return _plain(
        sources,
        f"{'forget' if settings.lowers else 'better tell'} {name}",
        targets,
        references,
        Goal([name], [others], lower=settings.lowers),
        parts,
    )


def _of_images(sources: Sources) -> Problem:
    """Images that are named, or some of those that are answered wrongly."""
    settings, data, test = sources.settings, sources.data, sources.test
    answers = sources.answering(data)
    if settings.kind == WRONG:
        wrong = ((answers >= 0) & (answers != data.labels)).nonzero().flatten().tolist()
        targets = sources.drawn(wrong, settings.target_count, "targets")
    else:
        targets = named_images(Path(str(settings.targets[0])), data, "targets")
    references = sources.references(without(range(len(data)), targets))
    rest = sources.rest([*targets, *references])
    kinds = {(int(data.labels[one]), int(answers[one])) for one in targets}
    kinds = {(label, answer) for label, answer in kinds if label != answer}
    own = sources.chosen(targets, "targets")

    def examined(others: ClassificationData, given: Int[Tensor, " others"]) -> Examined:
        pairs = zip(others.labels.tolist(), given.tolist(), strict=True)
        alike = torch.tensor([False] * len(own) + [pair in kinds for pair in pairs])
        places = torch.arange(len(alike)) < len(own)
        parts = {EDITED_IMAGES: places, ALIKE: alike, OTHERS: ~places & ~alike}
        if not alike.any() or settings.lowers:
            parts = {EDITED_IMAGES: places, OTHERS: ~places}
        return Examined(joined(own, others), parts)

    count = "an image" if len(own) == 1 else f"{len(own)} images"
    return Problem(
        f"{'lower' if settings.lowers else 'raise'} the margin of {count}",
        own,
        sources.chosen(references, "references"),
        Goal([EDITED_IMAGES], [OTHERS], lower=settings.lowers),
        examined(data.subset(rest), answers[rest]),
        examined(test, sources.answering(test)),
        note="The edited images are those that the edit was made of, and not held out; mistakes "
        "alike are test images of the same classes that the model answers with the same wrong "
        "ones. As they are chosen by their wrong answers, any change mends some of them: hold "
        "them against the random edits.",
    )


def _of_backdoor(sources: Sources) -> Problem:
    """Images with a patch that stands for a class, to be answered as without it."""
    settings, data, test = sources.settings, sources.data, sources.test
    assert settings.backdoor_class is not None
    label = class_index(settings.backdoor_class, data.classes, "backdoor_class")
    others = (data.labels != label).nonzero().flatten().tolist()
    chosen = sources.drawn(others, settings.target_count, "targets")
    references = sources.chosen(chosen, "targets")

    def patched(given: ClassificationData, places: Sequence[int]) -> ClassificationData:
        images = given.images.subset(list(places))
        return given.subset(places, TriggeredImages(images, settings.trigger))

    def examined(given: ClassificationData, places: Sequence[int]) -> Examined:
        attacked = [one for one in places if int(given.labels[one]) != label]
        both = joined(patched(given, attacked), given.subset(places))
        first = torch.arange(len(both)) < len(attacked)
        return Examined(both, {PATCHED: first, CLEAN: ~first})

    return Problem(
        f"answer images with the patch as without it, not with {data.classes[label]}",
        patched(data, chosen),
        references,
        Goal([PATCHED], [CLEAN]),
        examined(data, sources.rest(chosen)),
        examined(test, range(len(test))),
        attack=label,
        note=f"With patch: test images of all classes but {data.classes[label]}, with the patch "
        "on them; they are right when they are answered with their own class.",
    )


def _of_groups(sources: Sources) -> Problem:
    """The group that the model is worst at."""
    settings, data, test = sources.settings, sources.data, sources.test
    if data.groups is None or test.groups is None:
        raise ValueError(
            f"targets={WORST_GROUP!r}: {data.title} has no groups: give dataset='waterbirds' or "
            "'celeba'"
        )
    answers = sources.answering(data)
    present = data.groups.unique().tolist()
    shares = {
        one: float((answers == data.labels)[data.groups == one].double().mean()) for one in present
    }
    worst = min(shares, key=lambda one: shares[one])
    own = data.groups == worst
    targets = sources.drawn(own.nonzero().flatten().tolist(), settings.target_count, "targets")
    references = sources.references((~own).nonzero().flatten().tolist())
    names = [data.group_names[one] for one in present]

    def parts(given: ClassificationData) -> dict[str, Bool[Tensor, " images"]]:
        assert given.groups is not None
        found = {data.group_names[one]: given.groups == one for one in present}
        return {**found, ALL: torch.ones(len(given), dtype=torch.bool)}

    return _plain(
        sources,
        f"answer {data.group_names[worst]} better, the group that the model is worst at "
        f"({shares[worst]:.0%} of those that select)",
        targets,
        references,
        Goal(names, [ALL], lower=settings.lowers, worst=True),
        parts,
    )


def _plain(
    sources: Sources,
    words: str,
    targets: Sequence[int],
    references: Sequence[int],
    goal: Goal,
    parts: Callable[[ClassificationData], dict[str, Bool[Tensor, " images"]]],
) -> Problem:
    """A problem whose images are those of the data set, some attributed and the rest selecting."""
    data = sources.data
    rest = data.subset(sources.rest([*targets, *references]))
    return Problem(
        words,
        sources.chosen(targets, "targets"),
        sources.chosen(references, "references"),
        goal,
        Examined(rest, parts(rest)),
        Examined(sources.test, parts(sources.test)),
    )


_MAKERS: dict[str, Callable[[Sources], Problem]] = {
    "classes": _of_classes,
    "images": _of_images,
    WRONG: _of_images,
    TRIGGERED: _of_backdoor,
    WORST_GROUP: _of_groups,
}
