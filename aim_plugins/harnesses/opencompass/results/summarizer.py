"""Curves, tables and a report of every sweep in an OpenCompass config.

OpenCompass's own summary stays. Beside it `summary/sweep/<model>/` holds `sweep.csv`, `curves/` and
`report.html`, the same files that the sweep with lm-eval writes, and `strengths.csv`, a table of
strengths by data sets on OpenCompass's own scale.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from opencompass.summarizers import DefaultSummarizer
from opencompass.summarizers.default import model_abbr_from_cfg_used_in_summarizer
from opencompass.utils import dataset_abbr_from_cfg

from aim_plugins.core.files import write_atomic
from aim_plugins.core.identity import fingerprint
from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.config.check import type_name
from aim_plugins.harnesses.opencompass.config.content import data_content
from aim_plugins.harnesses.opencompass.config.entries import (
    canonical,
    combinations,
    entry_abbr,
    sweep_groups,
)
from aim_plugins.harnesses.opencompass.results.manifest import sweep_manifest
from aim_plugins.harnesses.opencompass.results.table import (
    Key,
    Measure,
    Sweep,
    chance_levels,
    measure,
    measure_expected,
    measure_expected_group,
    measure_group,
    split_sweeps,
    strengths_csv,
    tidy_rows,
    unify_scales,
)
from aim_plugins.harnesses.opencompass.results.texts import documents_shown, sample_texts
from aim_plugins.harnesses.opencompass.results.unnoted import (
    has_unnoted_result,
    has_verified_result,
    result_statistics,
)
from aim_plugins.sweep.documents import DocumentScores, decode_scores, score_array
from aim_plugins.sweep.front import Front, publish
from aim_plugins.sweep.manifest import MANIFEST, manifest_text
from aim_plugins.sweep.report_data import TextSample
from aim_plugins.sweep.table import pool_draws

_PRINTED_TASKS = 12
_TEMPLATE_KEYS = frozenset({"begin", "round", "end"})

Results = tuple[dict[str, Any], dict[str, Any], dict[str, list[str]], dict[str, str]]
"""OpenCompass's results: raw, parsed, metrics and mode of each data set."""


