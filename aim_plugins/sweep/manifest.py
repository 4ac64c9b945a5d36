"""The manifest of a sweep: what was asked for, and what it was computed with.

The arguments in it identify the sweep; a folder is resumed only by the same ones.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.files import is_temporary
from aim_plugins.core.strengths import Axis

MANIFEST = "manifest.json"
LOCK = ".lock"
AXES = "axes"
"""Field of what varies from cell to cell."""
OWN_FIELDS = frozenset({"format", "created", "arguments", "versions", AXES})
_FORMAT = 1

REDACTED = "***"
_SECRET_NAME = r"[\w.-]*(?:secret|password|api[_-]?key)[\w.-]*|[\w.-]*token"
_SECRET = re.compile(_SECRET_NAME, re.IGNORECASE)
# Words of a vocabulary, which determine results and hide nothing.
_SPECIAL_TOKEN = re.compile(
    r"(?:.*[_-])?(?:bos|eos|pad|unk|sep|cls|mask|start|begin|end|stop|image|prefix)[_-]token",
    re.IGNORECASE,
)
# A quoted key and its value as in JSON, and key=value up to the next comma.
_IN_TEXT = re.compile(
    rf"""(?P<quote>["'])(?P<quoted>{_SECRET_NAME})(?P=quote)\s*:\s*"""
    r"""(?P<json>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,}\]]+)"""
    rf"""|(?<![\w.-])(?P<name>{_SECRET_NAME})=(?P<value>[^,]*)""",
    re.IGNORECASE,
)
_SAYS_NOTHING = frozenset({"", "none", "null", "true", "false"})


class SweepMismatchError(ValueError):
    """The folder holds another sweep."""


def redact(value: Any) -> Any:
    """Hides the values of keys such as `token`, `hf_token`, `password` and `api_key`.

    Args:
        value: JSON, a list of a command's words, or text, in which `key=value` lists and JSON are
            searched. `eos_token` and its like are no secrets.

    Returns:
        A copy with `***` for every secret; redacting it again changes nothing.

    >>> redact({"model_args": {"pretrained": "gpt2", "token": "hf_x"}})
    {'model_args': {'pretrained': 'gpt2', 'token': '***'}}
    >>> redact(["--model-args", "pretrained=gpt2,token=hf_x,dtype=float32"])
    ['--model-args', 'pretrained=gpt2,token=***,dtype=float32']
    """
    if isinstance(value, Mapping):
        return {
            name: _hide(item) if _is_secret(str(name)) else redact(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        previous = [None, *value]
        return [
            _hide(item) if _is_option_of_secret(option) else redact(item)
            for option, item in zip(previous, value, strict=False)
        ]
    return _IN_TEXT.sub(_redact_match, value) if isinstance(value, str) else value


def _is_secret(name: str) -> bool:
    return bool(_SECRET.fullmatch(name)) and not _SPECIAL_TOKEN.fullmatch(name)


def _is_option_of_secret(word: Any) -> bool:
    return isinstance(word, str) and word.startswith("--") and _is_secret(word)


def _hide(value: Any) -> Any:
    return value if str(value).lower() in _SAYS_NOTHING else REDACTED


def _redact_match(match: re.Match[str]) -> str:
    if not _is_secret(match["quoted"] or match["name"]):
        return match[0]
    if match["name"]:
        return f"{match['name']}={_hide(match['value'])}"
    start = match.start("json") - match.start()
    if _hide(match["json"]) != REDACTED:
        return match[0]
    quote = match["quote"]
    return f"{match[0][:start]}{quote}{REDACTED}{quote}"


def refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output={str(folder)!r} is a file: choose a folder")
    if not folder.exists() or (folder / MANIFEST).exists():
        return
    # A run killed before its first manifest leaves only these.
    foreign = sorted(
        path.name for path in folder.iterdir() if path.name != LOCK and not is_temporary(path)
    )
    if foreign:
        raise SweepMismatchError(
            f"output={str(folder)!r} holds files but no sweep (first: {foreign[0]!r}): "
            "choose a new or empty folder"
        )


def refuse_mismatch(folder: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    absent = "(absent)"
    differing = [
        f"{name}: {_show(held.get(name, absent))} there, {_show(asked.get(name, absent))} now"
        for name in sorted(held.keys() | asked.keys())
        # As text, where NaN equals itself.
        if json.dumps(held.get(name, absent), sort_keys=True)
        != json.dumps(asked.get(name, absent), sort_keys=True)
    ]
    if differing:
        raise SweepMismatchError(
            f"output={str(folder)!r} holds another sweep ({'; '.join(differing)}): "
            "choose another folder, or repeat that sweep's arguments to resume it"
        )


def _show(value: Any) -> str:
    text = value if value == "(absent)" else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def new_manifest(
    arguments: dict[str, Any], versions: Mapping[str, str] | None, axes: Sequence[Axis]
) -> dict[str, Any]:
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {
        "format": _FORMAT,
        "created": created,
        "arguments": arguments,
        "versions": dict(versions or {}),
        AXES: [axis.to_json() for axis in axes],
    }


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not manifest.keys() >= OWN_FIELDS:
            raise ValueError(f"it lacks one of {', '.join(sorted(OWN_FIELDS))}")
    except ValueError as error:  # covers malformed JSON and malformed text
        raise SweepMismatchError(
            f"{path} is not a sweep's manifest ({error}): choose another folder"
        ) from error
    if manifest["format"] != _FORMAT:
        raise SweepMismatchError(
            f"{path} has the format {manifest['format']!r}, this version reads {_FORMAT}: "
            "choose another folder, or use the version that wrote it"
        )
    return manifest


def manifest_text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=True) + "\n"
