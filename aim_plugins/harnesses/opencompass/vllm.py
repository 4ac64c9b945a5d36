"""The models for OpenCompass run by vLLM: the same entries, all strengths in one batch.

    from aim_plugins.harnesses.opencompass import VLLMNoiseModel
    models = [
        dict(
            type=VLLMNoiseModel,
            path=...,
            model_kwargs=dict(tensor_parallel_size=2, gpu_memory_utilization=0.8),
            generation_kwargs=dict(noise_std=x / 10),
        )
        for x in range(16)
    ]

Prompts, chat templates, stop words and scores are those of the Hugging Face models, whose code
tokenises and decodes here too; vLLM is given tokens. It is imported when a model is loaded.

Source: arXiv 2603.12755, utility modulation; arXiv 2410.23054, eq. 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opencompass.models import HuggingFaceBaseModel, HuggingFacewithChatTemplate
from opencompass.registry import MODELS
from transformers import AutoConfig

from aim_plugins.engines.engine import Journal
from aim_plugins.engines.vllm.versions import require_supported
from aim_plugins.harnesses.opencompass.columns import ColumnAnswers, TextScores
from aim_plugins.harnesses.opencompass.run.replay import AnswerTable
from aim_plugins.modulation.columns import Column

if TYPE_CHECKING:
    from aim_plugins.engines.vllm.engine import VLLMEngine


_ADAPTERS = ("peft_path", "lora_path")


class _RunByVLLM(ColumnAnswers):
    """Answers with an engine of vLLM; the other bases only tokenise and decode."""

    generation_kwargs: dict[str, Any]

    def __init__(self, path: str, *args: Any, **settings: Any) -> None:
        for name in _ADAPTERS:
            if settings.get(name) is not None:
                raise ValueError(
                    f"{name}={settings[name]!r} is not for {type(self).__name__}: merge the "
                    "adapter into the weights, or use HuggingFaceNoiseModel or HuggingFaceAcTModel"
                )
        super().__init__(path, *args, **settings)
        # As OpenCompass has it of a model of transformers, whatever the model's own config says.
        self.generation_kwargs.setdefault("do_sample", False)

    def _load_tokenizer(self, path: str, *args: Any, **kwargs: Any) -> None:
        super()._load_tokenizer(path, *args, **kwargs)
        self._tokenizer_path = path

    def _load_model(self, path: str, kwargs: dict[str, Any], **adapter: Any) -> None:
        """Starts vLLM where OpenCompass's class would load a model of transformers.

        Raises:
            ImportError: If vLLM is missing or too old.
            ValueError: If an argument is for transformers alone, or vLLM cannot modulate with it.
        """
        require_supported()
        from vllm import LLM

        from aim_plugins.engines.vllm.arguments import llm_arguments

        arguments = _engine_arguments(path, kwargs)
        arguments = llm_arguments(path, [self.column], **arguments)
        self.model = LLM(path, tokenizer=self._tokenizer_path, **arguments)

    def _make_engine(self) -> VLLMEngine:
        from aim_plugins.engines.vllm.engine import VLLMEngine

        engine = VLLMEngine(self.model)
        if self.max_seq_len > engine.max_length:
            self.logger.warning(
                f"max_seq_len={self.max_seq_len} is more than vLLM takes, since max_model_len="
                f"{engine.max_length + 1} counts what is decoded as well: prompts are cut to "
                f"{engine.max_length} tokens; write model_kwargs=dict(max_model_len=...) for more"
            )
        self.max_seq_len = engine.max_length = min(self.max_seq_len, engine.max_length)
        return engine

    def _longest_prompt(self, path: str, model_kwargs: dict[str, Any]) -> int:
        window = model_kwargs.get("max_model_len")
        if not isinstance(window, int) or window <= 0:
            window = super()._longest_prompt(path, model_kwargs)
        return window - 1  # vLLM always decodes a token

    def table(
        self,
        columns: Sequence[Column],
        *,
        batch_size: int = 0,
        name: str = "OpenCompass",
        journal: Journal | None = None,
    ) -> AnswerTable:
        """Starts a table of this model's answers under many modulations.

        Args:
            columns: The modulations, S of them.
            batch_size: Without effect: vLLM queues all prompts and makes batches of its own.
            name: What will be asked, for progress bars and errors.
            journal: Keeps finished batches, so that an interrupted run goes on where it was.

        Raises:
            ValueError: If what a column has learned is not what the model was loaded with.
        """
        return super().table(columns, batch_size=0, name=name, journal=journal)


def _engine_arguments(path: str, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `vllm.LLM`; `torch_dtype` is taken for its `dtype`."""
    arguments = dict(model_kwargs)
    if "device_map" in arguments:
        raise ValueError(
            f"model_kwargs: device_map={arguments['device_map']!r} is of transformers; vLLM "
            "spreads a model by tensor_parallel_size, so leave it out"
        )
    dtype = arguments.pop("torch_dtype", None)
    if dtype is not None and arguments.setdefault("dtype", dtype) != dtype:
        raise ValueError(
            f"model_kwargs: torch_dtype={dtype!r} and dtype={arguments['dtype']!r} disagree: give "
            "one of them"
        )
    if "dtype" not in arguments:
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=arguments.get("trust_remote_code", False)
        )
        # vLLM would halve the precision of float32 weights.
        arguments["dtype"] = "float32" if str(config.dtype) == "torch.float32" else "auto"
    arguments["dtype"] = str(arguments["dtype"]).removeprefix("torch.")
    return arguments


@MODELS.register_module()
class VLLMNoiseModel(_RunByVLLM, TextScores, HuggingFaceBaseModel):
    """A base model of vLLM under any modulation that vLLM carries out.

    Args:
        path: A folder or hub name.
        generation_kwargs: As for `HuggingFaceNoiseModel`, without beams and penalties.
        max_seq_len: Longest prompt in tokens; by default one less than the `max_model_len` of
            `model_kwargs` or the model's window, into which prompt and answer have to fit.
        model_kwargs: Arguments of `vllm.LLM`, such as `tensor_parallel_size`,
            `gpu_memory_utilization` and `max_model_len`; `torch_dtype` stands for its `dtype`, and
            `trust_remote_code` is False unless given.
        **settings: Every other argument of `HuggingFaceNoiseModel` but adapters. In a sweep
            `batch_size` is without effect, since vLLM queues all prompts. vLLM fuses some modules:
            a transport has to be one of norms, `o_proj`, `down_proj`, blocks or layers.

    Raises:
        ImportError: If vLLM is missing or too old.
    """


@MODELS.register_module()
class VLLMNoiseChatModel(_RunByVLLM, HuggingFacewithChatTemplate):
    """A chat model of vLLM under any modulation; prompts take its template.

    Args:
        **settings: As of `VLLMNoiseModel`, and every other argument of `HuggingFaceNoiseChatModel`
            but adapters.

    Raises:
        ImportError: If vLLM is missing or too old.
    """


@MODELS.register_module()
class VLLMAcTModel(VLLMNoiseModel):
    """The same class under a name that asks for a transport of activations (AcT)."""

    required = ("transport",)


@MODELS.register_module()
class VLLMAcTChatModel(VLLMNoiseChatModel):
    """The same class under a name that asks for a transport of activations (AcT)."""

    required = ("transport",)
