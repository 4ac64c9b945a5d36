"""What vLLM runs at its start where aim-plugins is installed: the refusal of silent failures.

vLLM admits a request before it knows whether the engine's logits processors will run. Under
speculative decoding processors of the first model runner are left out without a word, and a request
for noise would get none. `register` therefore lets the check at admission, which answers a client
with status 400, look at the engine's configuration too.
"""

from __future__ import annotations

import functools
from typing import Any

from aim_plugins.engines.vllm.parameters import PREFIX


def register() -> None:
    """Entry point of the group `vllm.general_plugins`; a second call changes nothing.

    Raises:
        ImportError: If this release of vLLM keeps its check elsewhere.
    """
    from vllm.v1.engine.input_processor import InputProcessor

    from aim_plugins.engines.vllm.versions import changed_interface, require_supported

    require_supported()
    original = InputProcessor.__init__
    if getattr(original, "refuses_unmodulated", False):
        return

    @functools.wraps(original)
    def initialize(self: Any, vllm_config: Any, *arguments: Any, **options: Any) -> None:
        original(self, vllm_config, *arguments, **options)
        validate = getattr(self, "validate_logits_processors_params", None)
        if validate is None:
            raise changed_interface("InputProcessor.validate_logits_processors_params")
        reason = why_not(vllm_config)

        def validate_request(sampling_params: Any) -> None:
            validate(sampling_params)
            if reason and any(name.startswith(PREFIX) for name in sampling_params.extra_args or {}):
                from vllm.exceptions import VLLMValidationError

                raise VLLMValidationError(reason)

        self.validate_logits_processors_params = validate_request

    initialize.refuses_unmodulated = True  # type: ignore[attr-defined]
    InputProcessor.__init__ = initialize


def why_not(vllm_config: Any) -> str | None:
    """Why an engine with this configuration cannot modulate; None if it can."""
    model = vllm_config.model_config
    if vllm_config.speculative_config is not None:
        return (
            "this engine decodes speculatively, where vLLM leaves logits processors out: "
            "modulation would be silently off; start vLLM without speculative_config "
            "(--speculative-config)"
        )
    if getattr(model, "is_encoder_decoder", False):
        return (
            "this model is an encoder-decoder, whose noise would have to be keyed by its source "
            "text as well; modulate a causal language model"
        )
    if getattr(model, "enable_prompt_embeds", False):
        return (
            "this engine takes prompts as embeddings, and keyed noise needs their token ids; start "
            "vLLM without enable_prompt_embeds (--enable-prompt-embeds)"
        )
    if (
        not vllm_config.use_v2_model_runner
        and vllm_config.scheduler_config.async_scheduling
        and not model.logits_processors
    ):
        return (
            "this engine schedules asynchronously and shows installed logits processors "
            "placeholders in place of tokens; start vLLM with async_scheduling=False "
            "(--no-async-scheduling), or with --logits-processors "
            "aim_plugins.engines.vllm.processor:GaussianNoiseVLLMProcessor"
        )
    return None