class SweepSummarizer(DefaultSummarizer):
    """Writes OpenCompass's summary, and the curves of every sweep.

    Args:
        config: The whole configuration.
        dataset_abbrs: Data sets and groups to list, as in `DefaultSummarizer`.
        summary_groups: Averages over data sets, as in `DefaultSummarizer`.
        prompt_db: Without effect, as in `DefaultSummarizer`, which warns of it.
    """

    model_cfgs: list[ConfigDict]
    dataset_cfgs: list[ConfigDict]
    model_abbrs: list[str]

    def __init__(
        self,
        config: ConfigDict,
        dataset_abbrs: list[Any] | None = None,
        summary_groups: Sequence[Mapping[str, Any]] = (),
        prompt_db: Any = None,
    ) -> None:
        super().__init__(config, dataset_abbrs, list(summary_groups), prompt_db)
        self._cells: dict[tuple[str, str], Cell] = {}
        self._pairs: set[tuple[str, str]] = set()
        self._statistics: dict[tuple[str, str], dict[str, Any]] = {}
        self._picked: Results = ({}, {}, {}, {})

    def summarize(self, output_path: str | None = None, time_str: str = "latest") -> None:
        """Writes all files and prints the curves as tables.

        Args:
            output_path: Where OpenCompass's own summary goes.
            time_str: Names OpenCompass's own summary.

        Raises:
            ValueError: If two entries share an abbr or a modulation.
        """
        groups = sweep_groups(self.model_cfgs)
        self._cells = self._shown_cells()
        self._statistics = self._read_statistics()
        self._picked = self._pick_up_entries()
        own, self.dataset_cfgs = self.dataset_cfgs, copy.deepcopy(self.dataset_cfgs)
        super().summarize(output_path, time_str)  # which moves settings while it hashes prompts
        self.dataset_cfgs = own
        measures = self._measures()
        for sweep in (sweep for group in groups for sweep in split_sweeps(group)):
            if any(measures[abbr] for abbr in sweep.abbrs):
                self._write_sweep(sweep, measures)
            else:
                self.logger.warning(f"{sweep.name}: there is no result yet")

    # Reading ------------------------------------------------------------------------------------

    def _shown_cells(self) -> dict[tuple[str, str], Cell]:
        """The cells whose results are not known to be of another configuration.

        Returns:
            The cells by entry and data set.
        """
        cells = {}
        for combination in combinations(self.cfg):
            models, datasets = combination["models"], combination["datasets"]
            for model, row in zip(models, Cell.table(self.work_dir, models, datasets), strict=True):
                for dataset, cell in zip(datasets, row, strict=True):
                    cells[entry_abbr(model), dataset_abbr_from_cfg(dataset)] = cell
        self._pairs = set(cells)
        shown = {
            names: cell
            for names, cell in cells.items()
            if cell.has_result() or has_unnoted_result(cell)
        }
        unknown = [names for names, cell in shown.items() if not has_verified_result(cell)]
        stale = [names for names in cells.keys() - shown.keys() if cells[names].result.exists()]
        if unknown:
            self.logger.warning(
                f"{len(unknown)} results, {'/'.join(min(unknown))} among them, come from "
                "OpenCompass's own tasks: they may be of another configuration; import infer and "
                "eval beside the summarizer to have that checked, and standard errors"
            )
        if stale:
            self.logger.warning(
                f"{len(stale)} results are left out, {'/'.join(min(stale))} among them: they were "
                "computed under another configuration; run the config again with -r and "
                "without -m viz"
            )
        if len(shown) < len(cells):
            self.logger.warning(f"{len(cells) - len(shown)} of {len(cells)} cells have no result")
        return shown

    def _read_statistics(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What is known of the documents behind each shown result."""
        datasets = {dataset_abbr_from_cfg(dataset): dataset for dataset in self.dataset_cfgs}
        return {
            names: result_statistics(cell, datasets.get(names[1], {}))
            for names, cell in self._cells.items()
        }

    def _pick_up_entries(self) -> Results:
        """OpenCompass's reading of the shown results, by entry."""
        models, datasets = self.model_cfgs, self.dataset_cfgs
        raw: dict[str, Any] = {}
        parsed: dict[str, Any] = {}
        metrics: dict[str, list[str]] = {}
        modes: dict[str, str] = {}
        try:
            for model in models:
                abbr = entry_abbr(model)
                self.model_cfgs = [model]
                self.dataset_cfgs = [
                    dataset
                    for dataset in datasets
                    if (abbr, dataset_abbr_from_cfg(dataset)) in self._cells
                ]
                own_raw, own_parsed, own_metrics, own_modes = super()._pick_up_results()
                (raw[abbr],), (parsed[abbr],) = own_raw.values(), own_parsed.values()
                for dataset, names in own_metrics.items():
                    # OpenCompass's table needs every metric in every entry.
                    known = metrics.get(dataset, names)
                    metrics[dataset] = [name for name in known if name in names]
                modes.update(own_modes)
        finally:
            self.model_cfgs, self.dataset_cfgs = models, datasets
        return raw, parsed, metrics, modes

    def _pick_up_results(self) -> Results:
        raw, parsed, metrics, modes = copy.deepcopy(self._picked)
        shown_raw: dict[str, Any] = {abbr: {} for abbr in self.model_abbrs}
        shown_parsed: dict[str, Any] = {abbr: {} for abbr in self.model_abbrs}
        for model in self.model_cfgs:
            shown = model_abbr_from_cfg_used_in_summarizer(model)
            shown_raw[shown].update(raw[entry_abbr(model)])
            shown_parsed[shown].update(parsed[entry_abbr(model)])
        return shown_raw, shown_parsed, metrics, modes

    def _measures(self) -> dict[str, dict[Key, Measure]]:
        """What each entry reached on each data set and group, averages first."""
        shown, self.model_abbrs = self.model_abbrs, list(self._picked[1])
        try:
            _, parsed, metrics, _ = self._calculate_group_metrics(*copy.deepcopy(self._picked))
        finally:
            self.model_abbrs = shown
        entries = {abbr: self._entry_measures(abbr) for abbr in self._picked[1]}
        unify_scales(list(entries.values()))
        defaults = {name: names[0] for name, names in metrics.items() if names}
        averages: dict[str, dict[Key, Measure]] = {abbr: {} for abbr in entries}
        for abbr, measures in entries.items():
            for group in self.summary_groups:
                for metric, value in parsed[abbr].get(group["name"], {}).items():
                    found = measure_group(group, metric, value, measures, defaults)
                    measures[group["name"], metric] = found
                    if metric == _group_metric(group):
                        averages[abbr][group["name"], metric] = found
                        law = measure_expected_group(group, metric, measures, defaults)
                        if law and found.scale:
                            averages[abbr][group["name"], f"{metric}_expected"] = law
        unify_scales(list(averages.values()))
        groups = {group["name"] for group in self.summary_groups}
        return {
            abbr: averages[abbr]
            | {key: found for key, found in measures.items() if key[0] not in groups}
            for abbr, measures in entries.items()
        }

    def _entry_measures(self, abbr: str) -> dict[Key, Measure]:
        _, parsed, metrics, _ = self._picked
        measures = {}
        for dataset_cfg in self.dataset_cfgs:
            dataset = dataset_abbr_from_cfg(dataset_cfg)
            values = parsed[abbr].get(dataset)
            if not values:
                continue
            statistics = self._statistics[abbr, dataset]
            for metric in sorted(values, key=lambda name: _place(metrics[dataset], name)):
                chance = chance_level(dataset_cfg) if metric == "accuracy" else None
                measures[dataset, metric] = measure(values[metric], statistics, metric, chance)
                if expected := measure_expected(statistics, metric):
                    measures[dataset, f"{metric}_expected"] = expected
        return measures

    # Writing ------------------------------------------------------------------------------------

    def _write_sweep(self, sweep: Sweep, measures: Mapping[str, dict[Key, Measure]]) -> None:
        folder = Path(self.work_dir, "summary", "sweep", sweep.name)
        folder.mkdir(parents=True, exist_ok=True)
        strengths = strengths_csv(sweep, measures, self._columns(sweep, measures))
        write_atomic(folder / "strengths.csv", strengths)
        entry = next(model for model in self.model_cfgs if entry_abbr(model) == sweep.abbrs[0])
        manifest = sweep_manifest(sweep, entry, self._datasets(sweep), folder / MANIFEST)
        write_atomic(folder / MANIFEST, manifest_text(manifest))
        rows = tidy_rows(sweep, measures)
        tasks = list(dict.fromkeys(row.task for row in rows))
        shown, more = tasks[:_PRINTED_TASKS], tasks[_PRINTED_TASKS:]
        rest = f", and {len(more)} more data sets in the table" if more else ""
        print(f"\n{sweep.name}{rest}\n")
        front = Front(
            rows,
            sweep.axes,
            chance=chance_levels(sweep, measures),
            texts=self._texts(sweep),
            printed=[point for point in pool_draws(rows) if point.task in shown],
            documents=self._documents(sweep),
        )
        publish(folder, front, manifest)

    def _datasets(self, sweep: Sweep) -> list[ConfigDict]:
        """The data sets that the config combines with a sweep's entries."""
        return [
            dataset
            for dataset in self.dataset_cfgs
            if any((abbr, dataset_abbr_from_cfg(dataset)) in self._pairs for abbr in sweep.abbrs)
        ]

    def _documents(self, sweep: Sweep) -> list[DocumentScores]:
        """What every document scores; a data set's documents are told by its content and place."""
        found = []
        for dataset_cfg in self._datasets(sweep):
            dataset, mark = dataset_abbr_from_cfg(dataset_cfg), documents_mark(dataset_cfg)
            for abbr, column, draw in sweep.entries():
                noted = self._statistics.get((abbr, dataset), {}).get("metrics", {})
                for metric, known in noted.items():
                    scores = score_array(known["scores"])
                    names = [f"{mark}-{number}" for number in range(len(scores))]
                    place = (dataset, metric, sweep.strengths(column), draw)
                    found.append(DocumentScores(*place, names, scores))
        return found

    def _columns(self, sweep: Sweep, measures: Mapping[str, dict[Key, Measure]]) -> dict[str, Key]:
        """The columns of the table of strengths: the metric that counts of each data set."""
        reached = {key: None for abbr in sweep.abbrs for key in measures[abbr]}
        names = [dataset_abbr_from_cfg(dataset) for dataset in self._datasets(sweep)]
        names += [name for name, _ in reached if name not in names]
        first = {name: (name, "") for name in names}
        first |= {key[0]: key for key in reversed(reached)}
        if not self.dataset_abbrs:
            return {name: first[name] for name in dict.fromkeys(names)}
        columns = {}
        for item in self.dataset_abbrs:  # among them headings, which name no data set
            if isinstance(item, str) and item in first:
                columns[item] = first[item]
            elif not isinstance(item, str) and item[0] in first:
                columns[f"{item[0]}:{item[1]}"] = (item[0], item[1])
        return columns

    def _texts(self, sweep: Sweep) -> dict[str, list[TextSample]]:
        """Generated texts of the first draw, by data set."""
        _, _, metrics, modes = self._picked
        datasets = [dataset_abbr_from_cfg(dataset) for dataset in self.dataset_cfgs]
        datasets = [dataset for dataset in datasets if modes.get(dataset) == "gen"]
        texts = {}
        for dataset in datasets:
            predictions, scores = {}, {}
            for abbr, column, draw in sorted(
                sweep.entries(), key=lambda entry: sweep.strengths(entry[1])[::-1]
            ):
                cell = self._cells.get((abbr, dataset))
                if draw != 0 or cell is None or not cell.prediction.exists():
                    continue
                strengths = sweep.strengths(column)
                predictions[strengths] = cell.prediction
                noted = self._statistics[abbr, dataset]["metrics"]
                found = noted.get(next(iter(metrics.get(dataset, ())), ""))
                scores[strengths] = decode_scores(found["scores"]) if found else []
            texts[dataset] = sample_texts(predictions, scores, documents_shown(len(datasets)))
        return texts


def chance_level(dataset_cfg: Mapping[str, Any]) -> float | None:
    """The accuracy that guessing reaches on a data set with named options.

    Args:
        dataset_cfg: A data set of a config.

    Returns:
        One over the number of options, or None where the config does not name them.
    """
    infer, evaluation = dataset_cfg.get("infer_cfg", {}), dataset_cfg.get("eval_cfg", {})
    options: Any = None
    if "PPLInferencer" in type_name(infer.get("inferencer", {}).get("type", "")):
        for name in ("prompt_template", "ice_template"):
            template = infer.get(name, {}).get("template")
            if isinstance(template, Mapping) and not _TEMPLATE_KEYS & template.keys():
                options = options or list(template)
    else:
        for name in ("evaluator", "pred_postprocessor"):
            options = options or evaluation.get(name, {}).get("options")
    return 1 / len(options) if isinstance(options, str | list | tuple) and options else None


def documents_mark(dataset_cfg: Mapping[str, Any]) -> str:
    """A text that tells a data set's documents from those of others, whatever is asked of them."""
    settings = canonical(dataset_cfg)
    for key in ("abbr", "infer_cfg", "eval_cfg"):
        settings.pop(key, None)
    return fingerprint([settings, data_content(settings)])[:8]


def _group_metric(group: Mapping[str, Any]) -> str:
    """What OpenCompass calls the average of a group over the metrics that count."""
    if "metric" in group:
        return group["metric"]
    kinds = {
        "std": "standard_deviation",
        "sum": "sum",
        "weights": "weighted_average",
        "harmonic_mean": "harmonic_mean",
    }
    return next((name for kind, name in kinds.items() if group.get(kind)), "naive_average")


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
