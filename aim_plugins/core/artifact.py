"""What was learned on a frozen model, on disk: tensors, and beside them where they come from.

A kind of artifact is a frozen dataclass of plain values that derives from `ArtifactMetadata`. Its
tensors lie in `KIND.safetensors`; `KIND.json` holds the metadata, the SHA-256 of the other file and
one of itself. Nothing is pickled. The JSON is written last, so a killed `save` leaves the old
artifact, the new one, or a pair whose checksum differs, which `load` refuses.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import hashlib
import json
import logging
import platform
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from aim_plugins.core.files import sha256_of, write_atomic
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.signature import Difference, check_signature, is_signature, model_signature

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Metadata = TypeVar("Metadata", bound="ArtifactMetadata")


@dataclass(frozen=True)
class ArtifactMetadata:
    """What is known of everything that was learned on a model.

    Attributes:
        KIND: What it is, in a word that also names its files and the arguments that take it.
        SCHEMA_VERSION: Version of its format, raised with every change of it.
        FORCIBLE: Whether it may be used with another model on request.
        IN_HARNESSES: Whether harnesses take it as an argument of its name.
        MADE_BY: What makes it, for errors.
        PACKAGES: Packages that compute it, whose versions are noted.
        method: Name of the method.
        sites: Places in the model that the tensors belong to, in the order of execution.
        base_model: Name or folder of the model.
        model_signature: Architecture and a sample of the weights, see `signature`.
        data_sha256: SHA-256 of what it was learned from.
        seed: Seed of whatever was drawn.
        versions: Versions of the packages that computed it.
    """

    KIND: ClassVar[str]
    SCHEMA_VERSION: ClassVar[int] = 1
    FORCIBLE: ClassVar[bool] = True
    IN_HARNESSES: ClassVar[bool] = True
    MADE_BY: ClassVar[str]
    PACKAGES: ClassVar[Sequence[str]] = ("aim-plugins", "torch", "transformers")

    method: str
    sites: Sequence[str]
    base_model: str = ""
    model_signature: Mapping[str, Any] = field(default_factory=dict)
    data_sha256: str = ""
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_model(
        cls: type[Metadata],
        model: Any,
        *,
        sites: Iterable[str],
        base_model: str | None = None,
        **fields: Any,
    ) -> Metadata:
        """Describes what was learned on a loaded model, of which name and weights are noted.

        Args:
            model: The model.
            sites: Places that the tensors belong to.
            base_model: Name or folder of the model; its own if None.
            **fields: Further attributes.
        """
        known = getattr(model, "name_or_path", "") if base_model is None else base_model
        return cls(
            sites=list(sites),
            base_model=str(known or ""),
            model_signature=model_signature(model),
            versions=_versions(cls.PACKAGES),
            **fields,
        )

    @property
    def learned_on(self) -> str:
        """The model in words."""
        architecture = str(self.model_signature.get("architecture", "an unknown model"))
        return f"{architecture} {self.base_model!r}" if self.base_model else architecture

    def check_model(self, model: Any, *, force: bool = False) -> None:
        """Checks that a model is the one this was learned on.

        Half precision counts as the same model, and PEFT and compile wrappers are looked through.
        Weights that cannot be read, since they are quantised or offloaded, are warned of.

        Args:
            model: The model.
            force: Warns instead of refusing another model, such as a fine-tune.

        Raises:
            ValueError: If architecture or weights differ.
        """
        self.refuse(check_signature(model, self.model_signature), force=force)

    def refuse(self, difference: Difference | None, *, force: bool = False) -> None:
        """Refuses a model for its difference from the one this was learned on, or warns of it.

        Raises:
            ValueError: If the difference is certain, unless forced.
        """
        if difference is None:
            return
        another = f"another model ({self.learned_on})"
        learned_on = another if difference.refused else self.learned_on
        text = f"the {self.KIND} was learned on {learned_on}: {difference.message}"
        if difference.refused and not force:
            mend = "load that model"
            if self.FORCIBLE:
                ways = "--force in a command"
                if self.IN_HARNESSES:
                    named = f"force_{self.KIND}=True in a harness, --force-{self.KIND} in a study"
                    ways = f"{named}, {ways}"
                mend += f", or give force=True ({ways}) to go on"
            raise ValueError(f"{text}; {mend}")
        logger.warning(text)


def artifact_files(folder: str | Path, kind: type[ArtifactMetadata]) -> tuple[Path, Path]:
    """The files of an artifact in a folder: the tensors, and the metadata."""
    return Path(folder, f"{kind.KIND}.safetensors"), Path(folder, f"{kind.KIND}.json")


def file_states(folder: Path, kind: type[ArtifactMetadata]) -> tuple[tuple[int, int], ...]:
    """Size and time of an artifact's files: others where it was written anew."""
    files = [file for file in artifact_files(folder, kind) if file.is_file()]
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def save(folder: str | Path, tensors: Mapping[str, Tensor], metadata: ArtifactMetadata) -> Path:
    """Writes an artifact into a folder, replacing one of its kind that is there.

    Returns:
        The folder.

    Raises:
        OSError: If a file cannot be written.
    """
    import safetensors.torch

    # A clone, since safetensors refuses tensors that share their memory.
    plain = {name: one.detach().cpu().contiguous().clone() for name, one in tensors.items()}
    content = safetensors.torch.save(plain, metadata={"format": "pt"})
    tensors_file, _ = artifact_files(folder, type(metadata))
    tensors_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(tensors_file, content)
    return write_metadata(folder, metadata, hashlib.sha256(content).hexdigest())


