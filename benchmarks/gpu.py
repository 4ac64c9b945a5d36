"""What only a GPU can tell: checks on the device, and what strengths cost there.

    python -m benchmarks.gpu [checks | measures] [--small] [--device cuda:1] [--output FILE]

The model has the shape of Mistral-7B in bfloat16 and random weights, made on the device: neither a
hub nor a data set is asked. It needs 40 GB there, and five minutes; what has not begun after
`--seconds` is left out and named. With `--small` a tiny model takes its place, on any device.

- checks: the same numbers on the device as on the CPU, the plain model's bits at σ = 0 and λ = 0,
  and no wait for the device in the decoding loop beyond transformers' own.
- measures: seconds on the clock and peak memory of one strength against many, in one batch each.

Both together are written to `benchmarks/results/gpu.json`.

Needs torch, transformers and accelerate beside this package.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from aim_plugins.core.devices import best_device
from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.noise import prefix_keys, standard_normal
from aim_plugins.modulation.sampling import draw_tokens
from aim_plugins.transport.fit import fit_transport
from benchmarks._timing import RESULTS, paired_medians, wall_seconds, write_json

MODULES = r".*layernorm"
NOISE_TOLERANCE = 1e-5
"""Sines and logarithms are rounded otherwise on each device; radii reach 6.7."""
FLOAT32_TOLERANCE = 2e-3
"""Of a log-likelihood of eight tokens by a small float32 model, in nats."""


@dataclass(frozen=True)
class Sizes:
    """Of the model, and of what it is asked.

    Attributes:
        shape: Arguments of `MistralConfig`.
        dtype: Of the weights.
        strengths: Strengths in one batch.
        contexts: Contexts that are scored.
        length: Tokens of each.
        prompts: Prompts that are continued.
        new_tokens: Tokens of a continuation.
        sentences: Sentences of each side of a fit.
        rounds: Runs of each contestant, in turn.
    """

    shape: dict[str, int]
    dtype: torch.dtype
    strengths: int = 32
    contexts: int = 32
    length: int = 512
    prompts: int = 8
    new_tokens: int = 64
    sentences: int = 64
    rounds: int = 3


LARGE = Sizes(
    dict(vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32)
    | dict(num_attention_heads=32, num_key_value_heads=8),
    torch.bfloat16,
)
SMALL = Sizes(
    dict(vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    | dict(num_attention_heads=4, num_key_value_heads=2),
    torch.float32,
    strengths=4,
    contexts=3,
    length=16,
    prompts=2,
    new_tokens=6,
    sentences=4,
    rounds=1,
)
SCORED = 8
"""Tokens of a continuation that is scored."""


@dataclass
class Report:
    """What was found, printed line by line.

    Attributes:
        device: Where the model is.
        deadline: When no further part begins, on the clock.
        checks: For each check whether it passed, and what it found.
        measured: For each part its figures.
        left_out: Parts that did not begin in time.
    """

    device: torch.device
    deadline: float
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def check(self, name: str, passed: bool, found: str) -> None:
        self.checks[name] = {"passed": passed, "found": found}
        print(f"{'ok  ' if passed else 'FAIL'}  {name}: {found}", flush=True)

    def in_time(self, name: str) -> bool:
        """Whether a part may begin."""
        if time.monotonic() < self.deadline:
            return True
        self.left_out.append(name)
        print(f"left out for want of time: {name}", flush=True)
        return False

    def measure(self, name: str, contestants: dict[str, Callable[[], Any]], rounds: int) -> None:
        """Compares contestants with the first of them, in seconds and in peak memory."""
        if not self.in_time(name):
            return
        memory = {one: self._peak(work) for one, work in contestants.items()}  # warms up, too
        timed = {one: self._finished(work) for one, work in contestants.items()}
        seconds = paired_medians(timed, rounds=rounds, clock=wall_seconds, warm_up=False)
        first = next(iter(seconds))
        self.measured[name] = {
            one: {
                "seconds": seconds[one],
                f"against {first}": seconds[one] / seconds[first],
                "peak GiB": memory[one],
            }
            for one in contestants
        }
        for one in contestants:
            peak = "" if memory[one] is None else f"{memory[one]:7.1f} GiB"
            ratio = seconds[one] / seconds[first]
            print(f"{name:12} {one:28} {seconds[one]:9.3f} s {ratio:7.2f} {peak}", flush=True)

    def _finished(self, work: Callable[[], Any]) -> Callable[[], None]:
        def finished() -> None:
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return finished

    def _peak(self, work: Callable[[], Any]) -> float | None:
        """Peak memory of the device while something runs, its weights included."""
        if self.device.type != "cuda":
            work()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        self._finished(work)()
        return torch.cuda.max_memory_allocated(self.device) / 2**30


@dataclass
class Subject:
    """A model on a device, and what it is asked: the same on every device.

    Args:
        sizes: Of all this.
        model: The model, in evaluation mode.
    """

    sizes: Sizes
    model: Any

    def __post_init__(self) -> None:
        sizes, vocabulary = self.sizes, self.sizes.shape["vocab_size"]
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(3, vocabulary, (sizes.contexts, sizes.length), generator=generator)
        self.contexts = sorted(tokens.tolist())  # as the engine orders them
        prompts = torch.tensor(self.contexts)[: sizes.prompts, : max(4, sizes.length // 4)]
        prompts = prompts.to(self.model.device)
        self.prompts = Prompts(prompts, torch.ones_like(prompts))
        self.engine = HuggingFaceEngine(
            self.model, None, max_length=2 * sizes.length, softmax_dtype=torch.float32
        )
        self.tokenizer = _tokenizer(vocabulary)
        texts = [" ".join(map(str, row[:24])) for row in tokens.repeat(4, 1).tolist()]
        half = sizes.sentences
        self.source = [f"{i % vocabulary} {text}" for i, text in enumerate(texts[:half])]
        self.target = [f"{text} {5 + i % 7} {11}" for i, text in enumerate(texts[-half:])]

    @classmethod
    def random(cls, sizes: Sizes, device: torch.device) -> Subject:
        """Of random weights, made on the device."""
        config = MistralConfig(
            **sizes.shape,
            max_position_embeddings=4 * sizes.length,
            sliding_window=None,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        )
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            model = MistralForCausalLM._from_config(config, dtype=sizes.dtype)
        return cls(sizes, model.to(device).eval())

    def moved(self, device: torch.device) -> Subject:
        """The same on another device."""
        return Subject(self.sizes, copy.deepcopy(self.model).to(device))

    def noise(self, count: int | None = None) -> list[Column]:
        """Columns of strengths of noise, the first of 0."""
        count = count or self.sizes.strengths
        return columns_of(noise_std=[2 * step / count for step in range(count)], noise_seed=1)

    def transported(self, maps: Any, count: int | None = None) -> list[Column]:
        """Columns of strengths of a transport, the first of 0."""
        count = count or self.sizes.strengths
        return columns_of(strength=[step / count for step in range(count)], transport=maps)

    def score(self, columns: list[Column]) -> list[list[float]]:
        """Log-likelihoods of the ends of all contexts under columns, from one batch."""
        asked = [ScoreRequest(one[:-SCORED], one[-SCORED:]) for one in self.contexts]
        rows = self.engine.score(asked, columns, batch_size=len(asked), progress=False)
        return [row.log_likelihoods for row in rows]

    def continued(self, columns: list[Column], new_tokens: int | None = None) -> list[list[Any]]:
        """Texts of all prompts under columns, from one batch."""
        width = self.prompts.token_ids.shape[1]
        length = width + (new_tokens or self.sizes.new_tokens)
        return self.engine.generate(
            self.prompts, columns, max_length=length, do_sample=False, pad_token_id=0
        )

    def continued_plainly(self, new_tokens: int | None = None) -> list[list[int]]:
        """The same of transformers alone."""
        found = self.model.generate(
            input_ids=self.prompts.token_ids,
            attention_mask=self.prompts.mask,
            max_new_tokens=new_tokens or self.sizes.new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return found[:, self.prompts.token_ids.shape[1] :].tolist()

    @torch.no_grad()
    def scored_plainly(self) -> list[float]:
        """Log-likelihoods by a forward pass and a softmax."""
        tokens = torch.tensor(self.contexts, device=self.model.device)
        law = self.model(tokens[:, :-1]).logits[:, -SCORED:].float().log_softmax(-1)
        found = law.gather(-1, tokens[:, -SCORED:, None])[..., 0].cpu()
        return [float(row.sum()) for row in found]

    def fit(self) -> Any:
        """Maps that are learned of all norms, in batches of a quarter of the sentences."""
        size = max(2, self.sizes.sentences // 2)
        options: dict[str, Any] = {"modules": MODULES, "batch_size": size, "progress": False}
        return fit_transport(
            self.model, self.tokenizer, self.source, self.target, support="none", **options
        ).maps

    @torch.no_grad()
    def read(self) -> None:
        """One plain pass over the sentences of a fit, in the same batches."""
        texts, size = [*self.source, *self.target], max(2, self.sizes.sentences // 2)
        for start in range(0, len(texts), size):
            batch = self.tokenizer(
                texts[start : start + size], padding=True, padding_side="right", return_tensors="pt"
            )
            self.model.model(
                batch["input_ids"].to(self.model.device),
                attention_mask=batch["attention_mask"].to(self.model.device),
                use_cache=False,
            )


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Reads numbers as the tokens of those ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({str(number): number for number in range(vocabulary)}, "0"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="0")


def check_draws(report: Report) -> None:
    """Noise and sampled tokens, against the CPU's."""
    keys = prefix_keys(torch.arange(64).reshape(4, 16)).flatten()
    seeds = torch.arange(64)
    on_cpu = standard_normal(keys, 32000, seed=seeds)
    paths = {"eager": False} | ({"compiled": True} if report.device.type == "cuda" else {})
    for name, compiled in paths.items():
        found = standard_normal(
            keys.to(report.device), 32000, seed=seeds.to(report.device), compiled=compiled
        )
        error = float((found.cpu() - on_cpu).abs().max())
        report.check(f"noise, {name}", error < NOISE_TOLERANCE, f"{error:.1e} from the CPU's")
    scores = torch.randn(64, 32000, generator=torch.Generator().manual_seed(0))
    drawn = draw_tokens(*(one.to(report.device) for one in (keys, scores, seeds))).cpu()
    equal = int((drawn == draw_tokens(keys, scores, seeds)).sum())
    report.check("sampled tokens", equal >= 63, f"{equal} of 64 are the CPU's")


