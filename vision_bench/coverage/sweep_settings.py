"""Settings of `vision-bench coverage sweep`: which change of the model, and its strengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aim_plugins.core.settings import Grid, SignedGrid, option
from aim_plugins.core.strengths import parse_strengths
from aim_plugins.transport.change import Transport
from aim_plugins.transport.vocabulary import existing_transport
from vision_bench.classifiers.settings import FocusSettings
from vision_bench.coverage.settings import CoverageSettings

_NOISE, _STRENGTHS = "0:4:0.5", "0:1:0.25"
"""Strengths where none are given."""


@dataclass(frozen=True)
class SweepSettings(FocusSettings, CoverageSettings):
    """What changes the model while its coverage is measured.

    Attributes:
        noise_std: Strengths of noise on the logits, in logit units, such as "0,1,2"; by default
            "0:4:0.5" where no transport is given.
        transport: Folder of learned maps of activations, which are applied in the place of noise.
        strength: Strengths of the transport; by default "0:1:0.25".
        force_transport: Applies maps that were learned on other weights.
        plot: Whether to draw pictures beside the report.
        output: Folder of results; by default runs/coverage-sweep/DATASET_MODEL.
    """

    noise_std: Grid | None = option(None, metavar="GRID")
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

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results("coverage-sweep", self.output)
