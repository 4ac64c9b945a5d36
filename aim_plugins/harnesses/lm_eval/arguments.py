"""Arguments of a sweep: the harness's own, and which strengths vary.

One modulation's strengths vary on the command line; the other's may be fixed with the model. The
module imports nothing heavy before a sweep needs it, so that a mistyped grid is named at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aim_plugins.core.strengths import parse_strengths
from aim_plugins.harnesses.lm_eval.register import MODELS

if TYPE_CHECKING:
    from lm_eval.config.evaluate_config import EvaluatorConfig

    from aim_plugins.engines.engine import Modulation, SweptName

REFUSED = {
    "output_path": "the sweep writes the harness's files itself: use --output",
    "use_cache": "the sweep keeps and resumes its own records",
    "predict_only": "a curve needs metrics",
    "wandb_args": "log the finished table instead",
    "trackio_args": "log the finished table instead",
    "hf_hub_log_args": "push the finished folder instead",
}
"""Arguments of the harness that make no sense in a sweep, and why."""

_OPTIONS = {
    "noise_std": "--noise-std",
    "strength": "--strength",
    "noise_mean": "--noise-mean",
    "noise_seed": "--noise-seed",
    "noise_draws": "--draws",
}
"""Arguments of the models, and what gives them in a sweep."""


def parse_harness_arguments(arguments: Sequence[str]) -> EvaluatorConfig:
    """Reads `lm_eval`'s own arguments, with dashes or underscores.

    Raises:
        ValueError: If an argument makes no sense in a sweep.
        SystemExit: If an argument is malformed, as from `lm_eval`.
    """
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.config.evaluate_config import EvaluatorConfig

    words = ["run"]
    for argument in arguments:
        name, equals, value = argument.partition("=")
        words.append(
            name.replace("-", "_").replace("__", "--", 1) + equals + value
            if argument.startswith("--")
            else argument
        )
    namespace = HarnessCLI()._parser.parse_args(words)
    namespace.log_samples = False  # a sweep always logs them, and into its own folder
    config = EvaluatorConfig.from_cli(namespace)
    for name, reason in REFUSED.items():
        if getattr(config, name, None):
            raise ValueError(f"--{name} cannot be used in a sweep: {reason}")
    if not config.tasks:
        raise ValueError("--tasks is missing: name at least one, `lm-eval ls tasks` lists them")
    return config


def check_swept(noise_std: object, strength: object) -> None:
    """Refuses a sweep in which nothing varies, or two things do.

    Raises:
        ValueError: If not exactly one of the two is given.
    """
    if noise_std is None and strength is None:
        raise ValueError(
            "neither --noise-std nor --strength is given: name what varies, such as "
            "--noise-std 0:3:0.25 for noise on the logits or --strength 0:1:0.1 for a transport"
        )
    if noise_std is not None and strength is not None:
        raise ValueError(
            f"--noise-std {noise_std} and --strength {strength} are both given, and a curve has "
            "one strength that varies: fix the other one in --model-args (noise_std=… or "
            "strength=…)"
        )
    if strength is None:
        _read("noise_std", noise_std)
    else:
        _read("strength", strength)


def sweep_columns(
    name: str,
    model: type,
    model_args: Mapping[str, Any],
    *,
    noise_std: object = None,
    strength: object = None,
    noise_mean: float = 0.0,
    noise_seed: int = 0,
    noise_draws: int = 1,
) -> tuple[tuple[Modulation, ...], SweptName]:
    """Spells out the columns of a sweep.

    Args:
        name: The model's name in `--model`.
        model: Its class.
        model_args: Its arguments, which may fix the modulation that does not vary.
        noise_std: Strengths of the noise if they vary, as a grid, a list or a number.
        strength: Strengths of the transport if they vary.
        noise_mean: Mean of the noise in logit units.
        noise_seed: Seed of the first draw.
        noise_draws: Draws of the noise for every strength.

    Returns:
        The columns, strengths outside and draws inside, and the attribute of them that varies.

    Raises:
        ValueError: If the model takes no such strengths, or they are given in the wrong place.
    """
    from aim_plugins.engines.engine import modulation_columns

    check_swept(noise_std, strength)
    if not hasattr(model, "table"):
        raise ValueError(
            f"--model {name} answers under one strength only: use one of {', '.join(MODELS)}"
        )
    takes_transport = bool(getattr(model, "takes_transport", False))
    if strength is not None and not takes_transport:
        raise ValueError(
            f"--strength {strength} is that of an activation transport, which --model {name} has "
            "not: use --model act_hf or act_vllm with transport=DIR in --model-args, or --noise-std"
        )
    fixed = _fixed_strengths(model_args, noise_varies=strength is None)
    transport: dict[str, Any] = {}
    if takes_transport:
        from aim_plugins.harnesses.lm_eval.transport import DEFAULT_STRENGTH, load_transport

        transport = {
            "strength": fixed.get("strength", DEFAULT_STRENGTH) if strength is None else strength,
            "transport": load_transport(model_args.get("transport")).fingerprint,
        }
    columns = modulation_columns(
        fixed.get("noise_std", 0.0) if noise_std is None else noise_std,
        noise_mean,
        noise_seed,
        noise_draws,
        **transport,
    )
    if noise_draws > 1 and strength is not None and not columns[0].has_noise:
        raise ValueError(
            f"--draws {noise_draws} repeats one result, since there is no noise: leave it out, or "
            "add noise_std=… to --model-args"
        )
    return columns, "std" if strength is None else "transport_strength"


def _fixed_strengths(model_args: Mapping[str, Any], *, noise_varies: bool) -> dict[str, float]:
    """The strength beside the one that varies, from the model's arguments."""
    varies, fixable = ("noise_std", "strength") if noise_varies else ("strength", "noise_std")
    if misplaced := [name for name in _OPTIONS if name in model_args and name != fixable]:
        raise ValueError(
            f"{misplaced[0]} stands in --model_args: give the strengths of a sweep with "
            f"{_OPTIONS[misplaced[0]]}"
        )
    if fixable not in model_args:
        return {}
    strengths = _read(fixable, model_args[fixable])
    if len(strengths) > 1:
        raise ValueError(
            f"{fixable}={model_args[fixable]!r} in --model-args holds {len(strengths)} strengths, "
            f"but {_OPTIONS[varies]} is what varies: give one"
        )
    return {fixable: strengths[0]}


def _read(name: str, strengths: Any) -> tuple[float, ...]:
    return parse_strengths(strengths, name=name, signed=name == "strength")