def check_small_model(report: Report) -> None:
    """All of the engine and a fit on a small float32 model, against the CPU."""
    on_cpu = Subject.random(SMALL, torch.device("cpu"))
    there = on_cpu.moved(report.device)
    maps = on_cpu.fit()
    learned = there.fit()
    error = max(
        float((one.scale - learned.maps[site].scale).abs().max()) for site, one in maps.maps.items()
    )
    report.check("a fit", error < FLOAT32_TOLERANCE, f"scales differ by {error:.1e} from the CPU's")
    kinds = {"noise": on_cpu.noise(), "transport": on_cpu.transported(maps)}
    for name, columns in kinds.items():
        pairs = zip(_flat(on_cpu.score(columns)), _flat(there.score(columns)), strict=True)
        error = max(abs(one - other) for one, other in pairs)
        passed = error < FLOAT32_TOLERANCE
        report.check(f"scores under {name}", passed, f"{error:.1e} nats from the CPU's")
        equal = there.continued(columns) == on_cpu.continued(columns)
        report.check(f"texts under {name}", equal, "the CPU's" if equal else "other than the CPU's")


def check_identity(report: Report, subject: Subject, maps: Any) -> None:
    """Strength 0 beside other strengths, against the plain model."""
    plain = subject.scored_plainly()
    for name, columns in {"σ": subject.noise(), "λ": subject.transported(maps, 2)}.items():
        equal = [row[0] for row in subject.score(columns)] == plain
        found = "equal to the bit" if equal else "other than the plain model's"
        report.check(f"scores at {name} = 0", equal, found)
        texts = [row[0] for row in subject.continued(columns[:1])]
        equal = texts == subject.continued_plainly()
        found = "the plain model's" if equal else "other than the plain model's"
        report.check(f"texts at {name} = 0", equal, found)


