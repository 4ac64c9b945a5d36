"""Names of the labelled data sets and of their files; they are checked before torch is imported."""

from __future__ import annotations

from pathlib import Path

from aim_plugins.core.errors import did_you_mean

CLASSIFICATION = (
    "cifar10",
    "cifar100",
    "imagenet",
    "fashion-mnist",
    "digits",
    "waterbirds",
    "celeba",
    "folder",
)
"""What `vision_bench.data.classification` loads."""

NEED_ROOT = ("imagenet", "waterbirds", "celeba", "folder")
"""Those that lie in no folder of their own accord."""

_ALIASES = {"fashionmnist": "fashion-mnist", "cifar-10": "cifar10", "cifar-100": "cifar100"}

CLASS_LIST = "classes.txt"
PALETTES = ("palette.txt", "class_dict.csv", "label_colors.txt", "labelmap.txt")
"""Where colours are listed: in our own file, or in those of CamVid's copies and of CVAT."""


def dataset_name(name: str) -> str:
    """The name of a data set, which may be written in other letters.

    >>> dataset_name("FashionMNIST"), dataset_name("CIFAR_10")
    ('fashion-mnist', 'cifar10')

    Raises:
        ValueError: If there is none.
    """
    plain = name.lower().replace("_", "-")
    plain = _ALIASES.get(plain, plain)
    if plain not in CLASSIFICATION:
        raise ValueError(f"dataset={name!r} is no data set; {did_you_mean(plain, CLASSIFICATION)}")
    return plain


def required_root(root: str | Path | None, name: str) -> Path:
    """The folder of a data set that cannot do without one.

    Raises:
        ValueError: If none is given.
    """
    if root is None:
        raise ValueError(f"data_root=None: give the folder in which {name} lies")
    return Path(root)


def class_list(root: Path) -> Path:
    """The file that names the classes of a folder of pairs, or the colours that stand for them.

    Raises:
        FileNotFoundError: If there is neither.
    """
    for name in (CLASS_LIST, *PALETTES):
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root / CLASS_LIST}: no such file: write one class name a line")
