"""Maps of activations in vLLM's workers, strengths for each request, eager or compiled.

Hooks are attached as soon as a worker has loaded the model, so that they are compiled with it. What
they read at every step is one buffer: the strength of each transport at each token of the batch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.core.signature import check_shared_weights
from aim_plugins.engines.vllm.parameters import RequestModulation
from aim_plugins.engines.vllm.steps import RunnerSteps, Step, StepListener, to_device
from aim_plugins.engines.vllm.tables import RequestTable
from aim_plugins.engines.vllm.transports import FORCE_KEY, Loading
from aim_plugins.modulation.activations import AffineMap, displace
from aim_plugins.modulation.hooks import choose_sites, find_module
from aim_plugins.modulation.sites import split_site
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.vectors import affine_maps

_log = logging.getLogger(__name__)

PARTS = ("slope", "shift", "low", "high")
"""Vectors of a map, which modules keep as the buffers `aim_PART_PLACE`."""
_NEUTRAL = (0.0, 0.0, -torch.inf, torch.inf)


def attach_after_loading(
    worker: Any, folders: Mapping[str, Path], loading: Loading | None = None
) -> None:
    """Lets a worker attach the transports of some folders once its model is loaded."""
    load_model = worker.load_model

    @functools.wraps(load_model)
    def load(*arguments: Any, **options: Any) -> None:
        load_model(*arguments, **options)
        runner = worker.model_runner
        if not hasattr(runner, "aim_maps"):
            named = {name: LearnedTransport.load(folder) for name, folder in folders.items()}
            runner.aim_maps = WorkerMaps(runner, named, loading)
            RunnerSteps.of(runner).listeners.append(runner.aim_maps)

    worker.load_model = load


class WorkerMaps(StepListener):
    """Transports attached to the model of one worker.

    Their strengths are one buffer, a number for each token of a step and each transport, whatever
    the number of distinct ones. It keeps its address and is written in place, so that CUDA graphs
    read it when they run.

    Args:
        runner: The worker's model runner, after it has loaded its model.
        transports: The transports, by the names that requests give them.
        loading: What may be loaded later.

    Attributes:
        strengths: That buffer, [tokens, places].
        sites: The sites of each transport that is there, by its name.

    Raises:
        ValueError: If the engine's configuration, the model or one of its modules does not allow
            one.
    """

    def __init__(
        self,
        runner: Any,
        transports: Mapping[str, LearnedTransport],
        loading: Loading | None = None,
    ) -> None:
        config = runner.vllm_config
        self._model = runner.get_model()
        self._positions = {name: one.maps.positions for name, one in transports.items()}
        self._places = {name: place for place, name in enumerate(transports)}
        self.sites = {
            name: list(affine_maps(one.maps.maps, "vLLM")) for name, one in transports.items()
        }
        count = len(transports) + (loading.slots if loading else 0)
        self._slots = list(range(len(transports), count))
        self.strengths = torch.zeros((runner.max_num_tokens, count), device=runner.device)
        self._written = np.zeros((runner.max_num_tokens, count), dtype=np.float32)
        self._rows = 0  # of the step before
        self._requests = RequestTable((3, count))
        # What a compiler or a CUDA graph has recorded cannot ask at every step: it adds zero times
        # the displacement.
        self._may_skip = bool(config.model_config.enforce_eager)
        self._busy = [False] * count
        forced = config.additional_config.get(FORCE_KEY) or ()
        for name, transport in transports.items():
            _check_model(self._model, transport, force=name in forced)
        # Compiled graphs are kept by a hash of the configuration, which knows the folders alone.
        config.additional_config["aim_transport_fingerprints"] = {
            name: transport.fingerprint for name, transport in transports.items()
        }
        sites: dict[torch.nn.Module, dict[int, _Site]] = {}
        for place, transport in enumerate(transports.values()):
            for site, one in affine_maps(transport.maps.maps, "vLLM").items():
                own = sites.setdefault(self._module(site), {})
                own[place] = _Site(len(one.scale), one.is_bounded, one.clip, one.to(runner.device))
        self._open = self._open_modules(sites, loading)
        self._wide = config.model_config.get_hidden_size()
        ones = torch.ones(self._wide, device=runner.device)
        empty = _Site(self._wide, True, None, AffineMap.everywhere(ones, 0 * ones))
        for module in self._open:
            sites.setdefault(module, {}).update(dict.fromkeys(self._slots, empty))
        for name, module in self._model.named_modules():
            if module in sites:
                in_stack = is_in_stack(self._model, name)
                self._attach(module, name, sites[module], in_stack=in_stack)
        self._keep_cache_finite(self._model)

    def _module(self, site: str) -> torch.nn.Module:
        return find_module(self._model, split_site(site)[0])

    def _open_modules(
        self, taken: Iterable[torch.nn.Module], loading: Loading | None
    ) -> set[torch.nn.Module]:
        """The modules that may be moved by what is loaded later."""
        if loading is None:
            return set()
        if not loading.sites:
            return set(taken)
        return {self._module(site) for site in choose_sites(self._model, loading.sites)}

    def load(self, name: str, folder: str, fingerprint: str) -> str | None:
        """Writes a transport into a free slot, in place of what is loaded under its name.

        Args:
            name: What requests call it.
            folder: Where it is.
            fingerprint: Of its maps, as whoever admits requests has read them.

        Returns:
            Why not, if it could not.
        """
        self.unload(name)
        try:
            transport = LearnedTransport.load(folder)
            if transport.maps.fingerprint != fingerprint:
                raise ValueError("it was written anew while it was loaded: load it again")
            maps = affine_maps(transport.maps.maps, "vLLM")
            _check_model(self._model, transport, force=False)
            modules = {site: self._module(site) for site in maps}
            if closed := [site for site, one in modules.items() if one not in self._open]:
                raise ValueError(
                    f"{len(closed)} of its {len(modules)} sites were not open to transports when "
                    f"the engine started, such as {closed[0]!r}: name them in sites of aim_loading"
                )
            widths = {site: len(one.scale) for site, one in maps.items()}
            if wide := [site for site, width in widths.items() if width != self._wide]:
                raise ValueError(
                    f"site {wide[0]!r} has {widths[wide[0]]} neurons, and slots have the model's "
                    f"hidden size of {self._wide}: start with the transport"
                )
            if not self._slots:
                raise ValueError("all slots are taken: unload another one, or start with more")
        except (ValueError, OSError) as error:
            return str(error)
        place = self._slots.pop()
        for site, one in maps.items():
            vectors = (one.scale - 1, one.shift, one.support_min, one.support_max)
            self._write(modules[site], place, vectors, one.clip)
        self._places[name], self._positions[name] = place, transport.maps.positions
        self.sites[name] = list(maps)
        return None

    def unload(self, name: str) -> None:
        """Frees the slot of a transport, if it has one."""
        if (place := self._places.pop(name, None)) is None:
            return
        del self._positions[name], self.sites[name]
        for module in self._open:
            self._write(module, place, _NEUTRAL, False)
        self._slots.append(place)

    def place(self, name: str) -> int:
        """The place of a transport among the strengths of a token."""
        return self._places[name]

    def names(self) -> list[str | None]:
        """The transport at each place, None where one may be loaded."""
        found = {place: name for name, place in self._places.items()}
        return [found.get(place) for place in range(len(self._busy))]

    def windows(self, asked: RequestModulation, prompt_length: int) -> list[tuple[int, int]]:
        """The first position that each transport of a request reaches, and one past the last."""
        try:
            moved = asked.movements(self._positions, prompt_length)
        except KeyError:  # not there any more
            return []
        return [(start, stop) for _, start, stop in moved.values()]

    def _write(
        self, module: torch.nn.Module, place: int, vectors: Sequence[Tensor | float], clip: bool
    ) -> None:
        for part, vector in zip((*PARTS, "clip"), (*vectors, clip), strict=True):
            buffer = module.get_buffer(f"aim_{part}_{place}")
            # Vectors of another width are refused, and numbers fill.
            value = vector if isinstance(vector, Tensor) else torch.full_like(buffer, vector)
            buffer.copy_(value)

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
            if self._may_skip and not any(self._busy):
                return None
            return (*inputs[:1], *map(finite, inputs[1:])), {
                name: value if name in ("query", "q") else finite(value)
                for name, value in options.items()
            }

        for module in model.modules():
            if isinstance(module, Attention | MLAAttention):
                module.register_forward_pre_hook(hook, with_kwargs=True)

    def _attach(
        self, module: torch.nn.Module, name: str, sites: Mapping[int, _Site], *, in_stack: bool
    ) -> None:
        """Lets a module's output move.

        Args:
            module: The module.
            name: Its name, for errors.
            sites: Maps of its output, by the place of their transport.
            in_stack: Whether it is one of a list of layers.
        """
        for place, site in sites.items():
            # Buffers of the module, so that a compiled graph reads them instead of copying them.
            one = site.map
            vectors = (one.scale - 1, one.shift, one.support_min, one.support_max)
            for part, vector in zip(PARTS, vectors, strict=True):
                module.register_buffer(f"aim_{part}_{place}", vector.clone(), persistent=False)
            clip = torch.zeros(1, dtype=torch.bool, device=vectors[0].device)
            module.register_buffer(f"aim_clip_{place}", clip, persistent=False)
        module.register_buffer("aim_strengths", self.strengths, persistent=False)
        own = [(place, site.width, site.bounded, site.clip) for place, site in sites.items()]

        def moved_by(module: Any, activations: Tensor) -> Tensor:
            rows, neurons = activations.shape[0], activations.shape[-1]
            exact = activations.float()
            total: Any = 0.0
            for place, width, bounded, clip in own:
                if self._may_skip and not self._busy[place]:
                    continue
                if neurons != width:
                    raise ValueError(
                        f"module {name!r} has {neurons} neurons on this worker, its map {width}: "
                        "tensor parallelism splits its output; choose norms or whole layers"
                    )
                slope, shift, low, high = [getattr(module, f"aim_{one}_{place}") for one in PARTS]
                if clip is None:
                    within = ((low < exact) & (exact < high)) | getattr(module, f"aim_clip_{place}")
                    moved = torch.addcmul(shift, exact.clamp(low, high), slope)
                    displacement = torch.where(within, moved, 0.0)
                else:
                    support = (low, high) if bounded else None
                    displacement = displace(exact, slope, shift, support, clip=clip)
                # Norms of queries and keys have an axis of heads between tokens and neurons.
                shape = (rows, *[1] * (activations.dim() - 1))
                strengths = module.aim_strengths[:rows, place].reshape(shape)
                total = total + strengths * displacement
            return total

        def hook(module: Any, inputs: Any, outputs: Any) -> Any:
            if self._may_skip and not any(self._busy[place] for place in sites):
                return None
            if isinstance(outputs, Tensor):
                return (outputs.float() + moved_by(module, outputs)).to(outputs.dtype)
            first, *rest = outputs
            moved = moved_by(module, activations_of(outputs, in_stack=in_stack))
            return ((first.float() + moved).to(first.dtype), *rest)

        module.aim_moved_by = module.register_forward_hook(hook).id  # type: ignore[assignment]

    def add_request(self, name: str, extra_args: Mapping[str, Any], prompt: Sequence[int]) -> None:
        """Notes the strengths that a request asks for, and the tokens that they reach.

        One whose transport is not there any more is not steered: an error here would end the
        engine, and all other requests with it. Its answer is refused, as its receipt tells.
        """
        try:
            asked = RequestModulation.read(extra_args).movements(self._positions, len(prompt))
        except KeyError as error:
            _log.error("request %s is not steered: transport %s was unloaded", name, error)
            asked = {}
        values = np.zeros((3, len(self._busy)))
        for one, how in asked.items():
            values[:, self._places[one]] = how
        self._requests[name] = values

    def remove_request(self, name: str) -> None:
        """Forgets a request."""
        del self._requests[name]

    def before_forward(self, step: Step) -> None:
        """Writes the strengths at each token of the step that is about to run."""
        own = token_strengths(step, self._requests.of(step.names))
        # What the step before wrote beyond this one is cleared.
        rows, self._rows = max(len(own), self._rows), len(own)
        values, written = np.zeros_like(self._written[:rows]), self._written[:rows]
        values[: len(own)] = own
        # Decoding steps are mostly like the one before.
        if not np.array_equal(values, written):
            written[:], self._busy = values, values.any(axis=0).tolist()
            strengths = to_device(values, self.strengths.device)
            self.strengths[:rows].copy_(strengths, non_blocking=True)


@dataclass(frozen=True)
class _Site:
    """A map of a module's output.

    Attributes:
        width: Its neurons.
        bounded: Whether it has a support.
        clip: What happens outside of it, see `AffineMap`; None where the buffers tell, as in slots.
        map: The map, on the device.
    """

    width: int
    bounded: bool
    clip: bool | None
    map: AffineMap


def token_strengths(
    step: Step, asked: Float[np.ndarray, "requests 3 transports"]
) -> Float[np.ndarray, "tokens transports"]:
    """The strengths at each token of a step.

    Args:
        step: The step.
        asked: Of each request and transport the strength, the first position that it reaches, and
            one past the last.
    """
    counts = np.diff(step.rows)
    strengths, firsts, stops = np.repeat(asked, counts, axis=0).transpose(1, 0, 2)
    positions = np.arange(len(strengths)) + np.repeat(step.positions - step.rows[:-1], counts)
    within = (firsts <= positions[:, None]) & (positions[:, None] < stops)
    return np.where(within, strengths, 0.0)


def is_in_stack(model: torch.nn.Module, name: str) -> bool:
    """Whether a module is one of a list of layers."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.ModuleList)


def activations_of(outputs: Any, *, in_stack: bool) -> Tensor:
    """The activations in a module's output.

    Args:
        outputs: The output.
        in_stack: Whether the module is one of a list of layers.
    """
    if isinstance(outputs, Tensor):
        return outputs
    first, *rest = outputs
    # A decoder layer hands on its output as two summands.
    if in_stack and len(rest) == 1 and isinstance(rest[0], Tensor):
        return first + rest[0]
    return first


def _check_model(model: Any, transport: LearnedTransport, *, force: bool) -> None:
    """Checks modules and weights, as far as vLLM keeps them under the names of transformers."""
    if inner := [site for site in transport.maps.maps if split_site(site)[1]]:
        raise ValueError(f"site {inner[0]!r}: vLLM modules have one output, name it without ':k'")
    try:
        transport.check_sites(model)
    except ValueError as error:
        raise ValueError(
            f"{error}. vLLM fuses some modules (q, k and v; gate and up): choose "
            "norms, o_proj, down_proj, blocks or whole layers, or fold the transport"
        ) from error
    known = transport.metadata
    known.refuse(check_shared_weights(model, known.model_signature), force=force)
