"""`act_vllm`: lm-evaluation-harness's vLLM backend with transported activations.

    lm_eval --model act_vllm --model_args pretrained=MODEL,transport=DIR,strength=0:1:0.1 \\
        --tasks gsm8k --batch_size auto

It is `aim_vllm` with the maps of `act_hf` besides: all strengths decode in one continuous batch.
"""

from __future__ import annotations

import logging
from typing import Any

from aim_plugins.engines.vllm.checkpoint import check_checkpoint
from aim_plugins.harnesses.lm_eval.transport import TransportArguments, transport_folder
from aim_plugins.harnesses.lm_eval.vllm import AimVLLM
from aim_plugins.transport.artifact import LearnedTransport, tokenizer_sha256

logger = logging.getLogger(__name__)


class ActVLLM(TransportArguments, AimVLLM):
    """A causal language model of vLLM whose activations are transported by learned maps.

    Args:
        pretrained: As for `vllm`: the model that the maps were learned on.
        transport: Folder of the maps, as `aim-plugins transport fit` wrote it.
        strength: Strength λ of the transport: a number, a list, or a grid such as "0:1:0.1". 1
            applies the maps as they were learned.
        force_transport: Runs the maps on other weights than they were learned on, with a warning.
        **kwargs: Every other argument of `aim_vllm`, so noise on the logits as well, and of `vllm`.

    Attributes:
        transport: The maps, and where they come from.

    Raises:
        ValueError: If the transport is missing, damaged or of another model, vLLM cannot run it, a
            strength is not finite or given twice, or strengths of the noise vary as well.

    Source: arXiv 2410.23054, eq. 4.
    """

    def __init__(self, pretrained: str, transport: Any = None, **kwargs: Any) -> None:
        self._checkpoint: dict[str, Any] = {
            "model": pretrained,
            **{name: kwargs.get(name) for name in ("revision", "download_dir")},
        }
        super().__init__(pretrained, transport, **kwargs)
        known = self.transport.metadata.tokenizer_sha256
        if known and tokenizer_sha256(self.tokenizer) != known:
            logger.warning("the transport was fitted with another tokenizer than this model's")

    def _transport_arguments(self) -> dict[str, Any]:
        if isinstance(self._transport, LearnedTransport):
            raise ValueError(
                "transport= holds maps, which vLLM's workers read from a folder: write one with "
                "transport.save(DIR), and give transport=DIR"
            )
        folder = transport_folder(self._transport)
        if not self._force:
            check_checkpoint(transport=self.transport, **self._checkpoint)
        return {"transport": folder, "force_transport": self._force}
