"""Neurons of documents, against hooks written by hand and one document at a time."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.sweep.store import SweepStore
from aim_plugins.task_coverage.directions import read_directions
from aim_plugins.task_coverage.kept import keep_neurons
from aim_plugins.task_coverage.subject import Subject, Tokens
from aim_plugins.task_documents import Document
from aim_plugins.transport.artifact import LearnedTransport

TEXTS = [
    "the capital of France is",
    "Berlin",
    "Question : the capital of Germany ? Answer : Berlin and Paris and the capital of France",
    "Paris is the capital of",
    "Answer :",
]
DOCUMENTS = [Document("made-up", place, text, " Paris") for place, text in enumerate(TEXTS)]


def read(subject: Subject, tokens):
    """Neurons and projections in the order of the documents."""
    parts = list(subject.read(tokens))
    order = torch.cat([part.positions for part in parts]).argsort()
    return tuple(
        torch.cat([getattr(part, name) for part in parts])[order]
        for name in ("neurons", "projections")
    )


def test_neurons_are_what_attention_and_feed_forward_add_averaged_over_tokens(tiny) -> None:
    subject = Subject(tiny.model, tiny.tokenizer, batch_size=3)
    blocks = [f"model.layers.{layer}" for layer in range(3)]
    names = [
        f"{block}.{part}" for block in blocks for part in ("self_attn.o_proj", "mlp.down_proj")
    ]
    assert subject.layers.names == tuple(names)
    assert subject.layers.sizes == (48,) * 6
    found, _ = read(subject, subject.tokenize(DOCUMENTS))
    for document, neurons in zip(DOCUMENTS, found, strict=True):
        outputs: dict[str, torch.Tensor] = {}
        handles = [
            tiny.model.get_submodule(name).register_forward_hook(
                lambda *given, name=name, into=outputs: into.__setitem__(name, given[-1])
            )
            for name in names
        ]
        with torch.no_grad():
            tiny.model(**tiny.tokenizer(document.text, return_tensors="pt"))
        for handle in handles:
            handle.remove()
        by_hand = torch.cat([outputs[name][0].double().mean(0) for name in names])
        torch.testing.assert_close(neurons.double(), by_hand, atol=1e-5, rtol=1e-5)


def test_blocks_give_the_hidden_states_of_transformers(tiny) -> None:
    subject = Subject(tiny.model, tiny.tokenizer, [r"model\.layers\.\d+"], batch_size=5)
    found, _ = read(subject, subject.tokenize(DOCUMENTS))
    for document, neurons in zip(DOCUMENTS, found, strict=True):
        with torch.no_grad():
            given = tiny.tokenizer(document.text, return_tensors="pt")
            states = tiny.model.model(**given, output_hidden_states=True).hidden_states
        # The last state of transformers stands behind the final norm.
        for layer in range(2):
            by_hand = states[layer + 1][0].mean(0)
            place = subject.layers[f"model.layers.{layer}"]
            torch.testing.assert_close(neurons[place], by_hand, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_neurons_do_not_depend_on_the_batch(tiny, shift_transport, batch_size) -> None:
    directions = read_directions(LearnedTransport.load(shift_transport), shift_transport)
    found = []
    for size in (5, batch_size):
        subject = Subject(tiny.model, tiny.tokenizer, directions=directions, batch_size=size)
        found.append(read(subject, subject.tokenize(DOCUMENTS)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_documents_that_are_too_long_keep_their_end(tiny, capsys) -> None:
    subject = Subject(tiny.model, tiny.tokenizer, max_length=6)
    found = subject.tokenize(DOCUMENTS)
    for document, tokens in zip(DOCUMENTS, found, strict=True):
        assert list(tokens.ids) == tiny.tokenizer(document.text).input_ids[-6:]
    assert "documents are longer than 6 tokens: their ends are read" in capsys.readouterr().err


def test_answers_are_the_tokens_behind_the_context(tiny) -> None:
    subject = Subject(tiny.model, tiny.tokenizer)
    for document, tokens in zip(DOCUMENTS, subject.tokenize(DOCUMENTS), strict=True):
        assert tiny.tokenizer.decode(tokens.ids[-tokens.answer :]) == " Paris", document
    rolling, unknown = subject.tokenize(
        [Document("a", 0, "", "the capital"), Document("a", 1, "the capital", "")]
    )
    assert rolling.answer == len(rolling.ids) - 1  # nothing stands before the first token
    assert unknown.answer == 0


def _decoder(name: str):
    """A random decoder of two blocks of another family."""
    import transformers as t

    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    configs = {
        "gpt2": lambda: t.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2),
        "opt": lambda: t.OPTConfig(**sizes, ffn_dim=32, word_embed_proj_dim=16),
        "neox": lambda: t.GPTNeoXConfig(**sizes, intermediate_size=32),
        "falcon": lambda: t.FalconConfig(**sizes),
        "mixtral": lambda: t.MixtralConfig(
            **sizes, intermediate_size=32, num_key_value_heads=1, num_local_experts=4
        ),
    }
    torch.manual_seed(0)
    return t.AutoModelForCausalLM.from_config(configs[name]()).eval()


@pytest.mark.parametrize(
    ("name", "endings"),
    [
        ("gpt2", ("attn.c_proj", "mlp.c_proj")),
        ("opt", ("self_attn.out_proj", "fc2")),
        ("neox", ("attention.dense", "mlp.dense_4h_to_h")),
        ("falcon", ("self_attention.dense", "mlp.dense_4h_to_h")),
        ("mixtral", ("self_attn.o_proj", "mlp")),
    ],
)
def test_every_family_of_decoders_has_two_layers_a_block(tiny, name, endings) -> None:
    model = _decoder(name)
    generator = torch.Generator().manual_seed(0)
    tokens = [
        Tokens(tuple(torch.randint(3, 64, (length,), generator=generator).tolist()), 2)
        for length in (5, 12, 3)
    ]
    found = []
    for size in (1, 3):
        subject = Subject(model, tiny.tokenizer, batch_size=size)
        found.append(read(subject, tokens)[0])
        assert subject.layers.sizes == (16,) * 4
        for layer, ending in zip(subject.layers.names, 2 * endings, strict=True):
            assert layer.endswith(f".{ending}")
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_modules_without_known_names_are_asked_for(tiny) -> None:
    with pytest.raises(ValueError, match="no attention or feed-forward outputs of a known name"):
        Subject(torch.nn.Sequential(torch.nn.Linear(2, 2)), tiny.tokenizer)
    with pytest.raises(ValueError, match=r"modules='.*down' matches none"):
        Subject(tiny.model, tiny.tokenizer, [".*down"])


def test_rows_of_a_matrix_are_the_tokens_of_a_batch() -> None:
    from aim_plugins.coverage.activations import neuron_means

    values = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    as_rows = neuron_means(values.flatten(0, 1), -1, mask)
    assert torch.equal(as_rows, neuron_means(values, -1, mask))
    assert neuron_means(torch.full((1, 2, 1), 6e4).half(), -1, torch.ones(1, 2).bool()) == 6e4


class Counting(Subject):
    """Notes the documents that it reads, and fails where it is told to."""

    def __init__(self, tiny, fail_after: int = 99) -> None:
        super().__init__(tiny.model, tiny.tokenizer, batch_size=2)
        self.seen, self.fail_after = 0, fail_after

    def read(self, tokens, positions=None):
        for seen in super().read(tokens, positions):
            self.seen += len(seen.positions)
            if self.seen > self.fail_after:
                raise KeyboardInterrupt
            yield seen


def test_a_killed_pass_goes_on_behind_what_it_wrote(tiny, tmp_path, monkeypatch) -> None:
    from aim_plugins.task_coverage import kept

    monkeypatch.setattr(kept, "_PART", 2 * 288)
    tokens = Subject(tiny.model, tiny.tokenizer).tokenize(DOCUMENTS)
    whole, _ = read(Subject(tiny.model, tiny.tokenizer), tokens)
    with SweepStore.open(tmp_path / "out", {}, axes=()) as store:
        broken = Counting(tiny, fail_after=4)
        with pytest.raises(KeyboardInterrupt):
            keep_neurons(broken, tokens, store, "neurons.f32", "")
        mended = Counting(tiny)
        found = keep_neurons(mended, tokens, store, "neurons.f32", "")
        assert mended.seen == 1
        classes = torch.arange(5)
        batches = list(found.batches([4, 0, 3], classes))
        torch.testing.assert_close(
            torch.cat([batch.neurons for _, batch in batches]), whole[[4, 0, 3]]
        )
        assert torch.cat([batch.classes for _, batch in batches]).tolist() == [4, 0, 3]
        found.path.unlink()
        again = Counting(tiny)
        keep_neurons(again, tokens, store, "neurons.f32", "")
        assert again.seen == 5


def test_random_texts_hold_no_special_token(tiny) -> None:
    from aim_plugins.task_coverage.measure import random_tokens

    subject = Subject(tiny.model, tiny.tokenizer)
    lengths = [200, 1, 300]
    drawn = random_tokens(subject, lengths, torch.Generator().manual_seed(0))
    assert [len(one.ids) for one in drawn] == lengths
    ids = {token for one in drawn for token in one.ids}
    assert not ids & set(tiny.tokenizer.all_special_ids) and max(ids) < len(tiny.tokenizer)
    again = random_tokens(subject, lengths, torch.Generator().manual_seed(0))
    assert drawn == again and isinstance(drawn[0], Tokens)
