"""Steered models against hooks written by hand, one text at a time.

An engine scores texts of several lengths in batches, and decodes left-padded prompts at all
strengths at once. Its log-probabilities of all tokens at each position are held against a pass over
the text alone, without padding and without a cache, under plain hooks of x + λ (ω x + b - x).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from aim_plugins.core.strengths import Axis
from aim_plugins.engines.engine import ScoreRequest, pad_left
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.hooks import change_outputs, choose_sites, reached_sites
from aim_plugins.modulation.noise import prefix_keys
from aim_plugins.modulation.token_weights import Layout
from aim_plugins.transport.fit import fit_transport
from benchmarks._architectures import ARCHITECTURES

STRENGTHS = (0.0, 0.5, 1.0)

SITES = {
    "norms": r"(.*\.)?\w*(norm|ln)\w*",
    "blocks": r"(.*\.)?(layers|h|blocks)\.\d+",
    "parts": r"(.*\.)?(layers|h|blocks)\.\d+\.(?!\w*(norm|ln))\w+",
}
"""Patterns of norms, of whole blocks, and of the parts within them, such as attention."""

SCORED = ((12, 5), (7, 1), (9, 8), (3, 2))
"""Tokens of the context and of the continuation of each text that is scored."""
PROMPTS = (9, 4, 12)
"""Tokens of each prompt."""
NEW_TOKENS = 8


@dataclass(frozen=True)
class Recorder(Change):
    """Leaves logits as they are, and keeps their log-probabilities by prefix.

    Attributes:
        strength: Strength of the transport beside it, under which they are kept.
    """

    name = "recorder"
    axis = Axis("recorded", "r", "strength that is recorded")
    acts_on = "logits"
    arguments = {"recorded": "strength under which log-probabilities are kept"}
    neutral = -1.0
    strength: float
    rows: ClassVar[dict[tuple[float, int], Tensor]] = {}

    def modulate(self, logits: Any, keys: Any, scratch: Any) -> Any:
        laws = logits.float().log_softmax(-1)
        for key, law in zip(keys.tolist(), laws, strict=True):
            self.rows[self.strength, key] = law
        return logits


def recorded(transport: Any, strengths: Sequence[float] = STRENGTHS) -> list[Column]:
    """A column for each strength of a transport, whose log-probabilities are kept."""
    columns = columns_of(strength=list(strengths), transport=transport)
    return [
        Column((*column.changes, Recorder(strength)))
        for column, strength in zip(columns, strengths, strict=True)
    ]


class NumberTokenizer:
    """Takes texts of numbers; its tokens are the numbers."""

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(100)}


def sites_of(model: Any, name: str, kind: str) -> tuple[list[str], int]:
    """Sites of a kind that each pass over text reaches once, and how many others there are."""
    pattern = f"{ARCHITECTURES[name].tower}{SITES[kind]}"
    with torch.no_grad():
        found = [site for site in choose_sites(model, pattern) if _gives_activations(model, site)]
        reached = reached_sites(model, found, lambda: model(torch.tensor([[3, 4, 5]])))
    once = [site for site in reached if reached.count(site) == 1]
    return once, len(found) - len(once)


def _gives_activations(model: Any, site: str) -> bool:
    """Whether a module's first output holds a vector for each token, so that a map fits it."""
    shapes: list[torch.Size] = []
    try:
        with change_outputs(model, {site: lambda output: shapes.append(output.shape)}):
            model(torch.tensor([[3, 4, 5], [6, 7, 8]]))
    except ValueError:
        return False
    return all(shape[:2] == (2, 3) or (len(shape) == 2 and shape[0] == 6) for shape in shapes)


def random_maps(model: Any, sites: Sequence[str], positions: str) -> ActivationMaps:
    """An affine map of every neuron, whose shift is in units of the activations' spread."""
    generator = torch.Generator().manual_seed(0)
    maps: dict[str, AffineMap] = {}

    def invent(site: str, output: Tensor) -> None:
        width = output.shape[-1]
        scale = 1 + 0.2 * torch.randn(width, generator=generator)
        shift = 0.2 * output.std() * torch.randn(width, generator=generator)
        maps[site] = AffineMap.everywhere(scale, shift)

    functions = {site: (lambda output, site=site: invent(site, output)) for site in sites}
    with torch.no_grad(), change_outputs(model, functions):
        model(torch.tensor([list(range(3, 20))]))
    return ActivationMaps(maps, positions)


