"""Settings of `vision-bench top-classes`, as its configs hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from aim_plugins.core.strengths import parse_strengths
from vision_bench.config_file import read_required


@dataclass(frozen=True)
class TopClassesSettings:
    """What a config of `vision-bench top-classes` may hold.

    Attributes:
        model: Name of an ImageNet classifier, as in `vision_bench.models.load`.
        images: Folder of photographs.
        weights: What `load_model` takes.
        noise_std: Strengths in logit units, a grid or a list.
        top: Number of classes shown.
        draws: Sampled runs per strength.
        seed: Draw d has the seed `seed` + d.
        output: Folder of results.
    """

    model: str
    images: str
    weights: str | None = None
    noise_std: str | Sequence[float] = "0:10:1"
    top: int = 5
    draws: int = 5
    seed: int = 0
    output: str = "runs/top-classes"

    def __post_init__(self) -> None:
        parse_strengths(self.noise_std, name="noise_std")
        for name in ("top", "draws"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not an integer above 0")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"seed={self.seed!r} is not an integer")


def read_settings(
    path: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None
) -> TopClassesSettings:
    """Reads a config.

    Args:
        path: The config file.
        overrides: Words such as "top=3".
        output: Replaces the config's folder of results.

    Returns:
        The settings, checked as far as they can be without model and images.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a setting is missing, unknown or not usable.
    """
    known = [entry.name for entry in fields(TopClassesSettings)]
    values = read_required(
        path, overrides, known=known, required=("model", "images"), output=output
    )
    return TopClassesSettings(**values)
