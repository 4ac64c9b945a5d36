"""Relevance to right answers, against derivatives by finite differences."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.task_coverage.relevance import answer_mask, answer_relevance, attribute
from aim_plugins.task_coverage.subject import Subject
from aim_plugins.task_documents import Document
from aim_plugins.transport.sentences import sentence_batches

DOCUMENTS = [
    Document("made-up", 0, "the capital of France is", " Paris"),
    Document("made-up", 1, "Question : the capital ? Answer :", " Berlin and Germany", 1),
    Document("made-up", 2, "Berlin is the capital of", " Germany", 1),
]


@pytest.fixture
def subject(tiny) -> Subject:
    return Subject(tiny.model, tiny.tokenizer, batch_size=3)


def log_probability(tiny, document: Document) -> torch.Tensor:
    """Of the answer, by a plain loop over its tokens."""
    ids = tiny.tokenizer(document.text).input_ids
    first = len(tiny.tokenizer(document.context).input_ids)
    logits = tiny.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(logits[place - 1, ids[place]] for place in range(first, len(ids)))


def test_relevance_is_what_scaling_a_neuron_does_to_the_answer(tiny, subject) -> None:
    """The derivative of log p by a factor on a neuron, at 1, is gradient times activation."""
    (batch,) = sentence_batches([one.ids for one in subject.tokenize(DOCUMENTS)], [], 3)
    numbers = batch.sentences.tolist()
    tokens = subject.tokenize([DOCUMENTS[one] for one in numbers])
    scores = attribute(tiny.model, subject.layers, batch, answer_mask(batch, tokens))
    generator = torch.Generator().manual_seed(0)
    for row, number in enumerate(numbers):
        for column in torch.randint(subject.layers.neurons, (6,), generator=generator).tolist():
            site, index = subject.layers.locate(column)
            values = []
            for factor in (0.99, 1.01):

                def scale(module, given, output, index=index, factor=factor):
                    output = output.clone()
                    output[..., index] *= factor
                    return output

                handle = tiny.model.get_submodule(site).register_forward_hook(scale)
                with torch.no_grad():
                    values.append(float(log_probability(tiny, DOCUMENTS[number])))
                handle.remove()
            slope = (values[1] - values[0]) / 0.02
            assert float(scores[row, column]) == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_relevance_is_summed_by_class_whatever_the_batch(tiny, subject) -> None:
    tokens = subject.tokenize(DOCUMENTS)
    classes = torch.tensor([one.place for one in DOCUMENTS])
    whole = answer_relevance(subject, tokens, classes, 2)
    single = Subject(tiny.model, tiny.tokenizer, batch_size=1)
    alone = answer_relevance(single, tokens, classes, 2)
    torch.testing.assert_close(whole.scores, alone.scores, atol=1e-4, rtol=1e-4)
    assert whole.counts.tolist() == [1, 2] and whole.inputs == 3


def test_weights_and_hooks_are_left_as_they_were(tiny, subject) -> None:
    # transformers keeps hooks of its own.
    before = [len(module._forward_hooks) for module in tiny.model.modules()]
    tokens = subject.tokenize(DOCUMENTS)
    answer_relevance(subject, tokens, torch.zeros(3, dtype=torch.long), 1)
    assert all(parameter.grad is None for parameter in tiny.model.parameters())
    assert [len(module._forward_hooks) for module in tiny.model.modules()] == before


def test_documents_without_answers_are_refused(subject) -> None:
    tokens = subject.tokenize([Document("made-up", 0, "the capital", "")])
    with pytest.raises(ValueError, match="IDC needs documents with right answers"):
        answer_relevance(subject, tokens, torch.zeros(1, dtype=torch.long), 1)