def check_syncs(report: Report, subject: Subject, maps: Any) -> None:
    """Waits for the device at each new token, against transformers' own."""
    if report.device.type != "cuda":
        return
    wanted = _syncs_per_token(subject.continued_plainly)
    kinds = {"noise": subject.noise(4), "transport": subject.transported(maps, 4)}
    for name, columns in kinds.items():

        def work(new_tokens: int, columns: list[Column] = columns) -> None:
            subject.continued(columns, new_tokens)

        found = _syncs_per_token(work)
        text = f"{found} at each token, transformers' own {wanted}"
        report.check(f"syncs under {name}", found <= wanted, text)


def _syncs_per_token(work: Callable[[int], Any]) -> float:
    counts = []
    for new_tokens in (8, 8, 24):  # the first warms up
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work(new_tokens)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing" in str(one.message) for one in caught))
    return (counts[2] - counts[1]) / 16


def _flat(rows: list[list[float]]) -> Iterator[float]:
    return (value for row in rows for value in row)


def measure(report: Report, subject: Subject, maps: Any) -> None:
    """Many strengths against one, and a fit against a plain pass."""
    sizes, rounds = subject.sizes, subject.sizes.rounds
    many, one = f"{sizes.strengths} strengths of noise", subject.noise()[-1:]
    steered = subject.transported(maps)
    report.measure(
        "scoring",
        {
            "plain forward": subject.scored_plainly,
            "1 strength of noise": lambda: subject.score(one),
            many: lambda: subject.score(subject.noise()),
        },
        rounds,
    )
    report.measure(
        "generation",
        {
            "1 strength of noise": lambda: subject.continued(one),
            many: lambda: subject.continued(subject.noise()),
            "plain generate": subject.continued_plainly,
            "1 strength of transport": lambda: subject.continued(steered[-1:]),
            f"{sizes.strengths} strengths of transport": lambda: subject.continued(steered),
        },
        rounds,
    )
    contestants = {"plain forward": subject.read, "fit of all norms": subject.fit}
    report.measure("fit", contestants, rounds)


