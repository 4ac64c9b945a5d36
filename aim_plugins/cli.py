"""`aim-plugins`: the command line.

aim-plugins demo-model                 prints the folder of a small real model
aim-plugins lm-eval ...                lm_eval with our models registered, no import hook needed
aim-plugins sweep lm-eval ...          a modulation curve from one model load
aim-plugins sweep opencompass ...      opencompass, with its configuration and its results checked
aim-plugins transport ...              learn, look at, apply and evaluate activation transports
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aim_plugins.core.commands import guarded, join_negative_values
from aim_plugins.sweep.manifest import redact


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 2 for bad input, 1 for a failure, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["lm-eval"]:  # everything after it is lm_eval's own, --help included
        return _lm_eval(arguments[1:])
    if arguments[:2] == ["sweep", "opencompass"]:  # the same
        return guarded(lambda: _sweep_opencompass(arguments[2:]))
    if arguments[:1] == ["transport"]:
        return guarded(lambda: _transport(arguments[1:]))
    parser = _parser()
    options, rest = parser.parse_known_args(
        join_negative_values(arguments, {"--noise-std", "--noise-mean", "--strength"})
    )
    options.command = redact(["aim-plugins", *arguments])  # it goes into the results
    if rest and options.run is not _sweep_lm_eval:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return guarded(lambda: options.run(options, rest))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aim-plugins", description="Measure what modulating a frozen model costs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo-model", help="print the folder of SmolLM2-135M-Instruct, fetching it once"
    )
    demo.set_defaults(run=_demo_model)

    commands.add_parser("lm-eval", help="lm_eval, with aim_hf and act_hf; same arguments")

    sweep = commands.add_parser("sweep", help="quality against strength, in one run")
    harnesses = sweep.add_subparsers(required=True, metavar="HARNESS")
    lm_eval = harnesses.add_parser(
        "lm-eval",
        help="with lm-evaluation-harness",
        description="Evaluates a model under many strengths from one load: of noise on its logits "
        "(--noise-std) or of an activation transport (--strength, with --model act_hf and "
        "transport=DIR in --model-args); the other one may be fixed in --model-args, as "
        "noise_std=0.5 or strength=0.5. Takes every argument of `lm_eval` besides those below, "
        "such as --model, --model-args, --tasks, --num-fewshot, --limit, --batch-size, "
        "--include-path.",
        allow_abbrev=False,
    )
    lm_eval.add_argument(
        "--noise-std",
        metavar="GRID",
        help='stds of the noise in logit units: "0:3:0.25" (3 included), "0,0.5,1" or a number',
    )
    lm_eval.add_argument(
        "--strength",
        metavar="GRID",
        help='strengths of the transport: "0:1:0.1"; 1 is as it was learned, they may be negative',
    )
    lm_eval.add_argument("--noise-mean", type=float, default=0.0, help="default 0")
    lm_eval.add_argument(
        "--noise-seed", type=int, default=0, help="draw d has the seed NOISE_SEED + d; default 0"
    )
    lm_eval.add_argument("--draws", type=int, default=1, help="draws per strength; default 1")
    lm_eval.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for results; a killed run goes on when it is started again",
    )
    lm_eval.set_defaults(run=_sweep_lm_eval)

    harnesses.add_parser(
        "opencompass", help="with OpenCompass, from a configuration file; its own arguments"
    )
    commands.add_parser(
        "transport", help="learn, look at, apply and evaluate activation transports"
    )
    return parser


def _demo_model(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from aim_plugins.demo_model import demo_model_folder

    print(demo_model_folder())
    return 0


def _lm_eval(arguments: Sequence[str]) -> int:
    from aim_plugins.harnesses.lm_eval.register import register

    register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()
    return 0


def _sweep_lm_eval(options: argparse.Namespace, rest: Sequence[str]) -> int:
    _require("lm_eval", "lm-eval")
    from aim_plugins.harnesses.lm_eval.arguments import check_swept

    check_swept(options.noise_std, options.strength)
    from aim_plugins.harnesses.lm_eval.study import run_sweep

    run_sweep(
        rest,
        output=options.output,
        command=options.command,
        noise_std=options.noise_std,
        strength=options.strength,
        noise_mean=options.noise_mean,
        noise_seed=options.noise_seed,
        noise_draws=options.draws,
    )
    return 0


def _sweep_opencompass(arguments: Sequence[str]) -> int:
    _require("opencompass", "opencompass")
    from aim_plugins.harnesses.opencompass.command import run_opencompass

    return run_opencompass(arguments)


def _transport(arguments: Sequence[str]) -> int:
    from aim_plugins.steering.commands.parser import main as run_transport

    return run_transport(join_negative_values(arguments, {"--strength"}))


def _require(module: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ImportError(f"{module} is not installed: pip install 'aim-plugins[{extra}]'")


if __name__ == "__main__":
    sys.exit(main())