def write_metadata(folder: str | Path, metadata: ArtifactMetadata, tensors_sha256: str) -> Path:
    """Writes what is known of tensors, whose file lies in the folder: the artifact is whole.

    Args:
        folder: Where the tensors lie.
        metadata: What is known of them.
        tensors_sha256: SHA-256 of their file.

    Returns:
        The folder.

    Raises:
        OSError: If the file cannot be written.
    """
    payload: dict[str, Any] = {
        "kind": metadata.KIND,
        "schema_version": metadata.SCHEMA_VERSION,
        **dataclasses.asdict(metadata),
        "tensors_sha256": tensors_sha256,
    }
    payload["model_signature"] = payload.pop("model_signature")  # last, since it is long
    payload = {"sha256": fingerprint(payload), **payload}
    _, metadata_file = artifact_files(folder, type(metadata))
    write_atomic(metadata_file, json.dumps(payload, indent=2) + "\n")
    return metadata_file.parent


def load(
    folder: str | Path, kind: type[Metadata], name: str = ""
) -> tuple[dict[str, Tensor], Metadata]:
    """Reads an artifact and checks that it is whole.

    Args:
        folder: Where it lies.
        kind: Class of its metadata.
        name: The argument that named the folder, for errors; by default the kind's.

    Returns:
        The tensors, and what is known of them.

    Raises:
        ValueError: If a file is missing, cut short or altered, or of another kind or version.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    tensors_file, payload = _read_known(folder, kind, name or kind.KIND)
    content = tensors_file.read_bytes()
    _check_whole(tensors_file, hashlib.sha256(content).hexdigest(), payload, kind)
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        again = f"make it again with {kind.MADE_BY}"
        raise ValueError(f"{tensors_file} is no safetensors file ({error}): {again}") from error
    return tensors, _metadata_of(payload, kind)


def read_metadata(folder: str | Path, kind: type[Metadata]) -> tuple[Path, Metadata]:
    """Reads what is known of an artifact and checks that it is whole, without loading its tensors.

    Args:
        folder: Where it lies.
        kind: Class of its metadata.

    Returns:
        The file of the tensors, and what is known of them.

    Raises:
        ValueError: If a file is missing, cut short or altered, or of another kind or version.
    """
    tensors_file, payload = _read_known(folder, kind, kind.KIND)
    _check_whole(tensors_file, sha256_of(tensors_file), payload, kind)
    return tensors_file, _metadata_of(payload, kind)


def _read_known(
    folder: str | Path, kind: type[ArtifactMetadata], name: str
) -> tuple[Path, Mapping[str, Any]]:
    """The file of the tensors, which is there, and the checked JSON of what is known of them."""
    tensors_file, metadata_file = artifact_files(folder, kind)
    for path in (metadata_file, tensors_file):
        if not path.is_file():
            lacks = f"has no file {path.name!r}" if path.parent.is_dir() else "is no folder"
            raise ValueError(
                f"{name}={str(folder)!r} {lacks}: name the folder that {kind.MADE_BY} "
                "wrote, or run that first"
            )
    return tensors_file, _read_payload(metadata_file, kind, f"make it again with {kind.MADE_BY}")


def _check_whole(
    tensors_file: Path, sha256: str, payload: Mapping[str, Any], kind: type[ArtifactMetadata]
) -> None:
    if sha256 != payload["tensors_sha256"]:
        raise ValueError(
            f"{tensors_file} is not the file that {kind.KIND}.json was written with (its "
            "SHA-256 differs): it was cut short, altered, or saving was interrupted; copy it "
            f"again, or make it again with {kind.MADE_BY}"
        )


def _metadata_of(payload: Mapping[str, Any], kind: type[Metadata]) -> Metadata:
    return kind(**{one.name: payload[one.name] for one in dataclasses.fields(kind)})


def _read_payload(path: Path, kind: type[ArtifactMetadata], again: str) -> dict[str, Any]:
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # covers malformed JSON and malformed text
        raise ValueError(f"{path} is cut short or no JSON ({error}): {again}") from error
    known = payload if isinstance(payload, dict) else {}
    if (known.get("kind"), known.get("schema_version")) != (kind.KIND, kind.SCHEMA_VERSION):
        raise ValueError(
            f"{path} has kind={known.get('kind')!r} and schema_version="
            f"{known.get('schema_version')!r}, where this version of aim-plugins reads "
            f"{kind.KIND!r} and {kind.SCHEMA_VERSION}: use the version that wrote it, or {again}"
        )
    hints = typing.get_type_hints(kind) | {"sha256": str, "tensors_sha256": str}
    names = ["sha256", "tensors_sha256", *(one.name for one in dataclasses.fields(kind))]
    if missing := sorted(set(names) - known.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}: {again}")
    wrong = [name for name in names if not _fits(known[name], hints[name])]
    if wrong or not is_signature(known["model_signature"]):
        named = ", ".join(wrong or ["model_signature"])
        raise ValueError(f"{path} holds values of other types than it should ({named}): {again}")
    if fingerprint({name: known[name] for name in known if name != "sha256"}) != known["sha256"]:
        raise ValueError(f"{path} was altered (its SHA-256 differs): {again}")
    return known


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of JSON has the type of an annotation."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in inner)
    if origin is collections.abc.Sequence:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is collections.abc.Mapping:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
