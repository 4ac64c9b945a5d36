"""Settings of the classification commands, as configs and flags give them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aim_plugins.core.strengths import MAX_STRENGTHS, parse_strengths, validate_strength
from vision_bench.config_file import read_required, require, require_count

if TYPE_CHECKING:
    from vision_bench.data.classification import ClassificationData
    from vision_bench.models.model import VisionModel

FEW_CLASSES = 10
"""A data set of at most so many classes shows each of them in the report."""

_TEXTS = ("data_root", "labels", "split", "weights", "device", "output")


@dataclass(frozen=True)
class NoisePlan:
    """The modulation, its strengths and its draws: what sampling needs beside logits.

    Attributes:
        stds: Noise standard deviations in logit units.
        draws: Sampled runs per strength.
        seed: Draw d has the seed `seed` + d.
        focus: Target classes by name or index; empty for utility modulation.
        focus_negative: Whether focus makes its targets less likely.
        top_k: How many of the best classes count for the top-k accuracy.
    """

    stds: tuple[float, ...]
    draws: int = 1
    seed: int = 0
    focus: tuple[str | int, ...] = ()
    focus_negative: bool = False
    top_k: int = 5

    def targets(self, names: Sequence[str]) -> dict[int, int] | None:
        """Target classes and their signs; None for utility modulation.

        Raises:
            ValueError: If one is no class or is named twice, or there is only a direction.
        """
        if self.focus_negative and not self.focus:
            raise ValueError("focus_negative needs classes to act on: name them as focus_target")
        sign = -1 if self.focus_negative else 1
        indices = [class_index(entry, names, "focus_target") for entry in self.focus]
        if len(set(indices)) < len(indices):
            raise ValueError(f"focus_target={list(self.focus)} names a class twice")
        return {index: sign for index in indices} or None


@dataclass(frozen=True)
class ClassifySettings:
    """What a config of `vision-bench classify` may hold; only two settings have no default.

    Attributes:
        dataset: Name of a data set, as in `vision_bench.data.classification`.
        model: Name of a model, as in `vision_bench.models.load`; of pytorch-cifar-models the
            name of the architecture will do, such as "resnet56".
        data_root: Folder of the data set; by default "data" for CIFAR.
        split: The data set's split; None for the one to evaluate on.
        labels: For ImageNet's images in one folder, the list of their labels.
        limit: Number of images, taken evenly over the data set; None takes all.
        on_error: "skip" leaves unusable images out and counts them, "raise" stops at the first.
        weights: File of the model's weights; "hub" downloads the published ones, the default for
            models of pytorch-cifar-models on CIFAR, and "random" leaves the model untrained.
        preprocessing: Fields of `Preprocessing` that differ from the model's.
        num_perturb_steps: Number of strengths, from 0 upwards.
        perturb_step: From one strength to the next, in logit units.
        noise_std: The strengths themselves, such as "0:20:0.2", in the place of the two above.
        focus_target: Names or indices of the classes that focus modulation makes more likely; empty
            for utility modulation, noise on all classes.
        focus_negative: Makes them less likely instead.
        draws: Sampled runs per strength.
        seed: Draw d has the seed `seed` + d.
        top_k: How many of the best classes count for the top-k accuracy.
        report_classes: Names or indices of classes with curves of their own; by default the targets
            of focus, or all of up to ten. The table of classes holds all in any case.
        plot: Whether to draw pictures beside the report.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: Where to compute; None takes a GPU where there is one.
        logits_cache: Folder of cached logits.
        output: Folder of results; None names it after model and data.
    """

    dataset: str
    model: str
    data_root: str | None = None
    split: str | None = None
    labels: str | None = None
    limit: int | None = None
    on_error: str = "skip"
    weights: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    num_perturb_steps: int = 101
    perturb_step: float = 0.2
    noise_std: Any = None
    focus_target: Sequence[str | int] = ()
    focus_negative: bool = False
    draws: int = 1
    seed: int = 0
    top_k: int = 5
    report_classes: Sequence[str | int] = ()
    plot: bool = True
    batch_size: int = 128
    workers: int = 0
    device: str | None = None
    logits_cache: str = "runs/logits"
    output: str | None = None

    def __post_init__(self) -> None:
        for name in ("dataset", "model", "on_error", "logits_cache"):
            require(name, getattr(self, name), str, "a text")
        for name in _TEXTS:
            require(name, getattr(self, name), (str, type(None)), "a text or None")
        for name in ("focus_negative", "plot"):
            require(name, getattr(self, name), bool, "True or False")
        for name in ("draws", "top_k", "batch_size", "num_perturb_steps"):
            require_count(name, getattr(self, name), 1)
        require_count("workers", self.workers, 0)
        if self.limit is not None:
            require_count("limit", self.limit, 1)
        if self.on_error not in ("skip", "raise"):
            raise ValueError(f"on_error={self.on_error!r} is neither 'skip' nor 'raise'")
        require("seed", self.seed, int, "an integer")
        require("preprocessing", self.preprocessing, Mapping, "a dictionary of settings")
        for name in ("focus_target", "report_classes"):
            if isinstance(value := getattr(self, name), str | int):
                object.__setattr__(self, name, (value,))
            require(name, getattr(self, name), (list, tuple), "a list of names or indices")
        self.plan()
        if (dataset := _plain(self.dataset)) in ("cifar10", "cifar100"):
            if self.data_root is None:
                object.__setattr__(self, "data_root", "data")
            if self.weights is None and self._published.startswith(f"{dataset}_"):
                object.__setattr__(self, "weights", "hub")

    def plan(self) -> NoisePlan:
        """The modulation with its strengths and draws.

        Raises:
            ValueError: If the strengths are malformed.
        """
        stds = (
            perturb_grid(self.num_perturb_steps, self.perturb_step)
            if self.noise_std is None
            else parse_strengths(self.noise_std, name="noise_std")
        )
        focus = tuple(self.focus_target)
        return NoisePlan(stds, self.draws, self.seed, focus, self.focus_negative, self.top_k)

    @property
    def model_name(self) -> str:
        """The model's name in `vision_bench.models.load`.

        >>> ClassifySettings(dataset="cifar100", model="resnet56").model_name
        'cifar100_resnet56'
        """
        return self._published or self.model

    @property
    def _published(self) -> str:
        """Its name in pytorch-cifar-models, empty for a model from elsewhere."""
        from vision_bench.models.architectures.cifar import CIFAR_MODELS

        # Without a checkpoint for its data set, an architecture is that of CIFAR-10.
        names = (f"{_plain(self.dataset)}_{self.model}", f"cifar10_{self.model}", self.model)
        return next((name for name in names if name in CIFAR_MODELS), "")

    @property
    def folder(self) -> Path:
        """Folder of results."""
        model = self.model_name.replace(":", "-").replace("/", "-")
        dataset = self.dataset.lower()
        name = model if model.startswith(f"{dataset}_") else f"{dataset}_{model}"
        return Path(self.output or f"runs/{name}")

    def load(self) -> tuple[VisionModel, ClassificationData]:
        """Loads data and model.

        Raises:
            ValueError: If a name, a file or a setting is not usable.
            FileNotFoundError: If a file is not there.
            OSError: If weights cannot be downloaded.
            ImportError: If a package is missing.
        """
        from vision_bench.data.classification import load_dataset
        from vision_bench.models.load import load_model

        absent = self._absent_weights()
        try:
            data = load_dataset(
                self.dataset,
                self.data_root,
                split=self.split,
                limit=self.limit,
                labels=self.labels,
                on_error=self.on_error,
            )
        except FileNotFoundError as error:
            # Told at once, as the data takes a while to get.
            also = f"; {absent}" if absent else ""
            raise FileNotFoundError(f"data_root (--data-root): {error}{also}") from error
        # Untrained weights too are the same in every process and every run.
        try:
            model = _seeded(
                lambda: load_model(self.model_name, weights=self.weights, classes=len(data.classes))
            )
        except OSError as error:
            if not absent:
                raise
            raise OSError(f"{absent}: the download failed ({error})") from error
        model = replace(model, preprocessing=self._preprocessing(model.preprocessing))
        data.preprocessing = model.preprocessing
        return model, data

    def _absent_weights(self) -> str:
        """Says what is to be downloaded; empty if nothing is."""
        import torch

        from vision_bench.models.architectures.cifar import checkpoint_url

        if self.weights != "hub" or not self._published:
            return ""
        url = checkpoint_url(self._published)
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        name = url.rpartition("/")[2]
        if (folder / name).is_file():
            return ""
        return (
            f"weights='hub' (--weights): {name} is not in {folder} but at {url}; fetch it and give "
            "the file"
        )

    def _preprocessing(self, own: Any) -> Any:
        known = [entry.name for entry in fields(own)]
        for name in self.preprocessing:
            if name not in known:
                raise ValueError(
                    f"preprocessing holds {name!r}, which is none of {', '.join(known)}"
                )
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.preprocessing.items()
        }
        return replace(own, **values)


def read_settings(
    path: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None
) -> ClassifySettings:
    """Reads the config of a classification command.

    Args:
        path: The config file.
        overrides: Words such as "limit=100".
        output: Replaces the config's folder of results.

    Returns:
        The settings, checked as far as they can be without model and data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a setting is missing, unknown or not usable.
    """
    known = [entry.name for entry in fields(ClassifySettings)]
    values = read_required(
        path, overrides, known=known, required=("dataset", "model"), output=output
    )
    return ClassifySettings(**values)


def perturb_grid(steps: int, step: float | str) -> tuple[float, ...]:
    """Strengths 0, step, … as AIM counts them, in decimal.

    Args:
        steps: Number of strengths.
        step: From one to the next, in logit units.

    Raises:
        ValueError: If there are too few or too many, or the step is not above 0.

    >>> perturb_grid(4, 0.1)
    (0.0, 0.1, 0.2, 0.3)
    """
    if not 1 <= steps <= MAX_STRENGTHS:
        raise ValueError(f"num_perturb_steps={steps} is outside [1, {MAX_STRENGTHS}]")
    try:
        # Through its shortest decimal, as 3 · 0.1 is 0.30000000000000004 in binary.
        width = Decimal(str(step).strip())
    except InvalidOperation as error:
        raise ValueError(f"perturb_step={step!r} is not a number: give one such as 0.2") from error
    validate_strength(float(width), name="perturb_step")
    if steps > 1 and width <= 0:
        raise ValueError(f"perturb_step={step} is not above 0: all strengths would be the same")
    return tuple(float(index * width) for index in range(steps))


def chosen_classes(
    chosen: Sequence[str | int], names: Sequence[str], targets: Mapping[int, int] | None
) -> dict[int, str]:
    """The classes that get curves of their own.

    Args:
        chosen: Names or indices; none means all of a few classes.
        names: Names of all classes.
        targets: Targets of focus modulation, which come first.

    Returns:
        Names by index. Of classes that share a name, each has its index behind it.

    Raises:
        ValueError: If one is no class.
    """
    indices = list(targets or {})
    if not chosen and not indices and len(names) <= FEW_CLASSES:
        indices = list(range(len(names)))
    indices += [class_index(entry, names, "report_classes") for entry in chosen]
    unique = unique_names(names)
    return {index: unique[index] for index in indices}


def unique_names(names: Sequence[str]) -> list[str]:
    """Names of classes, with the index behind those that several share.

    >>> unique_names(["crane", "owl", "crane"])
    ['crane 0', 'owl', 'crane 2']
    """
    shared = (
        {name for name in set(names) if list(names).count(name) > 1} if _any_twice(names) else ()
    )
    return [f"{name} {index}" if name in shared else name for index, name in enumerate(names)]


def class_index(entry: str | int, names: Sequence[str], argument: str) -> int:
    """The index of a class given by name or index.

    Args:
        entry: The name or index; a number as text is an index unless a class has that name.
        names: Names of all classes.
        argument: Name of the argument, for the error.

    Raises:
        ValueError: If there is no such class.
    """
    if isinstance(entry, str) and entry in names:
        return list(names).index(entry)
    if isinstance(entry, str) and entry.strip().lstrip("-").isdigit():
        entry = int(entry)
    if isinstance(entry, bool) or not isinstance(entry, str | int):
        raise ValueError(f"{argument} holds {entry!r}: give a class's name or index")
    if isinstance(entry, int):
        if not 0 <= entry < len(names):
            raise ValueError(
                f"{argument} holds {entry}, outside the {len(names)} classes [0, {len(names)})"
            )
        return entry
    nearest = difflib.get_close_matches(entry, names, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(map(repr, nearest))}" if nearest else ": give an index"
    raise ValueError(f"{argument} holds {entry!r}, which is no class{hint}")


def _plain(name: str) -> str:
    """The name of a data set as in those of pytorch-cifar-models."""
    return name.lower().replace("-", "").replace("_", "")


def _any_twice(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def _seeded(build: Any) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()