def run(asked: argparse.Namespace) -> Report:
    """Runs the parts that are asked for."""
    device = best_device(asked.device)
    if device.type == "cpu" and not asked.small:
        raise SystemExit("error: there is no GPU here: give --small, which runs on any device")
    report = Report(device, time.monotonic() + asked.seconds)
    checks, measures = (asked.part in (None, part) for part in ("checks", "measures"))
    if checks:
        check_draws(report)
        check_small_model(report)
    subject = Subject.random(SMALL if asked.small else LARGE, device)
    maps = subject.fit()
    if checks and report.in_time("checks of the large model"):
        check_identity(report, subject, maps)
        check_syncs(report, subject, maps)
    if measures:
        measure(report, subject, maps)
    return report


def main(words: list[str]) -> int:
    """Runs the parts, and writes what they found.

    Returns:
        1 if a check failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["checks", "measures"], help="both by default")
    parser.add_argument("--small", action="store_true", help="a tiny model, on any device")
    parser.add_argument("--device", help="by default the accelerator")
    parser.add_argument("--seconds", type=float, default=300.0, help="no part begins after them")
    parser.add_argument("--output", type=Path, help="JSON file of what is found")
    asked = parser.parse_args(words)
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)  # that random texts have nothing in common
    try:
        report = run(asked)
    finally:
        logging.disable(logging.NOTSET)
    found = {"checks": report.checks, "measured": report.measured, "left out": report.left_out}
    whole = asked.part is None and not asked.small
    if output := asked.output or (RESULTS / "gpu.json" if whole else None):
        print(f"written: {write_json(output, found)}")
    return int(not all(one["passed"] for one in report.checks.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
