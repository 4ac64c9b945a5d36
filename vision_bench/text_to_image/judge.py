"""What a CLIP makes of pictures and texts: features whose cosines say how well they go together.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from aim_plugins.core.devices import best_device
from aim_plugins.core.identity import model_fingerprint
from vision_bench.data.images import to_tensor
from vision_bench.models.architectures.clip import embed_images, embed_texts
from vision_bench.models.clip_models import read_clip
from vision_bench.models.known_preprocessing import folder_preprocessing
from vision_bench.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPModel, PreTrainedTokenizerBase

_BATCH_SIZE = 32


class ClipJudge:
    """Features of pictures and of texts by one CLIP, each text's computed once.

    Args:
        clip: The model of transformers.
        tokenizer: Its tokenizer.
        preprocessing: How it takes pictures.
        batch_size: Pictures in a pass.

    Attributes:
        fingerprint: Identifies the model.
        logit_scale: The inverse temperature that the model learned for its cosines; 100 of the
            published ones.
    """

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Preprocessing,
        *,
        batch_size: int = _BATCH_SIZE,
    ) -> None:
        self._clip, self._tokenizer = clip.eval(), tokenizer
        self._preprocessing, self._batch_size = preprocessing, batch_size
        self._texts: dict[str, Tensor] = {}
        self.fingerprint = model_fingerprint(clip)
        self.logit_scale = float(clip.logit_scale.detach().double().exp())

    @torch.inference_mode()
    def image_features(self, pictures: Iterable[Image]) -> Float[Tensor, "pictures width"]:
        """Features of pictures, of length 1, in double precision on the CPU.

        Args:
            pictures: The pictures, of any sizes; those of a batch are held at a time.
        """
        left, found = iter(pictures), []
        while batch := list(islice(left, self._batch_size)):
            inputs = [to_tensor(one.convert("RGB"), self._preprocessing) for one in batch]
            features = embed_images(self._clip, torch.stack(inputs).to(self._clip.device))
            found.append(F.normalize(features.double().cpu(), dim=-1))
        if not found:
            raise ValueError("pictures is empty: give at least one")
        return torch.cat(found)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Features of texts, of length 1, in double precision on the CPU.

        Args:
            texts: The texts. The end of one that is too long for the model is left out, as in the
                pipelines that it is given to.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            features = embed_texts(self._clip, self._tokenizer, new, cut=True)
            self._texts.update(zip(new, F.normalize(features.double().cpu(), dim=-1), strict=True))
        return torch.stack([self._texts[text] for text in texts])


def load_judge(
    clip: str | Path | None, *, batch_size: int = _BATCH_SIZE, device: str | None = None
) -> ClipJudge:
    """Loads a CLIP that transformers saved, to score pictures by.

    Args:
        clip: A folder with a `CLIPModel`, its tokenizer and its image processor, or a name on the
            hub. AcT scores by `openai/clip-vit-large-patch14`.
        batch_size: Pictures in a pass.
        device: Where it computes; by default the accelerator if there is one, or else the CPU.

    Raises:
        ValueError: If there is none, or a part of it is missing.
    """
    if not clip:
        raise ValueError(
            f"clip={clip!r}: pictures are scored by a CLIP; give a folder that transformers saved, "
            "or a name on the hub such as 'openai/clip-vit-large-patch14', which AcT scores by"
        )
    source = str(clip)
    model, tokenizer = read_clip(source, source, "clip")
    known = folder_preprocessing(source, Path(source).is_dir(), crops=True)
    if known is None:
        raise ValueError(
            f"clip={source!r} has no preprocessor_config.json, which says how it takes pictures: "
            "put the published one of this model beside its weights"
        )
    model = model.to(best_device(device))
    return ClipJudge(model, tokenizer, known.preprocessing, batch_size=batch_size)