@contextlib.contextmanager
def hooks_by_hand(model: Any, maps: ActivationMaps, strength: float, start: int) -> Iterator[None]:
    """x + λ (ω x + b - x) at each site, written out, from a token on."""

    def hook_of(one: AffineMap) -> Callable[[Any, Any, Any], Any]:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple | list) else output
            tokens = x.unsqueeze(0) if x.dim() == 2 else x
            moved = tokens + strength * (one.scale * tokens + one.shift - tokens)
            moved = torch.cat([tokens[:, :start], moved[:, start:]], dim=1).reshape(x.shape)
            return moved if x is output else type(output)([moved, *output[1:]])

        return hook

    handles = [
        model.get_submodule(site).register_forward_hook(hook_of(one))
        for site, one in maps.maps.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_hand(
    model: Any, maps: ActivationMaps, tokens: Sequence[int], strength: float, start: int = 0
) -> Tensor:
    """Log-probabilities [tokens, vocabulary] behind each token of one text."""
    with torch.no_grad(), hooks_by_hand(model, maps, strength, start):
        return (
            model(torch.tensor([list(tokens)]), use_cache=False).logits[0].float().log_softmax(-1)
        )


def texts_of(lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Texts of random tokens, each of which begins with another one."""
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(3, 90, (length,), generator=generator).tolist() for length in lengths]
    for number, tokens in enumerate(texts):
        tokens[0] = 3 + 10 * seed + number
    return texts


def largest_error(
    model: Any, maps: ActivationMaps, strength: float, texts: Sequence[tuple[list[int], int]]
) -> float:
    """How far recorded log-probabilities are from those by hand.

    Args:
        model: The model.
        maps: What steers it.
        strength: Its strength.
        texts: Tokens, and how many of them were given: the others were scored or decoded.
    """
    worst = 0.0
    for tokens, given in texts:
        start = given - 1 if maps.positions == "last" else 0
        laws = by_hand(model, maps, tokens[:-1], strength, start)
        keys = prefix_keys(torch.tensor([tokens[:-1]]))[0].tolist()
        for place in range(given - 1, len(tokens) - 1):
            found = Recorder.rows[strength, keys[place]]
            worst = max(worst, float((found - laws[place]).abs().max()))
    return worst


def score_error(engine: Any, model: Any, transport: Any, maps: ActivationMaps) -> float:
    """Of texts scored in batches of several lengths."""
    texts = texts_of([context + rest for context, rest in SCORED], seed=1)
    requests = [
        ScoreRequest(tokens[:context], tokens[context:])
        for tokens, (context, _) in zip(texts, SCORED, strict=True)
    ]
    Recorder.rows.clear()
    engine.score(requests, recorded(transport), batch_size=3, progress=False)
    given = [context for context, _ in SCORED]
    pairs = list(zip(texts, given, strict=True))
    return max(largest_error(model, maps, strength, pairs) for strength in STRENGTHS)


def decoding_error(
    engine: Any, model: Any, transport: Any, maps: ActivationMaps, **options: Any
) -> float:
    """Of prompts decoded in one left-padded batch at all strengths."""
    prompts = texts_of(PROMPTS, seed=2)
    Recorder.rows.clear()
    table = engine.generate(
        pad_left(prompts, 0),
        recorded(transport),
        max_length=max(PROMPTS) + NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    worst = 0.0
    for prompt, row in zip(prompts, table, strict=True):
        for strength, new in zip(STRENGTHS, row, strict=True):
            new = new[: new.index(2) + 1] if 2 in new else new
            pair = [([*prompt, *new], len(prompt))]
            worst = max(worst, largest_error(model, maps, strength, pair))
    return worst


def chain_error(engine: Any, transport: Any) -> float:
    """How far log p(ab | c) is from log p(a | c) + log p(b | ca) at the strengths."""
    (text,) = texts_of([14], seed=3)
    requests = [
        ScoreRequest(text[:first], text[first:last]) for first, last in ((5, 14), (5, 9), (9, 14))
    ]
    columns = columns_of(strength=list(STRENGTHS), transport=transport)
    whole, first, second = (
        row.log_likelihoods for row in engine.score(requests, columns, batch_size=2, progress=False)
    )
    return max(abs(w - a - b) for w, a, b in zip(whole, first, second, strict=True))


def zero_is_plain(engine: Any, transport: Any) -> bool:
    """Whether scores at λ = 0, asked for beside others, have the plain model's bits, texts too."""
    texts = texts_of([context + rest for context, rest in SCORED], seed=1)
    requests = [ScoreRequest(tokens[:3], tokens[3:]) for tokens in texts]
    prompts = pad_left(texts_of(PROMPTS, seed=2), 0)
    options = {"max_length": max(PROMPTS) + 4, "do_sample": False, "pad_token_id": 0}
    scores, answers = [], []
    for columns in ([Column()], columns_of(strength=list(STRENGTHS), transport=transport)):
        rows = engine.score(requests, columns, batch_size=3, progress=False)
        scores.append([row.log_likelihoods[0] for row in rows])
        answers.append([row[0] for row in engine.generate(prompts, columns, **options)])
    return scores[0] == scores[1] and answers[0] == answers[1]


def zero_rows_differ_by(model: Any, maps: ActivationMaps) -> float:
    """How far rows of λ = 0 are from the plain model's, beside rows of other strengths."""
    tokens = torch.tensor(texts_of([10] * 4, seed=4))
    with torch.no_grad():
        plain = model(tokens).logits
        with maps.applied(model, [0.0, 1.0, 0.0, 0.5], Layout(torch.tensor([6] * 4))):
            mixed = model(tokens).logits
    return float((mixed - plain)[[0, 2]].abs().max())


def fit_difference(model: Any, sites: Sequence[str]) -> float:
    """How far a causal fit in padded batches is from one of a sentence at a time."""
    lengths = [5, 9, 7, 3, 8, 6, 4, 11]
    sides = [[" ".join(map(str, text)) for text in texts_of(lengths, seed)] for seed in (5, 6)]
    patterns = [re.escape(site) for site in sites]
    one, several = (
        fit_transport(
            model,
            NumberTokenizer(),
            *sides,
            modules=patterns,
            support="none",
            batch_size=size,
            progress=False,
        ).maps.maps
        for size in (1, 6)
    )
    return max(
        float((getattr(several[site], name) - vector).abs().max() / vector.abs().max())
        for site, learned in one.items()
        for name, vector in (("scale", learned.scale), ("shift", learned.shift))
    )
