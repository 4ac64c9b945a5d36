"""A learned transport on disk: the maps in a safetensors file, what is known of them in JSON.

`transport.safetensors` holds float32 vectors `<site>.scale`, `.shift`, `.support_min` and
`.support_max`; `transport.json` says what they were learned on and holds the SHA-256 of the other
file. Nothing is pickled. The JSON is written last, so a killed `save` leaves the old transport, the
new one, or a pair whose checksum differs, which `load` refuses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from aim_plugins.core.files import write_atomic
from aim_plugins.core.signature import (
    check_signature,
    check_sites,
    is_signature,
    model_signature,
)
from aim_plugins.core.strengths import format_strength
from aim_plugins.modulation.activations import ActivationMaps, AffineMap

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
TENSORS_FILE = "transport.safetensors"
METADATA_FILE = "transport.json"

_VECTORS = ("scale", "shift", "support_min", "support_max")


@dataclass(frozen=True)
class TransportMetadata:
    """What a transport was learned on, and how.

    Attributes:
        method: Name of the method: "linear", "gaussian", "mean", "aura", "actadd", "caa", "iti".
        base_model: Name or folder of the model.
        model_signature: Architecture and a sample of the weights, see `signature`.
        tokenizer_sha256: SHA-256 of the tokenizer's vocabulary and rules.
        sites: Module outputs with a map, in the order in which a forward pass reaches them.
        pooling: How the activations of a sentence were pooled over its tokens.
        positions: Which tokens are transported: "all" or "last".
        incremental: Whether each map was fitted on activations that the earlier maps transported.
        strength: Strength at which the earlier maps did that.
        support: Where the maps act: "none", "minmax", "qLO_HI" or "clip".
        n_source: Source sentences.
        n_target: Target sentences.
        constant_neurons: For each site, neurons whose activations never changed, where any.
        prompts_sha256: SHA-256 of the sentences of both sides.
        seed: Seed of whatever was drawn.
        versions: Versions of the packages that computed the maps.
        max_length: Longest sentence in tokens; None leaves them whole.
        batch_size: Sentences in a forward pass.
        schema_version: Version of this format.
    """

    method: str
    sites: Sequence[str]
    base_model: str = ""
    model_signature: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_sha256: str = ""
    pooling: str = "mean"
    positions: str = "all"
    incremental: bool = False
    strength: float = 1.0
    support: str = "none"
    n_source: int = 0
    n_target: int = 0
    constant_neurons: Mapping[str, int] = field(default_factory=dict)
    prompts_sha256: str = ""
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    batch_size: int | None = None
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def describe(
        cls, model: Any, tokenizer: Any, *, method: str, sites: Iterable[str], **fields: Any
    ) -> TransportMetadata:
        """Describes a transport learned on a loaded model.

        Args:
            model: The model; its name, architecture and a sample of its weights are noted.
            tokenizer: Its tokenizer, of which a checksum is noted; None where there is none.
            method: Name of the method.
            sites: The sites in the order of execution.
            **fields: Further attributes, such as `pooling` or `n_source`.
        """
        name = getattr(model, "name_or_path", "") or ""
        return cls(
            method=method,
            sites=list(sites),
            base_model=str(name),
            model_signature=model_signature(model),
            tokenizer_sha256="" if tokenizer is None else tokenizer_sha256(tokenizer),
            versions=_versions(),
            **fields,
        )

    @property
    def learned_strengths(self) -> tuple[float, float]:
        """Lowest and highest strength that the maps were learned for.

        Between 0 and 1 a map interpolates. Where later maps were learned on activations that
        earlier ones transported more strongly, or backwards, that strength was learned for as well.
        """
        reached = self.strength if self.incremental else 0.0
        return min(0.0, reached), max(1.0, reached)

    def warning_of(self, strengths: Iterable[float]) -> str:
        """What to warn of, given strengths to run at; empty where all were learned for."""
        low, high = self.learned_strengths
        outside = [one for one in dict.fromkeys(strengths) if not low <= one <= high]
        if not outside:
            return ""
        return (
            f"strength={', '.join(map(format_strength, outside))} lies outside {low:g} to {high:g},"
            " the strengths that the transport was learned for: its maps are extrapolated, and "
            "texts may break down"
        )


@dataclass(frozen=True)
class LearnedTransport:
    """Learned maps of activations together with where they come from.

    Attributes:
        maps: What an engine takes.
        metadata: What they were learned on.

    Raises:
        ValueError: If the two name different sites or positions, or a map is not a finite one of
            vectors of one length.
    """

    maps: ActivationMaps
    metadata: TransportMetadata

    def __post_init__(self) -> None:
        if list(self.metadata.sites) != list(self.maps.maps):
            raise ValueError(
                f"metadata.sites={list(self.metadata.sites)[:3]}... are not the maps' sites "
                f"{list(self.maps.maps)[:3]}... in the same order"
            )
        if self.metadata.positions != self.maps.positions:
            raise ValueError(
                f"metadata.positions={self.metadata.positions!r} is not the maps' "
                f"{self.maps.positions!r}"
            )
        if not self.maps.maps:
            raise ValueError("the transport has no sites: choose modules to transport")
        for site, one in self.maps.maps.items():
            _check_map(site, one)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sites, values and positions of the maps."""
        return self.maps.fingerprint

    def save(self, folder: str | Path) -> Path:
        """Writes the transport into a folder, replacing one that is there.

        Returns:
            The folder.

        Raises:
            OSError: If a file cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{site}.{name}": getattr(one, name).detach().float().cpu().contiguous().clone()
            for site, one in self.maps.maps.items()
            for name in _VECTORS
        }
        content = safetensors.torch.save(tensors, metadata={"format": "pt"})
        text = json.dumps(self._json(hashlib.sha256(content).hexdigest()), indent=2)
        write_atomic(folder / TENSORS_FILE, content)
        write_atomic(folder / METADATA_FILE, text + "\n")
        return folder

    def _json(self, tensors_sha256: str) -> dict[str, Any]:
        payload = dataclasses.asdict(self.metadata)
        payload["sites"] = [
            {"site": site, "neurons": len(one.scale), "clip": one.clip}
            for site, one in self.maps.maps.items()
        ]
        payload["fingerprint"] = self.fingerprint
        payload["tensors_sha256"] = tensors_sha256
        payload["model_signature"] = payload.pop("model_signature")  # last, since it is long
        return payload

    @classmethod
    def load(cls, folder: str | Path) -> LearnedTransport:
        """Reads a transport and checks that it is whole.

        Raises:
            ValueError: If a file is missing, cut short or altered, of another version of the
                format, or holds something else than finite maps of the sites it names.
        """
        folder = Path(folder)
        payload = _read_metadata(folder)
        tensors = _read_tensors(folder, str(payload["tensors_sha256"]))
        sites = payload["sites"]
        expected = {f"{entry['site']}.{name}" for entry in sites for name in _VECTORS}
        if differing := sorted(expected ^ tensors.keys()):
            raise ValueError(
                f"{folder / TENSORS_FILE} and {METADATA_FILE} name different sites (first: "
                f"{differing[0]!r}): they belong to different transports"
            )
        maps = {}
        for entry in sites:
            vectors = [tensors[f"{entry['site']}.{name}"] for name in _VECTORS]
            if wrong := [v for v in vectors if list(v.shape) != [entry["neurons"]]]:
                raise ValueError(
                    f"{folder / TENSORS_FILE}: a vector of {entry['site']!r} has the shape "
                    f"{list(wrong[0].shape)}, not [{entry['neurons']}]: fit the transport again"
                )
            scale, shift, support_min, support_max = (vector.float() for vector in vectors)
            maps[entry["site"]] = AffineMap(scale, shift, support_min, support_max, entry["clip"])
        fields = {one.name: payload[one.name] for one in dataclasses.fields(TransportMetadata)}
        fields["sites"] = list(maps)
        try:
            loaded = cls(
                ActivationMaps(maps, positions=payload["positions"]), TransportMetadata(**fields)
            )
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        if loaded.fingerprint != payload["fingerprint"]:
            raise ValueError(
                f"{folder / METADATA_FILE} was altered: its fingerprint does not fit its sites, "
                "clip and positions; fit the transport again"
            )
        return loaded

    def check_model(self, model: Any, tokenizer: Any = None, *, force: bool = False) -> None:
        """Checks that a model is the one the transport was learned on.

        Half precision counts as the same model, and PEFT and compile wrappers are looked through.
        Weights that cannot be read, since they are quantised or offloaded, are warned of.

        Args:
            model: The model.
            tokenizer: Its tokenizer; another one than at the fit is warned of.
            force: Warns instead of refusing another architecture or other weights, such as those
                of a fine-tune.

        Raises:
            ValueError: If the model lacks a site or a site has another width, whatever `force`
                says; or if architecture or weights differ.
        """
        widths = {site: len(one.scale) for site, one in self.maps.maps.items()}
        check_sites(model, widths, learned_on=self._learned_on())
        problem = check_signature(model, self.metadata.model_signature)
        if problem is not None:
            text = f"the transport was learned on {self._learned_on()}: {problem.message}"
            if problem.refused and not force:
                raise ValueError(f"{text}; load that model, or say force=True (--force) to go on")
            logger.warning(text)
        known = self.metadata.tokenizer_sha256
        if tokenizer is not None and known and tokenizer_sha256(tokenizer) != known:
            logger.warning("the transport was fitted with another tokenizer than this model's")

    def _learned_on(self) -> str:
        architecture = self.metadata.model_signature.get("architecture", "an unknown model")
        name = self.metadata.base_model
        return f"{architecture} {name!r}" if name else str(architecture)


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 of what makes a tokenizer split text as it does.

    Padding and truncation are left out: they change whenever a harness calls the tokenizer.
    """
    rules: dict[str, Any] = {"vocabulary": sorted(tokenizer.get_vocab().items())}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        state = json.loads(backend.to_str())
        rules |= {name: state.get(name) for name in ("normalizer", "pre_tokenizer", "model")}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _check_map(site: str, one: AffineMap) -> None:
    shapes = {name: tuple(getattr(one, name).shape) for name in _VECTORS}
    if len(set(shapes.values())) != 1 or len(shapes["scale"]) != 1 or not len(one.scale):
        raise ValueError(f"the map of {site!r} needs vectors of one length, not {shapes}")
    for name in ("scale", "shift"):
        if not bool(getattr(one, name).isfinite().all()):
            raise ValueError(
                f"{name} of {site!r} is not finite: fit the transport again without that site"
            )
    if not bool((one.support_min <= one.support_max).all()):
        raise ValueError(
            f"support of {site!r}: support_min must not exceed support_max, and neither may be NaN"
        )


