"""`act_hf`: lm-evaluation-harness's Hugging Face backend with transported activations.

    lm_eval --model act_hf --model_args pretrained=MODEL,transport=DIR,strength=0.5 --tasks gsm8k

It is `aim_hf` with learned maps on activations besides, so noise may stand beside them.
`TransportArguments` is what it shares with `act_vllm`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aim_plugins.engines.engine import Modulation, modulation_columns
from aim_plugins.engines.huggingface import warn_once
from aim_plugins.harnesses.lm_eval.huggingface import AimHFLM
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.transport.artifact import LearnedTransport

DEFAULT_STRENGTH = 1.0
"""The maps as they were learned."""


def load_transport(transport: object) -> LearnedTransport:
    """Reads the transport that the argument of that name names.

    Args:
        transport: A folder that `aim-plugins transport fit` wrote, or a transport itself.

    Raises:
        ValueError: If it is missing, no such folder, or damaged.
    """
    if isinstance(transport, LearnedTransport):
        return transport
    return LearnedTransport.load(transport_folder(transport))


def transport_folder(transport: object) -> Path:
    """The folder that the argument `transport` names.

    Raises:
        ValueError: If it is missing, or no folder.
    """
    if transport is None or transport == "":
        raise ValueError(
            "transport= is missing: name the folder that `aim-plugins transport fit` wrote, as in "
            "--model_args pretrained=MODEL,transport=DIR"
        )
    # The harness reads a folder's name made of digits as a number.
    name = os.fspath(transport) if isinstance(transport, os.PathLike) else str(transport)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"transport={name!r} is no folder: name the one that `aim-plugins transport fit` wrote"
        )
    return folder


class TransportArguments:
    """What makes a class of `aim_hf`'s kind one for transports; it stands before that class.

    Args:
        pretrained: As for the class behind it: the model that the maps were learned on.
        transport: Folder of the maps, as `aim-plugins transport fit` wrote it.
        strength: Strength λ of the transport: a number, a list, or a grid such as "0:1:0.1".
        force_transport: Runs the maps on other weights than they were learned on, with a warning.
        **kwargs: Every argument of the class behind it.

    Attributes:
        transport: The maps, and where they come from.

    Raises:
        ValueError: If the transport is missing or damaged.
    """

    takes_transport = True

    def __init__(
        self,
        pretrained: Any,
        transport: Any = None,
        strength: Any = DEFAULT_STRENGTH,
        force_transport: bool = False,
        **kwargs: Any,
    ) -> None:
        self.transport = load_transport(transport)
        self._transport = transport
        self._strength = strength
        self._force = force_transport
        super().__init__(pretrained, **kwargs)  # type: ignore[call-arg]

    def _modulations(self, *noise: Any) -> tuple[Modulation, ...]:
        columns = modulation_columns(
            *noise, strength=self._strength, transport=self.transport.fingerprint
        )
        strengths = [column.transport_strength for column in columns]
        if warning := self.transport.metadata.warning_of(strengths):
            warn_once(warning)
        return columns

    def get_model_info(self) -> dict[str, Any]:
        """The harness's record of the model, with the modulation and the transport."""
        info: dict[str, Any] = super().get_model_info()  # type: ignore[misc]
        return info | {"transport_fingerprint": self.transport.fingerprint}


class ActHFLM(TransportArguments, AimHFLM):
    """A causal language model whose activations are transported by learned maps.

    Args:
        pretrained: As for `hf`: the model that the maps were learned on.
        transport: Folder of the maps, as `aim-plugins transport fit` wrote it.
        strength: Strength λ of the transport: a number, a list, or a grid such as "0:1:0.1". 0
            gives the results of `hf`, to the bit; 1 applies the maps as they were learned.
        force_transport: Runs the maps on other weights than they were learned on, with a warning.
        **kwargs: Every other argument of `aim_hf`, so noise on the logits as well, and of `hf`.

    Attributes:
        transport: The maps, and where they come from.

    Raises:
        ValueError: If the transport is missing, damaged or of another model, a strength is not
            finite or given twice, or strengths of the noise vary as well.

    Source: arXiv 2410.23054, eq. 4.
    """

    def _activation_maps(self) -> ActivationMaps:
        try:
            self.transport.check_model(self.model, self.tokenizer, force=self._force)
        except ValueError as error:
            mend = str(error).replace("force=True (--force)", "force_transport=True")
            raise ValueError(f"transport= does not fit pretrained=: {mend}") from error
        return self.transport.maps
