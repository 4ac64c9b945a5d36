"""Models for OpenCompass with keyed Gaussian noise on logits, or with transported activations.

    from aim_plugins.harnesses.opencompass import HuggingFaceAcTModel, HuggingFaceNoiseModel
    models = [
        dict(type=HuggingFaceNoiseModel, path=..., generation_kwargs=dict(noise_std=0.5)),
        dict(type=HuggingFaceAcTModel, path=..., transport="runs/toxicity", strength=0.5),
    ]

They take every argument of OpenCompass's own Hugging Face models. One entry has one strength;
`aim_plugins.harnesses.opencompass.sweep` computes all entries of a config from one load.

Source: arXiv 2603.12755, utility modulation; arXiv 2410.23054, eq. 4.
"""

from __future__ import annotations

import torch
from opencompass.models import HuggingFaceBaseModel, HuggingFacewithChatTemplate
from opencompass.registry import MODELS

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.harnesses.opencompass.columns import ColumnAnswers, TextScores
from aim_plugins.harnesses.opencompass.config.modulations import SplitSettings, read_transport
from aim_plugins.modulation.activations import ActivationMaps


class _RunByTransformers(ColumnAnswers):
    """Answers with a model that OpenCompass's own class has loaded."""

    def _make_engine(self, split: SplitSettings) -> HuggingFaceEngine:
        return HuggingFaceEngine(
            self.model,
            self.tokenizer,
            max_length=self.max_seq_len,
            softmax_dtype=torch.float32,
            transport=self._maps(split),
        )

    @property
    def _device(self) -> torch.device:
        return self._causal_model.device

    def _maps(self, split: SplitSettings) -> ActivationMaps | None:
        """The maps of the entry's transport, which have to be this model's."""
        if not split.folder:
            return None
        transport = read_transport(split.folder)
        try:
            transport.check_model(self.model, self.tokenizer, force=split.force)
        except ValueError as error:
            mend = str(error).replace("force=True (--force)", "force_transport=True")
            raise ValueError(f"transport={split.folder!r} is of another model: {mend}") from error
        return transport.maps


@MODELS.register_module()
class HuggingFaceNoiseModel(_RunByTransformers, TextScores, HuggingFaceBaseModel):
    """A base model of transformers with Gaussian noise on its logits.

    Args:
        path: A folder or hub name.
        noise_std: Standard deviation of the noise in logit units; 0 is the unmodulated model.
        noise_seed: Seed of the noise.
        noise_mean: Mean of the noise in logit units.
        generation_kwargs: Arguments of `generate`; the noise's may stand here instead.
        max_seq_len: Longest prompt in tokens; by default the model's window.
        model_kwargs: Arguments of `from_pretrained`; `trust_remote_code` is False unless given.
        **settings: Every other argument of OpenCompass's `HuggingFaceBaseModel`.
    """


@MODELS.register_module()
class HuggingFaceNoiseChatModel(_RunByTransformers, HuggingFacewithChatTemplate):
    """A chat model of transformers with Gaussian noise on its logits; prompts take its template.

    Args:
        path: A folder or hub name.
        noise_std: Standard deviation of the noise in logit units; 0 is the unmodulated model.
        noise_seed: Seed of the noise.
        noise_mean: Mean of the noise in logit units.
        generation_kwargs: Arguments of `generate`; the noise's may stand here instead.
        max_seq_len: Longest prompt in tokens; by default the model's window.
        model_kwargs: Arguments of `from_pretrained`; `trust_remote_code` is False unless given.
        **settings: Every other argument of OpenCompass's `HuggingFacewithChatTemplate`.
    """


@MODELS.register_module()
class HuggingFaceAcTModel(HuggingFaceNoiseModel):
    """A base model of transformers whose activations are transported (AcT).

    Args:
        path: A folder or hub name.
        transport: Folder of a transport that was learned on this model.
        strength: Strength λ of the transport; 0 is the unmodulated model, 1 the maps as learned.
        force_transport: Runs the maps on other weights than they were learned on, with a warning.
        **settings: Every argument of `HuggingFaceNoiseModel`, its noise among them.
    """

    takes_transport = True


@MODELS.register_module()
class HuggingFaceAcTChatModel(HuggingFaceNoiseChatModel):
    """A chat model of transformers whose activations are transported; prompts take its template.

    Args:
        path: A folder or hub name.
        transport: Folder of a transport that was learned on this model.
        strength: Strength λ of the transport; 0 is the unmodulated model, 1 the maps as learned.
        force_transport: Runs the maps on other weights than they were learned on, with a warning.
        **settings: Every argument of `HuggingFaceNoiseChatModel`, its noise among them.
    """

    takes_transport = True
