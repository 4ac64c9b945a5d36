"""What an OpenCompass run did not finish, and why: its exit status is 0 when tasks have failed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from opencompass.utils import dataset_abbr_from_cfg

from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.config.check import type_name
from aim_plugins.harnesses.opencompass.config.entries import combinations, entry_abbr, sweep_groups

_SWEEP_PARTITIONERS = {"SweepInferPartitioner", "SweepEvalPartitioner"}
_SHOWN_GROUPS = 20
_SHOWN_NAMES = 3

# "ValueError: ..." or "some.module.SomeError: ..." at the start of a line ends a traceback.
_RAISED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Failure)\b(?::.*)?$")
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# The logger puts file, function and line before the text of an error.
_RECORD = re.compile(
    r"\d\d/\d\d \d\d:\d\d:\d\d - OpenCompass - (?P<level>[A-Z]+) - "
    r"(?:\S+\.py - \S+ - \d+ - )?(?P<text>.*)"
)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


class MissingCell(NamedTuple):
    """A cell that a run did not finish.

    Attributes:
        entry: The model entry's abbr.
        dataset: The data set's abbr.
        stage: "infer" where it has no fresh prediction, else "eval" where it has no fresh result.
        log: The log of the task that should have computed it, None where there is none.
    """

    entry: str
    dataset: str
    stage: str
    log: Path | None


def missing_cells(
    cfg: Mapping[str, Any], stages: Collection[str] = ("infer", "eval"), since: float = 0.0
) -> list[MissingCell]:
    """Finds the cells that a run did not finish.

    Under our partitioners a stale file is a missing one; OpenCompass's own know files only.

    Args:
        cfg: The configuration as OpenCompass has dumped it, with the run's folder as `work_dir`.
        stages: The stages that should be finished.
        since: Modification time before which a log belongs to an earlier run in the same folder.

    Returns:
        The missing cells, each with the first stage that it lacks, in the order of the config.
    """
    stages = [stage for stage in stages if not _partitioner(cfg, stage).startswith("Subjective")]
    missing = []
    for combination in combinations(cfg):
        data_sets = combination["datasets"]
        for group in sweep_groups(combination["models"]):
            table = Cell.table(cfg["work_dir"], group.entries, data_sets)
            logs: dict[tuple[str, str], list[Path]] = {}
            for entry, row in zip(group.entries, table, strict=True):
                for data_set, cell in zip(data_sets, row, strict=True):
                    stage = next((s for s in stages if not _is_finished(cfg, s, cell)), None)
                    if stage is None:
                        continue
                    # One task computes a whole sweep, and its log has the name of its first cell.
                    sweep = _is_sweep(cfg, stage)
                    key = stage, "" if sweep else entry_abbr(entry)
                    if key not in logs:
                        entries = group.entries if sweep else (entry,)
                        logs[key] = _logs(Path(cfg["work_dir"], "logs", stage), entries, data_sets)
                        logs[key] = [log for log in logs[key] if log.stat().st_mtime >= since]
                    names = entry_abbr(entry), dataset_abbr_from_cfg(data_set)
                    missing.append(MissingCell(*names, stage, _most_telling(logs[key], names[1])))
    return missing


def describe_missing(cells: Sequence[MissingCell]) -> list[str]:
    """Says what is missing and why, in a few lines: many cells usually have one cause.

    Args:
        cells: The missing cells.
    """
    groups: dict[tuple[str, Path | None, str], list[MissingCell]] = {}
    for cell in cells:
        cause = "" if cell.log is None else last_error(cell.log, cell.dataset)
        groups.setdefault((cell.stage, cell.log, cause), []).append(cell)
    lines = []
    for (stage, log, cause), members in list(groups.items())[:_SHOWN_GROUPS]:
        entries = _count([cell.entry for cell in members], "entries")
        data_sets = _count([cell.dataset for cell in members], "data sets")
        see = f"see {log}" if log else "without a log (OpenCompass writes none under --debug)"
        lines.append(f"{entries} x {data_sets}: {stage} failed, {see}")
        if cause:
            lines.append(f"    {cause}")
    if len(groups) > _SHOWN_GROUPS:
        lines.append(f"and {len(groups) - _SHOWN_GROUPS} more failures")
    return lines


def last_error(log: Path, data_set: str) -> str:
    """The line of a log that says what went wrong.

    Args:
        log: The log of a task.
        data_set: The data set's abbr. A task of several data sets goes on after one has failed, so
            what its log says about this one is preferred to what it ends with.

    Returns:
        The last line that names an exception, or that the logger wrote as an error; empty if there
        is none, as in the log of a task that was killed.
    """
    own = [text for about, text in _errors(log) if _names(about, data_set)]
    return next(reversed(own or [text for _, text in _errors(log)]), "")


@cache
def _errors(log: Path) -> list[tuple[str, str]]:
    """Errors of a log, each with the logger's record that it follows or is."""
    errors, about, former = [], "", ""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        line = _COLOUR.sub("", line)
        if record := _RECORD.match(line):
            about = record["text"] if record["level"] == "ERROR" else ""
            if about:
                errors.append((about, about))
        elif _RAISED.match(line):
            errors.append((about, line))
            # Another traceback is about something else, unless it is chained to this one.
            about, former = "", about
        elif line.startswith(_CHAINED):
            about = former
    return errors


def _names(text: str, data_set: str) -> bool:
    return bool(re.search(rf"(?<![\w-]){re.escape(data_set)}(?![\w-])", text))


def _most_telling(logs: Sequence[Path], data_set: str) -> Path | None:
    """Of logs sorted from new to old, one with an error of the data set, with any error, or any."""
    about_it = (log for log in logs if any(_names(about, data_set) for about, _ in _errors(log)))
    return next(about_it, None) or next(filter(_errors, logs), None) or next(iter(logs), None)


def _partitioner(cfg: Mapping[str, Any], stage: str) -> str:
    return type_name(((cfg.get(stage) or {}).get("partitioner") or {}).get("type", ""))


def _is_sweep(cfg: Mapping[str, Any], stage: str) -> bool:
    return _partitioner(cfg, stage) in _SWEEP_PARTITIONERS


def _is_finished(cfg: Mapping[str, Any], stage: str, cell: Cell) -> bool:
    if _is_sweep(cfg, stage):
        return cell.has_prediction() if stage == "infer" else cell.has_result()
    # OpenCompass's own partitioners leave a data set in the parts they have cut it into.
    path = cell.prediction if stage == "infer" else cell.result
    return path.exists() or (stage == "infer" and cell.slice_path(0).exists())


def _logs(
    folder: Path, entries: Sequence[Mapping[str, Any]], data_sets: Sequence[Mapping[str, Any]]
) -> list[Path]:
    """The logs that tasks of these entries and data sets have written, new ones first."""
    names = [re.escape(dataset_abbr_from_cfg(data_set)) for data_set in data_sets]
    is_log = re.compile(rf"(?:{'|'.join(names)})(?:_\d+)?\.out")
    folders = [folder / entry_abbr(entry) for entry in entries]
    logs = [log for place in folders if place.is_dir() for log in place.rglob("*.out")]
    logs = [log for log in logs if is_log.fullmatch(log.name)]
    return sorted(logs, key=lambda log: log.stat().st_mtime, reverse=True)


def _count(names: Sequence[str], plural: str) -> str:
    different = list(dict.fromkeys(names))
    if len(different) == 1:
        return different[0]
    shown = ", ".join(different[:_SHOWN_NAMES])
    return f"{len(different)} {plural} ({shown}{', ...' if len(different) > _SHOWN_NAMES else ''})"