def _read_metadata(folder: Path) -> dict[str, Any]:
    for name in (METADATA_FILE, TENSORS_FILE):
        if not (folder / name).is_file():
            raise ValueError(
                f"transport={str(folder)!r} has no file {name!r}: name the folder that "
                "`aim-plugins transport fit` wrote"
            )
    path = folder / METADATA_FILE
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # covers malformed JSON and malformed text
        raise ValueError(
            f"{path} is cut short or no JSON ({error}): fit the transport again"
        ) from error
    version = payload.get("schema_version") if isinstance(payload, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version={version!r}, this version reads {SCHEMA_VERSION}: use "
            "the version of aim-plugins that wrote it, or fit the transport again"
        )
    needed = {one.name for one in dataclasses.fields(TransportMetadata)}
    needed |= {"fingerprint", "tensors_sha256"}
    if missing := sorted(needed - payload.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}: fit the transport again")
    if not _well_formed(payload):
        raise ValueError(f"{path} holds values of other types than it should: fit again")
    return payload


def _well_formed(payload: Mapping[str, Any]) -> bool:
    sites = payload["sites"]
    return (
        isinstance(sites, list)
        and all(isinstance(entry, dict) for entry in sites)
        and all(
            isinstance(entry.get("site"), str)
            and isinstance(entry.get("neurons"), int)
            and isinstance(entry.get("clip"), bool)
            for entry in sites
        )
        and all(isinstance(payload[name], dict) for name in ("constant_neurons", "versions"))
        and is_signature(payload["model_signature"])
        and all(isinstance(payload[name], str) for name in ("method", "base_model", "positions"))
        and isinstance(payload["strength"], int | float)
    )


def _read_tensors(folder: Path, sha256: str) -> dict[str, torch.Tensor]:
    path = folder / TENSORS_FILE
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{path} is not the file that {METADATA_FILE} was written with (its SHA-256 differs): "
            "it was cut short, altered, or saving was interrupted; copy or fit it again"
        )
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}): fit it again") from error


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("aim-plugins", "torch", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
