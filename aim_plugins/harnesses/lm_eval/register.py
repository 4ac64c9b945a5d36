"""Makes our model backends known to lm-evaluation-harness by name.

lm-eval 0.4.13 finds models by name in `lm_eval.api.registry.model_registry`, which
`lm_eval.models` fills when it is imported, and has no plugin API. Three ways lead to `register`:

- the stock commands (`lm_eval`, `python -m lm_eval`, `accelerate launch -m lm_eval`): a `.pth`
  file beside the installed package loads `startup/_aim_plugins_startup.py` at interpreter start,
  which calls `register` as soon as something imports `lm_eval.models`;
- no released lm-eval reads the entry-point group `lm_eval.models`; the pull request that would
  (EleutherAI/lm-evaluation-harness #4013) registers the entry points it finds there. The group is
  declared for it, and a name that is known already is left alone, so both ways live together;
- `aim-plugins lm-eval` and programs of one's own call `register` directly.

The registry must not hold our names before `lm_eval.models` is imported: it would no longer be
empty, lm-eval would skip filling it, and `--model hf` would be unknown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aim_plugins.core.commands import speak_plainly

MODELS = {
    "act_hf": "aim_plugins.harnesses.lm_eval:ActHFLM",
    "act_vllm": "aim_plugins.harnesses.lm_eval.vllm:ActVLLM",
    "aim_hf": "aim_plugins.harnesses.lm_eval:AimHFLM",
    "aim_vllm": "aim_plugins.harnesses.lm_eval.vllm:AimVLLM",
}
"""Name in `--model NAME` -> "module:Class", imported only when a run asks for the name."""

_STOCK_COMMANDS = frozenset({"lm_eval", "lm-eval", "lm_eval.__main__"})


def register() -> None:
    """Registers our backends with lm-eval; a second call changes nothing.

    In the stock command our foreseen errors and warnings become lines, as in our own commands.

    Raises:
        ImportError: If lm-eval is not installed, with the command that installs it.
    """
    try:
        # Importing it fills the registry with lm-eval's own models, which must come first.
        import lm_eval.models  # noqa: F401
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise ImportError(
            "lm-eval 0.4.13 or later could not be imported; "
            f"install it with: pip install 'aim-plugins[lm-eval]' ({error})"
        ) from error
    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)

    if _program() in _STOCK_COMMANDS:
        speak_plainly()


def _program() -> str:
    """What this process runs: a module, or the name of a script."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def _lm_eval_models_loaded() -> bool:
    spec = getattr(sys.modules.get("lm_eval.models"), "__spec__", None)
    # A module that is still running its own code has not filled the registry yet.
    return spec is not None and not getattr(spec, "_initializing", False)


if _lm_eval_models_loaded():
    register()
