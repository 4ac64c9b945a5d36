"""Models for OpenCompass that answer under any modulation, run by transformers.

    from aim_plugins.harnesses.opencompass import HuggingFaceAcTModel, HuggingFaceNoiseModel
    models = [
        dict(type=HuggingFaceNoiseModel, path=..., generation_kwargs=dict(noise_std=0.5)),
        dict(type=HuggingFaceAcTModel, path=..., transport="runs/toxicity", strength=0.5),
    ]

They take every argument of OpenCompass's own Hugging Face models and of every registered kind of
change. One entry has one strength of each; `aim_plugins.harnesses.opencompass.sweep` computes all
entries of a config from one load.

Source: arXiv 2603.12755, utility modulation; arXiv 2410.23054, eq. 1.
"""

from __future__ import annotations

import torch
from opencompass.models import HuggingFaceBaseModel, HuggingFacewithChatTemplate
from opencompass.registry import MODELS

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.harnesses.opencompass.columns import ColumnAnswers, TextScores


class _RunByTransformers(ColumnAnswers):
    """Answers with a model that OpenCompass's own class has loaded."""

    def _make_engine(self) -> HuggingFaceEngine:
        for change in self.column.changes:
            change.check_model(self.model, self.tokenizer)
        return HuggingFaceEngine(
            self.model,
            self.tokenizer,
            max_length=self.max_seq_len,
            softmax_dtype=torch.float32,
        )

    @property
    def _device(self) -> torch.device:
        return self._causal_model.device


@MODELS.register_module()
class HuggingFaceNoiseModel(_RunByTransformers, TextScores, HuggingFaceBaseModel):
    """A base model of transformers under any modulation.

    Args:
        path: A folder or hub name.
        generation_kwargs: Arguments of `generate`; those of modulations may stand here instead.
        max_seq_len: Longest prompt in tokens; by default the model's window.
        model_kwargs: Arguments of `from_pretrained`; `trust_remote_code` is False unless given.
        **settings: Arguments of modulations, such as `noise_std`, `noise_seed` and `noise_mean`, or
            `transport` and `strength`; and every other one of OpenCompass's `HuggingFaceBaseModel`.
    """


@MODELS.register_module()
class HuggingFaceNoiseChatModel(_RunByTransformers, HuggingFacewithChatTemplate):
    """A chat model of transformers under any modulation; prompts take its template.

    Args:
        **settings: As of `HuggingFaceNoiseModel`, and every other argument of OpenCompass's
            `HuggingFacewithChatTemplate`.
    """


@MODELS.register_module()
class HuggingFaceAcTModel(HuggingFaceNoiseModel):
    """The same class under a name that asks for a transport of activations (AcT)."""

    required = ("transport",)


@MODELS.register_module()
class HuggingFaceAcTChatModel(HuggingFaceNoiseChatModel):
    """The same class under a name that asks for a transport of activations (AcT)."""

    required = ("transport",)
