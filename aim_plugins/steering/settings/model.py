"""The model that is steered, which most commands load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aim_plugins.core.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """The model.

    Attributes:
        pretrained: A name on the hub, a local folder, or "demo:smollm2".
        dtype: Type of its weights, such as float32 or bfloat16; "auto" keeps the checkpoint's.
        device: Where it runs, such as cpu or cuda:1; by default an accelerator if there is one.
        trust_remote_code: Whether code that comes with a model may run.
    """

    pretrained: str = option(metavar="MODEL")
    dtype: str = "auto"
    device: str | None = None
    trust_remote_code: bool = False

    @property
    def loading(self) -> dict[str, Any]:
        """How `load_engine` loads it."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "trust_remote_code": self.trust_remote_code,
        }
