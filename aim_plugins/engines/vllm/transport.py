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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aim_plugins.core.signature import check_shared_weights
from aim_plugins.engines.vllm.parameters import RequestModulation, asked_for
from aim_plugins.engines.vllm.versions import changed_interface
from aim_plugins.modulation.activations import ActivationMaps, AffineMap, displace
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.sites import split_site
from aim_plugins.transport.artifact import LearnedTransport

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
    return LearnedTransport.load(folder).maps


def why_not(vllm_config: Any) -> str | None:
    """Why an engine with this configuration cannot transport activations; None if it can."""
    parallel = vllm_config.parallel_config
    if vllm_config.use_v2_model_runner:
        return (
            "activation transport runs on vLLM's first model runner: start vLLM with the "
            "environment variable VLLM_USE_V2_MODEL_RUNNER=0"
        )
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


def register() -> None:
    """Lets workers attach the transport that their configuration names; repeatable."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for runner in (GPUModelRunner, CPUModelRunner):
        if "load_model" in vars(runner):
            _attach_after_loading(runner)
    if not hasattr(GPUModelRunner, "_model_forward"):
        raise changed_interface("GPUModelRunner._model_forward")
    _fill_before_forward(GPUModelRunner)


def _attach_after_loading(runner_class: Any) -> None:
    original = runner_class.load_model
    if getattr(original, "attaches_transport", False):
        return

    @functools.wraps(original)
    def load_model(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        folder = configured_folder(self.vllm_config)
        if folder is not None and not hasattr(self, "aim_transport"):
            self.aim_transport = WorkerTransport(self, LearnedTransport.load(folder))

    load_model.attaches_transport = True  # type: ignore[attr-defined]
    runner_class.load_model = load_model


def _fill_before_forward(runner_class: Any) -> None:
    original = runner_class._model_forward
    if getattr(original, "fills_strengths", False):
        return

    @functools.wraps(original)
    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        if (transport := getattr(self, "aim_transport", None)) is not None:
            transport.fill()
        return original(self, *arguments, **options)

    forward.fills_strengths = True  # type: ignore[attr-defined]
    runner_class._model_forward = forward


class WorkerTransport:
    """A transport attached to the model of one worker.

    Args:
        runner: The worker's model runner, after it has loaded its model.
        transport: The transport.

    Raises:
        ValueError: If the engine's configuration, the model or one of its modules does not allow
            it.
    """

    def __init__(self, runner: Any, transport: LearnedTransport) -> None:
        config = runner.vllm_config
        self._runner = runner
        self.last_only = transport.maps.positions == "last"
        self.strengths = torch.zeros((runner.max_num_tokens, 1), device=runner.device)
        self._busy = False
        model = runner.get_model()
        _check_model(model, transport, force=bool(config.additional_config.get(FORCE_KEY)))
        # Compiled graphs are kept by a hash of the configuration, which knows the folder alone.
        config.additional_config["aim_transport_fingerprint"] = transport.fingerprint
        parents = {name: module for name, module in model.named_modules()}
        for site, one in transport.maps.maps.items():
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
            if not torch.compiler.is_compiling() and not self._busy:
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
            # Compiled graphs cannot ask: they add zero times the displacement.
            if not torch.compiler.is_compiling() and not self._busy:
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

    def fill(self) -> None:
        """Writes the strength of each token of the step that is about to run."""
        runner, batch = self._runner, self._runner.input_batch
        modulations = [
            _modulation(runner.requests[name]) for name in batch.req_ids[: batch.num_reqs]
        ]
        asked = any(modulation.strength != 0 for modulation in modulations)
        if not asked and not self._busy:
            return
        ends = runner.query_start_loc.np[: batch.num_reqs + 1].tolist()
        values = torch.zeros((ends[-1], 1))
        for row, modulation in enumerate(modulations):
            first, start = ends[row], modulation.start
            if self.last_only:
                begin = int(batch.num_prompt_tokens[row]) - 1 if start is None else start
                first += max(0, begin - int(batch.num_computed_tokens_cpu[row]))
            values[first : ends[row + 1]] = modulation.strength
        self.strengths.zero_()
        self.strengths[: ends[-1]].copy_(values)
        self._busy = asked


def _modulation(request: Any) -> RequestModulation:
    # Read once for each request, not at every step.
    if not hasattr(request, "aim_modulation"):
        parameters = request.sampling_params  # a pooling model's request has none
        request.aim_modulation = RequestModulation.read(parameters and parameters.extra_args)
    return request.aim_modulation


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
