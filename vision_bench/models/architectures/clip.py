"""CLIP as a classifier: an image is of the class whose text is nearest to it (zero-shot).

The texts name the classes: templates such as "a photo of a {}." with the name in place of {}. They
go through the text tower once; what is left is the image tower with a linear layer behind it, whose
rows are the texts' features.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv:2103.00020, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vision_bench.models.names import spoken_name

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

PROMPTS = ("a photo of a {}.",)
HEAD = "head.weight"
"""Key of the texts' features among the weights."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the images that CLIP's authors trained it on."""
_PLACE = "{}"
_TEXTS = 128
"""Texts in a pass of the text tower."""


class ZeroShotClip(nn.Module):
    """The image tower, and a linear layer of the texts that name the classes.

    Args:
        clip: The model of transformers; its text tower is left out.
        texts: Features of the classes' texts, of length 1.
    """

    def __init__(self, clip: CLIPModel, texts: Float[Tensor, "classes width"]) -> None:
        super().__init__()
        self.vision_model = clip.vision_model
        self.visual_projection = clip.visual_projection
        self.head = nn.Linear(texts.shape[1], texts.shape[0], bias=False)
        with torch.no_grad():
            self.head.weight.copy_(clip.logit_scale.exp() * texts)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch k"]:
        """Cosine of each image with each text, times the temperature that CLIP learned."""
        return self.head(embed_images(self, images))


def embed_images(
    clip: CLIPModel | ZeroShotClip, images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch width"]:
    """What the image tower makes of images, of length 1."""
    features = clip.visual_projection(clip.vision_model(pixel_values=images).pooler_output)
    return F.normalize(features, dim=-1)


@torch.no_grad()
def embed_texts(
    clip: CLIPModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, cut: bool = False
) -> Float[Tensor, "texts width"]:
    """What the text tower makes of texts, of length 1.

    Args:
        clip: The model.
        tokenizer: Its tokenizer.
        texts: The texts, at least one.
        cut: Whether of a text that is too long the end is left out.

    Raises:
        ValueError: If a text is too long, and is not to be cut.
    """
    passes = _passes(clip, tokenizer, texts, cut)
    return torch.cat([F.normalize(features, dim=-1) for features in passes])


def text_features(
    clip: CLIPModel,
    tokenizer: PreTrainedTokenizerBase,
    classes: Sequence[str],
    prompts: Sequence[str] = PROMPTS,
) -> Float[Tensor, "classes width"]:
    """What the text tower makes of the classes' names.

    Args:
        clip: The model.
        tokenizer: Its tokenizer.
        classes: Names of the classes; an underscore is read as a space.
        prompts: Templates with {} for the name; the features of several are averaged.

    Returns:
        Features of length 1.

    Raises:
        ValueError: If a template has no place for the name, or a text is too long.
    """
    for prompt in prompts:
        if _PLACE not in prompt:
            raise ValueError(
                f"prompts holds {prompt!r}, which has no {_PLACE} for the name of the class: give "
                f"texts such as {PROMPTS[0]!r}"
            )
    found = []
    for prompt in prompts:
        texts = [prompt.replace(_PLACE, spoken_name(name)) for name in classes]
        found.append(embed_texts(clip, tokenizer, texts))
    return F.normalize(torch.stack(found).mean(0), dim=-1)


def _passes(
    clip: CLIPModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cut: bool
) -> Iterator[Float[Tensor, "texts width"]]:
    most = clip.text_model.config.max_position_embeddings
    for start in range(0, len(texts), _TEXTS):
        own = list(texts[start : start + _TEXTS])
        tokens = tokenizer(
            own, padding=True, truncation=cut, max_length=most if cut else None, return_tensors="pt"
        ).to(clip.device)
        if tokens["input_ids"].shape[1] > most:
            longest = own[int(tokens["attention_mask"].sum(1).argmax())]
            raise ValueError(
                f"prompts: {longest!r} has more tokens than the {most} that the model takes: "
                "shorten the template, or the name of the class"
            )
        hidden = clip.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        yield clip.text_projection(hidden.pooler_output)
