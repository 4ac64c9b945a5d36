"""The problems that edits are for: classes, mistakes, a backdoor, written words, groups.

Source: arXiv:2404.11534, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aim_plugins.core.errors import first_few
from aim_plugins.core.identity import seed_of
from vision_bench.attribution.editing.choices import (
    TRIGGERED,
    TYPOGRAPHIC,
    WORST_GROUP,
    WRONG,
)
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
from vision_bench.data.marks import Mark, MarkedImages
from vision_bench.data.writing import Word
from vision_bench.models.names import spoken_name

EDITED_IMAGES, ALIKE, OTHERS = "edited images", "mistakes alike", "other images"
PATCHED, WRITTEN, CLEAN = "with patch", "with word", "clean"
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
    kinds = {(label, answer) for label, answer in kinds if label != answer >= 0}
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
        seen={EDITED_IMAGES: "not held out", ALIKE: "chosen by the model's answers"},
        note="The edited images are those that the edit was made of and chosen by, and not held "
        "out; mistakes alike are test images of the same classes that the model answers with the "
        "same wrong ones. As they are chosen by their wrong answers, any change mends some of "
        "them: neither is compared with the model; hold them against the random edits.",
    )


@dataclass(frozen=True)
class _Marks:
    """Marks that make a model answer with what they stand for.

    Attributes:
        words: What the edit is to do.
        part: What images with a mark are called.
        success: What it is called that a mark has its way.
        note: What else there is to know.
        mark: The mark that stands for a class.
        meant: The class that each image's mark is to stand for; where it is the image's own, the
            image has none.
    """

    words: str
    part: str
    success: str
    note: str
    mark: Callable[[int], Mark]
    meant: Callable[[ClassificationData], Int[Tensor, " images"]]


def _of_backdoor(sources: Sources) -> Problem:
    """Images with a patch that stands for a class, to be answered as without it."""
    settings, classes = sources.settings, sources.data.classes
    assert settings.backdoor_class is not None
    label = class_index(settings.backdoor_class, classes, "backdoor_class")
    return _of_marks(
        sources,
        _Marks(
            f"answer images with the patch as without it, not with {classes[label]}",
            PATCHED,
            f"patch answered {classes[label]}",
            f"With patch: test images of all classes but {classes[label]}, with the patch on them; "
            "they are right when they are answered with their own class.",
            lambda _: settings.trigger,
            lambda given: torch.full_like(given.labels, label),
        ),
    )


def _of_words(sources: Sources) -> Problem:
    """Images with the name of a class written on them, to be answered as without it."""
    settings, classes = sources.settings, sources.data.classes
    named = [class_index(one, classes, "word_classes") for one in settings.word_classes]
    allowed = sorted(set(named)) or list(range(len(classes)))

    def drawn(name: str, label: int) -> int:
        others = [one for one in allowed if one != label]
        return others[seed_of(settings.seed, "word", name) % len(others)] if others else label

    def meant(given: ClassificationData) -> Int[Tensor, " images"]:
        pairs = zip(given.names, given.labels.tolist(), strict=True)
        return torch.tensor([drawn(name, label) for name, label in pairs])

    whose = first_few([classes[one] for one in allowed]) if named else "another class"
    return _of_marks(
        sources,
        _Marks(
            "answer images with a word written on them as without it",
            WRITTEN,
            "word answered",
            f"With word: test images with the name of {whose} written on them, never of their own "
            "class; they are right when they are answered with their own.",
            lambda label: Word(spoken_name(classes[label]), settings.writing),
            meant,
        ),
    )


def _of_marks(sources: Sources, marks: _Marks) -> Problem:
    """Images with a mark that stands for a class, to be answered as without it."""
    settings, data, test = sources.settings, sources.data, sources.test
    others = (marks.meant(data) != data.labels).nonzero().flatten().tolist()
    chosen = sources.drawn(others, settings.target_count, "targets")
    references = sources.chosen(chosen, "targets")

    def marked(given: ClassificationData, places: Sequence[int]) -> ClassificationData:
        images = given.images.subset(list(places))
        own = [marks.mark(one) for one in marks.meant(given)[list(places)].tolist()]
        return given.subset(places, MarkedImages(images, own))

    def examined(given: ClassificationData, places: Sequence[int]) -> Examined:
        meant = marks.meant(given)
        attacked = [one for one in places if meant[one] != given.labels[one]]
        both = joined(marked(given, attacked), given.subset(places))
        first = torch.arange(len(both)) < len(attacked)
        stands_for = torch.full((len(both),), -1)
        stands_for[first] = meant[attacked]
        return Examined(both, {marks.part: first, CLEAN: ~first}, stands_for)

    return Problem(
        marks.words,
        marked(data, chosen),
        references,
        Goal([marks.part], [CLEAN]),
        examined(data, sources.rest(chosen)),
        examined(test, range(len(test))),
        attack=marks.success,
        note=marks.note,
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
    readable = answers >= 0
    present = data.groups[readable].unique().tolist()
    shares = {
        one: float((answers == data.labels)[readable & (data.groups == one)].double().mean())
        for one in present
    }
    worst = min(shares, key=lambda one: shares[one])
    own = readable & (data.groups == worst)
    targets = sources.drawn(own.nonzero().flatten().tolist(), settings.target_count, "targets")
    references = sources.references((data.groups != worst).nonzero().flatten().tolist())
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
    TYPOGRAPHIC: _of_words,
    WORST_GROUP: _of_groups,
}
