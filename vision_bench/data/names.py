"""Names of the labelled data sets; they are checked before torch is imported."""

from __future__ import annotations

from aim_plugins.core.errors import did_you_mean

CLASSIFICATION = ("cifar10", "cifar100", "imagenet", "fashion-mnist", "digits", "folder")
"""What `vision_bench.data.classification` loads."""

_ALIASES = {"fashionmnist": "fashion-mnist", "cifar-10": "cifar10", "cifar-100": "cifar100"}


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
