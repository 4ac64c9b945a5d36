"""Settings of the commands of `aim-plugins transport`; a config holds them for all of these.

A setting at the top of a config holds for every command that has it; the sections `fit`,
`condition`, `generate`, `evaluate` and `calibrate` hold those of one command. `evaluate` takes over
what `generate` says of the texts, and `calibrate` what both say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from aim_plugins.core.settings import Settings, read_settings
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.steering.settings.conditions import ConditionSettings
from aim_plugins.steering.settings.evaluation import EvaluationSettings, GenerateSettings
from aim_plugins.steering.settings.transports import FitSettings

_S = TypeVar("_S", bound=Settings)


SECTIONS: dict[str, type[Settings]] = {
    "fit": FitSettings,
    "condition": ConditionSettings,
    "generate": GenerateSettings,
    "evaluate": EvaluationSettings,
    "calibrate": CalibrationSettings,
}
"""The sections of a config."""


def read_sections(kind: type[_S], options: Mapping[str, Any], sections: Sequence[str] = ()) -> _S:
    """Reads the settings of a command from options, and from sections of a config if it takes one.

    Raises:
        ValueError: If a setting is missing, unknown or not usable.
    """
    if "generations" in options:  # texts that are there need not be written, as a config has it
        options = {"prompts": None, **options}
    return read_settings(
        kind,
        options.get("config"),
        options.get("cfg_options", ()),
        options,
        sections=SECTIONS,
        read=sections,
    )
