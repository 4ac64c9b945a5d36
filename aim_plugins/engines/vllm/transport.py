"""Activation transport in vLLM, a strength for each request, eager or compiled.

An engine is told of its transport by `additional_config={"aim_transport": DIR}`, and a request of
its strength by `extra_args={"aim_strength": 0.5}`. Hooks are attached as soon as a worker has
loaded the model, so that they are compiled with it. What they read at every step is one buffer:
the strength of each token of the batch.

Keys and values of a prompt depend on the strength, so every request's prefix-cache salt names
transport and strength.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.core.signature import check_shared_weights
from aim_plugins.engines.vllm.parameters import RequestModulation, asked_for
from aim_plugins.engines.vllm.steps import RunnerSteps, Step, StepListener, to_device
from aim_plugins.modulation.activations import ActivationMaps, AffineMap, displace
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.sites import split_site
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.vectors import affine_maps

CONFIG_KEY = "aim_transport"
"""Entry of vLLM's `additional_config` that names the transport's folder."""

FORCE_KEY = "aim_force_transport"
"""Entry that turns the refusal of another model into a warning."""


def configured_folder(vllm_config: Any) -> Path | None:
    """The transport's folder that an engine's configuration names, if any."""
    config = vllm_config.additional_config
    folder = config.get(CONFIG_KEY) if isinstance(config, Mapping) else None
    return Path(folder) if folder else None


def configured_maps(vllm_config: Any) -> ActivationMaps | None:
    """The maps of the transport that an engine's configuration names, if any.

    Raises:
        ValueError: If it cannot be read, or the engine cannot run it.
    """
    folder = configured_folder(vllm_config)
    if folder is None:
        return None
    if (reason := why_not(vllm_config)) is not None:
        raise ValueError(f"{CONFIG_KEY}={str(folder)!r}: {reason}")
    maps = LearnedTransport.load(folder).maps
    affine_maps(maps.maps, "vLLM")
    return maps


def why_not(vllm_config: Any) -> str | None:
    """Why an engine with this configuration cannot transport activations; None if it can."""
    parallel = vllm_config.parallel_config
    if parallel.pipeline_parallel_size > 1:
        return (
            f"pipeline_parallel_size={parallel.pipeline_parallel_size}: a rank holds some of the "
            "transported layers only; use tensor parallelism, or fold the transport "
            "(aim-plugins transport fold)"
        )
    if vllm_config.speculative_config is not None:
        return (
            "a draft model would decode without the transport: start vLLM without "
            "speculative_config, or fold the transport (aim-plugins transport fold)"
        )
    if parallel.use_ubatching or parallel.prefill_context_parallel_size > 1:
        return (
            "dual batch overlap and prefill context parallelism part a step's tokens, and every "
            "token has its own strength: start vLLM without --enable-dbo, --ubatch-size and "
            "--prefill-context-parallel-size, or fold the transport (aim-plugins transport fold)"
        )
    if vllm_config.cache_config.kv_sharing_fast_prefill:
        return (
            "kv_sharing_fast_prefill runs some layers on a prompt's last token alone: start vLLM "
            "without --kv-sharing-fast-prefill, or fold the transport (aim-plugins transport fold)"
        )
    return None


def check_maps(changes: Iterable[Change], maps: ActivationMaps | None) -> None:
    """Refuses changes of activations by other maps than the engine was made with.

    Args:
        changes: The changes; those of a request have no maps.
        maps: The engine's.

    Raises:
        ValueError: If the engine has no maps, or others.
    """
    for change in changes:
        if maps is None:
            raise ValueError(
                f"{asked_for(change)}: this engine has no transport: make it with "
                "LLM(model, **llm_arguments(transport=DIR)), or start vLLM with "
                f'--additional-config \'{{"{CONFIG_KEY}": "DIR"}}\''
            )
        if change.maps.maps and change.maps.fingerprint != maps.fingerprint:
            raise ValueError(
                f"{asked_for(change)}: its transport is another one than the engine was made "
                "with; it may have been fitted again since: start anew"
            )


def cache_salt(
    salt: str | None, maps: ActivationMaps, asked: RequestModulation, prompt_length: int
) -> str | None:
    """The prefix-cache salt of a request.

    Args:
        salt: The request's own.
        maps: The engine's transport.
        asked: The request's modulation; strength 0 shares what plain requests have cached.
        prompt_length: Tokens of the prompt. Where transport begins at its last one, keys and
            values of the same tokens differ between prompts that end elsewhere.
    """
    # JSON, so that no salt of a client reads like one that is made here.
    if asked.strength == 0:
        return None if salt is None else json.dumps([salt])
    own: list[Any] = [salt, maps.fingerprint, asked.strength]
    if maps.positions == "last":
        own.append(prompt_length - 1 if asked.start is None else asked.start)
    return json.dumps(own)


def attach_after_loading(worker: Any, folder: Path) -> None:
    """Lets a worker attach the transport in a folder once its model is loaded."""
    load_model = worker.load_model

    @functools.wraps(load_model)
    def load(*arguments: Any, **options: Any) -> None:
        load_model(*arguments, **options)
        runner = worker.model_runner
        if not hasattr(runner, "aim_transport"):
            runner.aim_transport = WorkerTransport(runner, LearnedTransport.load(folder))
            RunnerSteps.of(runner).listeners.append(runner.aim_transport)

    worker.load_model = load


class WorkerTransport(StepListener):
    """A transport attached to the model of one worker.

    Its strengths are one buffer, a number for each token of a step, whatever the number of distinct
    ones. It keeps its address and is written in place, so that CUDA graphs read it when they run.

    Args:
        runner: The worker's model runner, after it has loaded its model.
        transport: The transport.

    Raises:
        ValueError: If the engine's configuration, the model or one of its modules does not allow
            it.
    """

    def __init__(self, runner: Any, transport: LearnedTransport) -> None:
        config = runner.vllm_config
        self.last_only = transport.maps.positions == "last"
        self.strengths = torch.zeros((runner.max_num_tokens, 1), device=runner.device)
        self._written = np.zeros((runner.max_num_tokens, 1), dtype=np.float32)
        self._strengths: dict[str, float] = {}
        self._starts: dict[str, int] = {}
        # What a compiler or a CUDA graph has recorded cannot ask at every step: it adds zero times
        # the displacement.
        self._may_skip = bool(config.model_config.enforce_eager)
        self._busy = False
        model = runner.get_model()
        _check_model(model, transport, force=bool(config.additional_config.get(FORCE_KEY)))
        # Compiled graphs are kept by a hash of the configuration, which knows the folder alone.
        config.additional_config["aim_transport_fingerprint"] = transport.fingerprint
        parents = {name: module for name, module in model.named_modules()}
        for site, one in affine_maps(transport.maps.maps, "vLLM").items():
            module = find_module(model, split_site(site)[0])
            name = next(name for name, other in parents.items() if other is module)
            in_stack = isinstance(parents.get(name.rpartition(".")[0]), torch.nn.ModuleList)
            self._attach(module, site, one.to(runner.device), in_stack=in_stack)
        self._keep_cache_finite(model)

    def _keep_cache_finite(self, model: torch.nn.Module) -> None:
        """Lets no key or value into the cache that would disturb other requests.

        Attention reads whole blocks and weighs what is not the request's own by 0, but 0 times
        infinity is NaN: what a strength too high leaves behind would spoil whoever gets the block
        next. The request's own hidden states stay as they are, so that its scores tell.
        """
        from vllm.model_executor.layers.attention import Attention, MLAAttention

        def finite(value: Any) -> Any:
            return torch.nan_to_num(value) if isinstance(value, Tensor) else value

        def hook(module: Any, inputs: Any, options: Any) -> Any:
            if self._may_skip and not self._busy:
                return None
            return (*inputs[:1], *map(finite, inputs[1:])), {
                name: value if name in ("query", "q") else finite(value)
                for name, value in options.items()
            }

        for module in model.modules():
            if isinstance(module, Attention | MLAAttention):
                module.register_forward_pre_hook(hook, with_kwargs=True)

    def _attach(
        self, module: torch.nn.Module, site: str, one: AffineMap, *, in_stack: bool
    ) -> None:
        # Buffers of the module, so that a compiled graph reads them instead of copying them.
        module.register_buffer("aim_slope", one.scale - 1, persistent=False)
        module.register_buffer("aim_shift", one.shift, persistent=False)
        module.register_buffer("aim_low", one.support_min, persistent=False)
        module.register_buffer("aim_high", one.support_max, persistent=False)
        module.register_buffer("aim_strengths", self.strengths, persistent=False)
        bounded, clip = one.is_bounded, one.clip
        width = len(one.scale)

        def moved_by(module: Any, activations: Tensor) -> Tensor:
            if activations.shape[-1] != width:
                raise ValueError(
                    f"module {site!r} has {activations.shape[-1]} neurons on this worker, its map "
                    f"{width}: tensor parallelism splits its output; choose norms or whole layers"
                )
            support = (module.aim_low, module.aim_high) if bounded else None
            displacement = displace(
                activations.float(), module.aim_slope, module.aim_shift, support, clip=clip
            )
            return module.aim_strengths[: activations.shape[0]] * displacement

        def hook(module: Any, inputs: Any, outputs: Any) -> Any:
            if self._may_skip and not self._busy:
                return None
            if isinstance(outputs, Tensor):
                return (outputs.float() + moved_by(module, outputs)).to(outputs.dtype)
            first, *rest = outputs
            if in_stack and len(rest) == 1 and isinstance(rest[0], Tensor):
                # A decoder layer hands on its output as two summands.
                moved = moved_by(module, first + rest[0])
            else:
                moved = moved_by(module, first)
            return ((first.float() + moved).to(first.dtype), *rest)

        module.register_forward_hook(hook)

    def add_request(self, name: str, extra_args: Mapping[str, Any], prompt: Sequence[int]) -> None:
        """Notes the strength that a request asks for, and the first token that it reaches."""
        asked = RequestModulation.read(extra_args)
        self._strengths[name] = asked.strength
        self._starts[name] = len(prompt) - 1 if asked.start is None else asked.start

    def remove_request(self, name: str) -> None:
        """Forgets a request."""
        self._strengths.pop(name, None)
        self._starts.pop(name, None)

    def before_forward(self, step: Step) -> None:
        """Writes the strength of each token of the step that is about to run."""
        strengths = _looked_up(self._strengths, step.names, np.float32)
        starts = _looked_up(self._starts, step.names, np.int64) if self.last_only else None
        values = np.zeros_like(self._written)
        values[: step.rows[-1], 0] = token_strengths(step, strengths, starts)
        # Decoding steps are mostly like the one before.
        if not np.array_equal(values, self._written):
            self._written, self._busy = values, bool(values.any())
            self.strengths.copy_(to_device(values, self.strengths.device), non_blocking=True)


def token_strengths(
    step: Step,
    strengths: Float[np.ndarray, " requests"],
    starts: Int[np.ndarray, " requests"] | None = None,
) -> Float[np.ndarray, " tokens"]:
    """The strength of each token of a step.

    Args:
        step: The step.
        strengths: Strength of each request.
        starts: First position of each request that its strength reaches; None reaches all.
    """
    counts = np.diff(step.rows)
    tokens = np.repeat(strengths, counts)
    if starts is not None:
        positions = np.arange(len(tokens)) + np.repeat(step.positions - step.rows[:-1], counts)
        tokens[positions < np.repeat(starts, counts)] = 0
    return tokens


def _looked_up(table: Mapping[str, Any], names: Sequence[str], dtype: Any) -> np.ndarray:
    """A value for each request; one that is unknown would be left unsteered, and is an error."""
    return np.fromiter(map(table.__getitem__, names), dtype, len(names))


def _check_model(model: Any, transport: LearnedTransport, *, force: bool) -> None:
    """Checks modules and weights, as far as vLLM keeps them under the names of transformers."""
    if inner := [site for site in transport.maps.maps if split_site(site)[1]]:
        raise ValueError(f"site {inner[0]!r}: vLLM modules have one output, name it without ':k'")
    try:
        transport.check_sites(model)
    except ValueError as error:
        raise ValueError(
            f"{error}. vLLM fuses some modules (q, k and v; gate and up): choose norms, o_proj, "
            "down_proj, blocks or whole layers, or fold the transport"
        ) from error
    known = transport.metadata
    known.refuse(check_shared_weights(model, known.model_signature), force=force)
