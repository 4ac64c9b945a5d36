"""Which neurons matter to right answers: gradient × activation of the answer's log-probability.

DeepImportance starts relevance at the logit of the predicted class. A language model has no class:
what a task scores is the log-probability of the right answer behind its context, so relevance
starts there, and a neuron's is summed over the document's tokens. Gradient × activation is LRP-ε
in networks of ReLUs; in others it is the first-order term, see `aim_plugins.coverage.relevance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aim_plugins.coverage.activations import neuron_means
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.relevance import Relevance
from aim_plugins.modulation.hooks import change_outputs
from aim_plugins.task_coverage.subject import Subject, Tokens
from aim_plugins.transport.sentences import SentenceBatch, sentence_batches


def answer_relevance(
    subject: Subject,
    tokens: Sequence[Tokens],
    classes: Int[Tensor, " documents"],
    count: int,
    progress: Callable[[int], object] = lambda count: None,
) -> Relevance:
    """Relevance of every neuron to the right answers of documents, by class.

    Args:
        subject: The model.
        tokens: The documents; those without an answer tell nothing.
        classes: The class of each.
        count: Number of classes.
        progress: Called with the number of documents of each batch.

    Raises:
        ValueError: If no document has an answer, or relevance is NaN or infinite.
    """
    relevance = Relevance.empty(subject.layers, count)
    asked = [place for place, one in enumerate(tokens) if one.answer]
    if not asked:
        raise ValueError(
            "criteria: IDC needs documents with right answers, and the reference tasks have none: "
            "leave it out, or name other reference_tasks"
        )
    batches = sentence_batches([tokens[place].ids for place in asked], [], subject.batch_size)
    for batch in batches:
        numbers = [asked[one] for one in batch.sentences.tolist()]
        answers = answer_mask(batch, [tokens[one] for one in numbers])
        scores = attribute(subject.model, subject.layers, batch, answers)
        relevance.add(scores, classes[numbers])
        relevance.inputs += len(numbers)
        progress(len(numbers))
    return relevance


def answer_mask(batch: SentenceBatch, tokens: Sequence[Tokens]) -> Bool[Tensor, "documents tokens"]:
    """Which tokens of a batch are the answers'."""
    lengths = batch.mask.sum(1, keepdim=True)
    firsts = lengths - torch.tensor([[one.answer] for one in tokens])
    places = torch.arange(batch.mask.shape[1])[None]
    return (places >= firsts) & (places < lengths)


def attribute(
    model: torch.nn.Module,
    layers: Layers,
    batch: SentenceBatch,
    answers: Bool[Tensor, "documents tokens"],
) -> Float[Tensor, "documents neurons"]:
    """Relevance of every neuron to the log-probability of each document's answer.

    Args:
        model: A causal model of transformers.
        layers: The neurons.
        batch: Documents.
        answers: Which tokens are the answers'; none is the first of its document.

    Raises:
        ValueError: If relevance is NaN or infinite.
    """
    device = next(model.parameters()).device
    ids, mask = batch.token_ids.to(device), batch.mask.to(device)
    outputs: dict[str, Tensor] = {}
    keepers = {site: _keep(outputs, site) for site in layers.names}
    with torch.enable_grad(), change_outputs(model, keepers):
        logits = model(ids, attention_mask=mask.long(), use_cache=False).logits
        rows, places = answers.to(device).nonzero(as_tuple=True)
        # The logits of a token say what comes behind it.
        said = logits[rows, places - 1].float().log_softmax(1)
        total = said.gather(1, ids[rows, places][:, None]).sum()
    kept = [outputs[site] for site in layers.names]
    gradients = torch.autograd.grad(total, kept, allow_unused=True, materialize_grads=True)
    lengths = mask.sum(1, keepdim=True)
    parts = [
        neuron_means((output * gradient).detach().float(), -1, mask) * lengths
        for output, gradient in zip(kept, gradients, strict=True)
    ]
    scores = torch.cat([part.cpu() for part in parts], 1)
    if not bool(scores.isfinite().all()):
        column = int((~scores.isfinite()).any(0).nonzero()[0])
        raise ValueError(
            f"relevance of neuron {layers.neuron_name(column)} is not finite: run the model in "
            "float32"
        )
    return scores


def _keep(outputs: dict[str, Tensor], site: str) -> Callable[[Tensor], Tensor]:
    def hook(output: Tensor) -> Tensor:
        # The first modules of a frozen model have no graph yet; it begins here.
        outputs[site] = output if output.requires_grad else output.detach().requires_grad_()
        return outputs[site]

    return hook
