"""Settings of `vision-bench coverage sweep`: which change of the model, and its strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aim_plugins.core.settings import Count, Grid, SignedGrid, option
from aim_plugins.core.strengths import parse_strengths
from aim_plugins.transport.change import Transport
from aim_plugins.transport.vocabulary import existing_transport
from vision_bench.coverage.settings import CoverageSettings
from vision_bench.data.classes import class_index

_NOISE, _STRENGTHS = "0:4:0.5", "0:1:0.25"
"""Strengths where none are given."""


@dataclass(frozen=True)
class SweepSettings(CoverageSettings):
    """What changes the model while its coverage is measured.

    Attributes:
        noise_std: Strengths of noise on the logits, in logit units, such as "0:4:0.5" or "0,1,2";
            those of the example if nothing is given.
        draws: Draws of the noise; draw d has the seed SEED + d.
        focus_target: Names or indices of the classes that focus modulation makes more likely; none
            for utility modulation, noise on all classes.
        focus_negative: Makes them less likely instead.
        transport: Folder of learned maps of activations, which are applied in the place of noise.
        strength: Strengths of the transport; by default "0:1:0.25".
        force_transport: Applies maps that were learned on other weights.
        plot: Whether to draw pictures beside the report.
        output: Folder of results; by default runs/coverage-sweep/DATASET_MODEL.
    """

    noise_std: Grid | None = option(None, metavar="GRID")
    draws: Count = 1
    focus_target: Sequence[str | int] = option((), metavar="CLASS")
    focus_negative: bool = False
    transport: str | None = None
    strength: SignedGrid | None = option(None, metavar="GRID")
    force_transport: bool = False
    plot: bool = True
    output: str | None = None

    def check(self) -> None:
        super().check()
        of_noise = {"noise_std": self.noise_std, "focus_target": list(self.focus_target)}
        of_noise["draws"] = self.draws if self.draws > 1 else None
        if self.transport is None and self.strength is not None:
            raise ValueError(
                f"strength={self.strength!r} is that of a transport: add its folder as transport, "
                "or give strengths of noise as noise_std"
            )
        if self.transport is not None:
            for name, value in of_noise.items():
                if value:
                    raise ValueError(
                        f"{name}={value!r} is of noise, but transport={self.transport!r} is given: "
                        "leave one of them out"
                    )
        if self.focus_negative and not self.focus_target:
            raise ValueError("focus_negative needs classes to act on: name them as focus_target")

    def check_files(self) -> None:
        super().check_files()
        if self.transport is not None:
            existing_transport(self.transport)

    @property
    def strengths(self) -> tuple[float, ...]:
        """Stds of the noise in logit units, or strengths of the transport."""
        if self.transport is None:
            return parse_strengths(_NOISE if self.noise_std is None else self.noise_std)
        return Transport.axis.parse(_STRENGTHS if self.strength is None else self.strength)

    def targets(self, names: Sequence[str]) -> dict[int, int] | None:
        """Target classes of focus modulation and their signs; None for utility modulation.

        Raises:
            ValueError: If one is no class or is named twice.
        """
        sign = -1 if self.focus_negative else 1
        indices = [class_index(entry, names, "focus_target") for entry in self.focus_target]
        if len(set(indices)) < len(indices):
            raise ValueError(f"focus_target={list(self.focus_target)} names a class twice")
        return {index: sign for index in indices} or None

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results("coverage-sweep", self.output)
