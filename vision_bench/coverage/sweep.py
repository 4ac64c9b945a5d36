"""`vision-bench coverage sweep`: coverage against the strength of a change of the classifier.

OUTPUT/
  sweep.csv         every criterion and the accuracy, by strength and draw
  curves/           pictures
  report.html
  manifest.json
  reference/        what the criteria know of the training set
  profiles/         what the suite exercises at each strength and draw
  records/          finished strengths, from which a killed run goes on
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.results import show_value, unit_of
from aim_plugins.coverage.strength_pictures import draw_strengths
from aim_plugins.modulation.noise import NOISE_VERSION
from aim_plugins.sweep.cells import Cell
from aim_plugins.sweep.front import Front
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import Study
from aim_plugins.sweep.table import Row, pool_draws
from aim_plugins.transport.change import read_transport
from vision_bench.coverage.learn import (
    measured_with,
)
from vision_bench.coverage.modulated import Modulated, NoisyLogits, TransportedActivations
from vision_bench.coverage.strengths import Measured, StrengthMeasurement
from vision_bench.coverage.subject import first_image
from vision_bench.coverage.suite_study import OfReference
from vision_bench.coverage.sweep_settings import SweepSettings
from vision_bench.focus import describe_focus

ACCURACY = "acc"


class CoverageSweep(OfReference, Study):
    """A suite's coverage at many strengths.

    Args:
        settings: Model, data, criteria, and what changes the model.
        command: The words that repeat it, for the report.

    Attributes:
        measured: Coverage by strength and draw; known after `run`.
    """

    def __init__(self, settings: SweepSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder
        self.measured: Mapping[Cell, Measured] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        found = {"command": "coverage sweep", **measured_with(settings)}
        if settings.transport is not None:
            return {**found, "change": "transport", "strength": settings.strengths}
        found |= {"change": "noise", "noise_std": settings.strengths, "draws": settings.draws}
        found |= {"noise_version": NOISE_VERSION}
        if settings.focus_target:
            sign = "-" if settings.focus_negative else "+"
            found["focus"] = {str(target): sign for target in settings.focus_target}
        return found

    @property
    def axes(self) -> tuple[Axis, ...]:  # type: ignore[override]
        return (self.modulated.axis,)

    def load(self) -> None:
        settings = self.settings
        self.load_with_reference(settings)
        self.targets = settings.targets(self.suite.classes)
        self.pinned: dict[str, Any] = {}
        self.modulated = self._transport() if settings.transport is not None else self._noise()

    def _noise(self) -> Modulated:
        settings = self.settings
        noisy = NoisyLogits(
            self.subject,
            settings.strengths,
            first_image(self.suite),
            draws=settings.draws,
            seed=settings.seed,
            targets=self.targets,
            names=self.suite.classes,
        )
        if noisy.place is None:
            say(
                "no layer that is looked at returns the logits: noise changes the predicted class "
                "alone"
            )
        return noisy

    def _transport(self) -> Modulated:
        settings = self.settings
        learned, _ = read_transport(settings.transport)
        learned.check_model(self.subject.named, force=settings.force_transport)
        low, high = learned.metadata.learned_strengths
        if outside := [one for one in settings.strengths if not low <= one <= high]:
            say(
                f"strength={', '.join(map(format_strength, outside))} lies outside {low:g} to "
                f"{high:g}, for which the transport was learned: its maps are extrapolated"
            )
        self.pinned["transport_fingerprint"] = learned.fingerprint
        return TransportedActivations(self.subject, learned.maps, settings.strengths)

    def measure(self, store: SweepStore) -> None:
        self.note_suite(store, **self.pinned)
        store.update_manifest(transport=self.settings.transport)
        reference = self.learned(store, self.settings)
        measurement = StrengthMeasurement(
            self.modulated, self.subject, reference, self.settings, store
        )
        self.measured = measurement.measure(self.suite, self.positions)
        self.units = {
            label: unit_of(one) for label, one in make_criteria(reference, self.settings).items()
        }
        self.tell_left_out(store)

    def front(self, store: SweepStore) -> Front:
        rows = self._rows()
        points = pool_draws(rows)
        pictures = draw_strengths(points, self.axes[0], ACCURACY) if self.settings.plot else {}
        return Front(
            rows,
            self.axes,
            subject=self.subject.model.describe_weights(),
            change=describe_focus(self.targets, self.suite.classes),
            overview=self._overview(pictures.get("png")),
            pictures={f"coverage-and-accuracy.{kind}": one for kind, one in pictures.items()},
            drawn=None if self.settings.plot else [],
            printed=[point for point in points if point.metric == ACCURACY],
        )

    def _rows(self) -> list[Row]:
        """The accuracy at every strength and draw, then every criterion."""
        task, rows, right = self.suite.title, [], []
        for draw in range(max(1, self.modulated.draws)):
            for strength in self.settings.strengths:
                one = self._at(strength, draw)
                named = draw if self.modulated.draws else None
                rows += [
                    Row(task, label, strength, named, value, None, one.inputs)
                    for label, value in one.values.items()
                ]
                share = one.correct / one.inputs
                error = math.sqrt(share * (1 - share) / one.inputs)
                right.append(Row(task, ACCURACY, strength, named, share, error, one.inputs))
        order = {label: place for place, label in enumerate(self.units)}
        return right + sorted(rows, key=lambda row: order[row.metric])

    def _at(self, strength: float, draw: int) -> Measured:
        """What was measured; at strength 0 all draws are one."""
        return self.measured[Cell(strength, draw if strength else 0)]

    def _overview(self, picture: bytes | None) -> Overview:
        """Each criterion at the first, the middle and the last strength."""
        strengths = sorted(self.settings.strengths)
        shown = [strengths[place] for place in sorted({0, len(strengths) // 2, len(strengths) - 1})]
        points = {(point.metric, point.strength): point.value for point in pool_draws(self._rows())}
        first = self._at(shown[0], 0)
        rows = []
        for label in [ACCURACY, *self.units]:
            unit = "share" if label == ACCURACY else self.units[label]
            most = 1.0 if label == ACCURACY else first.ceilings[label]
            values = [show_value(points[label, strength], unit) for strength in shown]
            rows.append([label, *values, show_value(most, unit)])
        symbol = self.axes[0].symbol
        columns = [f"{symbol}={format_strength(strength)}" for strength in shown]
        return Overview(
            "Coverage beside accuracy",
            self._note(),
            pictures={} if picture is None else {"coverage and accuracy by strength": picture},
            columns=["criterion", *columns, "at most"],
            rows=rows,
        )

    def _note(self) -> str:
        """How to read it, by what is changed."""
        if self.settings.transport is not None:
            return (
                "The suite and what the criteria know of the training set stay the same; the "
                "classifier's activations move. Where coverage rises while accuracy falls, a high "
                "value does not speak for the suite."
            )
        layer = "the layer that returns them and " if self._sees_logits() else ""
        return (
            f"Noise on the logits changes {layer}the predicted class, and nothing before: criteria "
            "that look at neither stay as they are. Where coverage rises while accuracy falls, a "
            "high value does not speak for the suite."
        )

    def _sees_logits(self) -> bool:
        return isinstance(self.modulated, NoisyLogits) and self.modulated.place is not None
