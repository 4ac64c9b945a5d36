"""Settings of the command that learns a condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aim_plugins.core.files import refuse_filled
from aim_plugins.core.settings import option
from aim_plugins.modulation.sites import compile_site
from aim_plugins.steering.settings.model import ModelSettings
from aim_plugins.steering.settings.transports import SentenceSettings


@dataclass(frozen=True, kw_only=True)
class ConditionSettings(ModelSettings, SentenceSettings):
    """How a condition is learned: source are prompts that it should not hold of, target the others.

    Attributes:
        output: Folder for the condition.
        layers: Modules at whose output prompts are looked at, one of which is chosen, by patterns;
            by default the layers, whose outputs are the residual stream.
        summary: What is looked at: the mean over a prompt's tokens, or its last token.
        chat: Whether prompts go through the chat template first, as a user's turn.
        paired: Whether lines at the same places of both files are partners, alike but for what the
            condition is about; else each prompt is compared with each of the other side.
        seed: Of that draw; by default the data's, or 0.
    """

    output: Path = option(short="-o", metavar="DIR")
    layers: Sequence[str] = option((r"(.*\.)?(layers|h|blocks)\.\d+",), metavar="REGEX")
    summary: Literal["mean", "last"] = "mean"
    chat: bool = False
    paired: bool = False
    seed: int | None = None

    def check(self) -> None:
        super().check()
        if not self.has_sentences:
            raise ValueError("the prompts are missing: add --source FILE --target FILE")
        if self.paired and (reason := self.why_unpaired):
            raise ValueError(f"--paired takes partners, and {reason}: leave one of both out")
        for pattern in self.layers:
            compile_site(pattern)

    def check_files(self) -> None:
        super().check_files()
        refuse_filled(self.output)
