"""The causal model whose coverage is measured: its neurons of any texts, in one pass.

A neuron is a feature of what a module adds to the hidden states, and its activation the mean over
the document's tokens. Where nothing else is asked for, the modules are the attention outputs and
the down projections of the feed-forward parts, the two kinds of layers that studies of coverage in
language models look at (Zhou et al., arXiv:2408.15207; Xie et al., LeCov, arXiv:2408.10474).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.coverage.activations import NeuronReader, neuron_layers, read_outputs
from aim_plugins.coverage.layers import Layers
from aim_plugins.modulation.hooks import choose_sites
from aim_plugins.task_coverage.directions import Directions
from aim_plugins.task_documents import Document
from aim_plugins.transport.forward import forward_of
from aim_plugins.transport.sentences import SentenceBatch, sentence_batches

_OUTPUTS = re.compile(
    r".*\.(o_proj|down_proj|c_proj|out_proj|fc2|dense|dense_4h_to_h|wo|w2|fc_out)"
)
"""Names of attention and feed-forward outputs in the decoders of transformers."""


@dataclass(frozen=True)
class Tokens:
    """A document as a model reads it.

    Attributes:
        ids: Token ids.
        answer: How many of the last ones are the right answer's.
    """

    ids: tuple[int, ...]
    answer: int


@dataclass(frozen=True)
class Seen:
    """What a pass says of documents.

    Attributes:
        positions: Their numbers.
        neurons: Means over tokens, float32 on the CPU.
        projections: Of the hidden states on each direction; no columns without directions.
    """

    positions: Int[Tensor, " documents"]
    neurons: Float[Tensor, "documents neurons"]
    projections: Float[Tensor, "documents directions"]


class Subject:
    """A causal model and its neurons.

    Args:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        modules: Patterns of the modules whose neurons are looked at; none for the default.
        directions: Directions that hidden states are projected on.
        batch_size: Documents in a pass.
        max_length: Longest document in tokens.

    Attributes:
        layers: The neurons.

    Raises:
        ValueError: If a pattern matches nothing, the model has no module to look at, or a
            direction does not fit it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        modules: Sequence[str] = (),
        *,
        directions: Directions | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.directions = model, tokenizer, directions
        self.batch_size, self.max_length = batch_size, max_length
        patterns = list(modules) or _default_patterns(model)
        mask = torch.ones(1, 2, dtype=torch.bool)
        example = SentenceBatch(mask.long(), mask, torch.zeros(1, dtype=torch.long), 1)
        run = forward_of(model, choose_sites(model, patterns))
        self.layers: Layers = neuron_layers(model, lambda: run(example), patterns)
        if directions is not None:
            _check_directions(model, directions, example)

    def tokenize(self, documents: Sequence[Document]) -> list[Tokens]:
        """Documents as token ids; of one that is too long, the end is kept.

        Raises:
            ValueError: If a document has no tokens.
        """
        found, cut = [], 0
        whole = self._encode([one.text for one in documents])
        contexts = self._encode([one.context for one in documents])
        for document, ids, context in zip(documents, whole, contexts, strict=True):
            if not ids:
                raise ValueError(f"{document.name} has no tokens: leave its task out")
            answer = len(ids) - len(context) if document.answer else 0
            if self.max_length is not None and len(ids) > self.max_length:
                ids, cut = ids[-self.max_length :], cut + 1
            found.append(Tokens(tuple(ids), max(0, min(answer, len(ids) - 1))))
        if cut:
            say(f"{cut} documents are longer than {self.max_length} tokens: their ends are read")
        return found

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), padding=False, return_attention_mask=False)["input_ids"]

    def read(
        self, tokens: Sequence[Tokens], positions: Sequence[int] | None = None
    ) -> Iterator[Seen]:
        """Runs the model over documents, those of like length together.

        Args:
            tokens: The documents.
            positions: Their numbers; by default their places.

        Raises:
            ValueError: If an activation is NaN or infinite.
        """
        numbers = torch.arange(len(tokens)) if positions is None else torch.tensor(positions)
        directions = self.directions
        sites = directions.layers.names if directions is not None else ()
        run = forward_of(self.model, [*self.layers.names, *sites])
        with contextlib.ExitStack() as attached:
            readers = [
                attached.enter_context(NeuronReader(self.model, layers).attached())
                for layers in (self.layers, *([directions.layers] if directions else []))
            ]
            for batch in sentence_batches([one.ids for one in tokens], [], self.batch_size):
                for reader in readers:
                    reader.mask = batch.mask.to(self.model.device)
                with torch.inference_mode():
                    run(batch)
                    values = [reader.neurons() for reader in readers]
                neurons = values[0].clone()
                projections = torch.empty(len(neurons), 0)
                if directions is not None:
                    projections = directions.project(values[1].clone())
                yield Seen(numbers[batch.sentences], neurons, projections)


def _default_patterns(model: Any) -> list[str]:
    modules = dict(model.named_modules())
    # An expert sees some tokens alone: of a mixture, the sum over experts is what a block adds.
    mixtures = [name for name, one in modules.items() if name and hasattr(one, "experts")]
    inside = tuple(f"{name}." for name in mixtures)
    names = [name for name in modules if _OUTPUTS.fullmatch(name) and not name.startswith(inside)]
    if not names:
        raise ValueError(
            f"modules: {type(model).__name__} has no attention or feed-forward outputs of a known "
            "name: name the modules to look at, such as --modules '.*mlp'"
        )
    return [re.escape(name) for name in [*names, *mixtures]]


def _check_directions(model: Any, directions: Directions, example: SentenceBatch) -> None:
    """Refuses directions of another width than the sites they belong to."""
    run = forward_of(model, directions.layers.names)
    with read_outputs(model, directions.layers.names) as outputs, torch.no_grad():
        run(example)
    for name, size in zip(directions.layers.names, directions.layers.sizes, strict=True):
        found = outputs[name].shape[-1] if name in outputs else "no"
        if found != size:
            raise ValueError(
                f"directions: {name!r} has {found} neurons, its direction {size}: give a "
                "transport of this model"
            )
