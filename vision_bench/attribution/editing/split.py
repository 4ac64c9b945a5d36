"""Which images are attributed and select, and which are tested: no image does both."""

from __future__ import annotations

from collections.abc import Sequence

from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import FileImages
from vision_bench.data.drawing import draw_of_each


def split_images(
    data: ClassificationData, share: float, seed: int, named: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Parts images in two, each class and each group in the same proportion.

    Args:
        data: The images.
        share: Share of them that is attributed and selects.
        seed: Seed of the draw.
        named: Names of images that are attributed in any case.

    Returns:
        Positions of those, and of the others, which are tested.

    Raises:
        ValueError: If there are too few images for both.
    """
    kinds = data.labels if data.groups is None else data.groups
    taken = draw_of_each(kinds, share, seed, "selection")
    places = {name: place for place, name in enumerate(data.names)}
    taken[[places[name] for name in named if name in places]] = True
    if not taken.any() or taken.all():
        raise ValueError(
            f"selection_share={share:g} of the {len(data)} images of {data.title} leaves none to "
            "select by, or none to test: give more images, or another share"
        )
    return taken.nonzero().flatten().tolist(), (~taken).nonzero().flatten().tolist()


def check_apart(selecting: ClassificationData, tested: ClassificationData) -> None:
    """Refuses to select by images that are tested.

    Args:
        selecting: Images of the split that is to select.
        tested: Images that are tested.

    Raises:
        ValueError: If both are of one split, or share files of the same names and contents.
    """
    if selecting.name == tested.name:
        raise ValueError(
            f"selection_split: {selecting.name} is what is tested: give another one, or none to "
            "part this one"
        )
    if not isinstance(selecting.images, FileImages) or not isinstance(tested.images, FileImages):
        return  # images in arrays are those of their split
    places = {name: place for place, name in enumerate(tested.names)}
    alike = [place for place, name in enumerate(selecting.names) if name in places]
    mine = selecting.images.subset(alike).digests()
    theirs = tested.images.subset([places[selecting.names[one]] for one in alike]).digests()
    same = [selecting.names[one] for one, a, b in zip(alike, mine, theirs, strict=True) if a == b]
    if same:
        raise ValueError(
            f"selection_split: {len(same)} images are in {selecting.title} and in {tested.title} "
            f"alike, such as {same[0]}: give a split of other images"
        )


def without(positions: Sequence[int], others: Sequence[int]) -> list[int]:
    """Those positions that are not among others, in their order."""
    left_out = set(others)
    return [one for one in positions if one not in left_out]
