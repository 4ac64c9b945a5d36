"""What vLLM runs at its start where aim-plugins is installed.

Two things have to be in place before any engine is made: workers attach the transports that their
configuration names, and requests are checked and told apart at admission.

vLLM admits a request before it knows whether the engine's logits processors will run. Under
speculative decoding processors of the first model runner are left out without a word, and a request
for noise would get none. `register` therefore lets the check at admission, which answers a client
with status 400, look at the engine's configuration too, and refuses there what vLLM would drop
from the body of a request before that. Requests of different transport strengths
must not share cached keys and values: each gets a salt of its own there.
"""

from __future__ import annotations

import functools
from typing import Any

from aim_plugins.engines.vllm.parameters import (
    PREFIX,
    SAMPLING_NAME,
    RequestModulation,
    asked_for,
    shown,
)
from aim_plugins.engines.vllm.versions import changed_interface, require_supported


def register() -> None:
    """Entry point of the group `vllm.general_plugins`; a second call changes nothing.

    Raises:
        ImportError: If this release of vLLM keeps its check elsewhere.
    """
    from vllm.v1.engine.input_processor import InputProcessor

    require_supported()
    _check_requests(InputProcessor)
    _attach_transports()


def _check_requests(processor_class: Any) -> None:
    original = processor_class.__init__
    if getattr(original, "checks_modulation", False):
        return

    @functools.wraps(original)
    def initialize(self: Any, vllm_config: Any, *arguments: Any, **options: Any) -> None:
        original(self, vllm_config, *arguments, **options)
        _check_bodies()
        _add_routes()
        _follow_answers()
        validate = getattr(self, "validate_logits_processors_params", None)
        if validate is None:
            raise changed_interface("InputProcessor.validate_logits_processors_params")
        self.aim_admission = _Admission(vllm_config)

        def validate_request(sampling_params: Any) -> None:
            validate(sampling_params)
            self.aim_admission.check(sampling_params)

        self.validate_logits_processors_params = validate_request

    # On the class, as `__init__` binds the method for the prompts of asynchronous engines.
    process = getattr(processor_class, "process_inputs", None)
    if process is None:
        raise changed_interface("InputProcessor.process_inputs")

    @functools.wraps(process)
    def process_inputs(self: Any, *arguments: Any, **options: Any) -> Any:
        return self.aim_admission.salt(process(self, *arguments, **options))

    initialize.checks_modulation = True  # type: ignore[attr-defined]
    processor_class.__init__ = initialize
    processor_class.process_inputs = process_inputs


def _check_bodies() -> None:
    """Lets servers refuse bodies whose modulation would be lost before the request is admitted."""
    # Only processes that take requests come here; workers need not import any of it.
    from vllm.entrypoints.serve.engine.serving import BaseServing

    original = getattr(BaseServing, "_check_model", None)
    if original is None:
        raise changed_interface("BaseServing._check_model")
    if getattr(original, "checks_modulation", False):
        return

    @functools.wraps(original)
    async def check(self: Any, request: Any, *arguments: Any, **options: Any) -> Any:
        refuse_lost_arguments(request)
        return await original(self, request, *arguments, **options)

    check.checks_modulation = True  # type: ignore[attr-defined]
    BaseServing._check_model = check


def refuse_lost_arguments(request: Any) -> None:
    """Refuses the body of a request whose modulation vLLM would ignore without a word.

    Args:
        request: The body as the server has parsed it.

    Raises:
        VLLMValidationError: If arguments stand outside `vllm_xargs`, the endpoint takes none, or
            beam search is asked for, whose parameters have no room for them.
    """
    from vllm.exceptions import VLLMValidationError

    extra = getattr(request, "model_extra", None) or {}
    for name in sorted(name for name in extra if name.startswith(PREFIX)):
        value = shown(extra[name])
        if name == SAMPLING_NAME:
            raise VLLMValidationError(
                f"{name}={value} is no argument of a server: sample with temperature and seed"
            )
        raise VLLMValidationError(
            f"{name}={value} stands at the top of the body, where vLLM ignores it: move it into "
            f'vllm_xargs, {{"vllm_xargs": {{"{name}": {value}}}}}'
        )
    given: Any = getattr(request, "vllm_xargs", None) or {}
    asked = sorted(name for name in given if name.startswith(PREFIX))
    if asked and "vllm_xargs" in extra:
        raise VLLMValidationError(
            f"vllm_xargs: {asked[0]}={shown(given[asked[0]])} would be left out, as this endpoint "
            f"({type(request).__name__}) hands no arguments on: ask /v1/completions or "
            "/v1/chat/completions"
        )
    if asked and getattr(request, "use_beam_search", False):
        raise VLLMValidationError(
            f"use_beam_search=True leaves {asked[0]}={shown(given[asked[0]])} out, as vLLM hands "
            "vllm_xargs to no beam: leave one of the two out"
        )


class _Admission:
    """What a request is held against before an engine takes it.

    Args:
        vllm_config: The engine's configuration.

    Attributes:
        maps: Maps that requests may ask for, by name.
        loading: What may be loaded beside them.
        conditions: Conditions that requests may ask for, by name.
        probes: What decides them, once it was asked to.
        transports: What loads them, once it was asked to.
        answers: What watches a server's answers, once it was asked for one.

    Raises:
        ValueError: If the configuration names transports or conditions that cannot be read or run.
    """

    def __init__(self, vllm_config: Any) -> None:
        from aim_plugins.engines.vllm import conditions, transports

        self._reason = why_not(vllm_config)
        self._logprobs_mode = vllm_config.model_config.logprobs_mode
        self.maps = transports.configured_maps(vllm_config)
        self.loading = transports.configured_loading(vllm_config)
        self.transports: Any = None
        self.probes: Any = None
        self.conditions = conditions.configured_conditions(vllm_config)
        self._why_undecided = conditions.why_undecided
        self.answers: Any = None
        self._check_maps, self._salt = transports.check_maps, transports.cache_salt

    def check(self, sampling_params: Any) -> None:
        """Refuses a request whose modulation this engine would leave out."""
        from vllm.exceptions import VLLMValidationError

        given = sampling_params.extra_args or {}
        if not any(name.startswith(PREFIX) for name in given):
            return
        if self._reason:
            raise VLLMValidationError(self._reason)
        asked = RequestModulation.read(given)
        if reason := self._why_undecided(asked.column.changes):
            raise VLLMValidationError(reason)
        wanted = sampling_params.num_logprobs
        if asked.logits and wanted is not None and self._logprobs_mode.startswith("raw_"):
            raise VLLMValidationError(
                f"{asked_for(asked.logits[0])} does not reach logprobs={wanted}, which this engine "
                f"takes from clean logits (logprobs_mode={self._logprobs_mode!r}): start vLLM with "
                "--logprobs-mode processed_logprobs, or leave one of the two out"
            )
        self._known_maps(asked)

    def _known_maps(self, asked: RequestModulation) -> dict[str, Any]:
        """The maps of now, which the request asks for no others than."""
        from vllm.exceptions import VLLMValidationError

        maps = dict(self.maps)  # read once, as another thread unloads some
        try:
            self._check_maps(asked.column.acting_on("activations"), maps)
        except ValueError as error:
            raise VLLMValidationError(str(error)) from error
        return maps

    def salt(self, request: Any) -> Any:
        """Keeps cached keys and values of some strengths from requests of others."""
        parameters = request.sampling_params
        # Also where nothing is loaded yet: a client could name the salt of what comes later.
        if (self.maps or self.loading) and parameters is not None:
            asked = RequestModulation.read(parameters.extra_args)
            request.cache_salt = self._salt(
                request.cache_salt,
                self._known_maps(asked),
                asked,
                len(request.prompt_token_ids or ()),
            )
        return request


def refuse_other_frontend() -> None:
    """Refuses vLLM's frontend in Rust, past which nothing here would see a request.

    Raises:
        ValueError: If it is asked for.
    """
    from vllm import envs

    if envs.VLLM_USE_RUST_FRONTEND:
        raise ValueError(
            "VLLM_USE_RUST_FRONTEND=1 takes requests past aim-plugins, which could neither refuse "
            "them nor say what was changed: unset it, or leave aim_plugins out of VLLM_PLUGINS"
        )


def _attach_transports() -> None:
    from vllm.v1.worker.worker_base import WorkerBase

    original = WorkerBase.__init__
    if getattr(original, "attaches_transport", False):
        return

    @functools.wraps(original)
    def initialize(self: Any, vllm_config: Any, *arguments: Any, **options: Any) -> None:
        original(self, vllm_config, *arguments, **options)
        from aim_plugins.engines.vllm import (
            conditions,
            transports,
            watching,
            worker_maps,
            worker_states,
        )

        known = conditions.configured_conditions(vllm_config)
        if widths := conditions.watched_widths(vllm_config, known):
            worker_states.attach_after_loading(self, known.values(), widths)
        folders = transports.configured_folders(vllm_config)
        loading = transports.configured_loading(vllm_config)
        if folders or loading:
            worker_maps.attach_after_loading(self, folders, loading)
        if vllm_config.model_config.runner_type == "generate":
            refuse_other_frontend()
            watching.watch_after_loading(self)

    def load(self: Any, name: str, folder: str, fingerprint: str) -> str | None:
        return self.model_runner.aim_maps.load(name, folder, fingerprint)

    def unload(self: Any, name: str) -> None:
        self.model_runner.aim_maps.unload(name)

    def take_answers(self: Any, *asked: Any) -> Any:
        from aim_plugins.engines.vllm import processor, watching

        working = processor.ChangesVLLMProcessor.working(self.vllm_config)
        return watching.take_answers(self.model_runner, working and working.seen, *asked)

    initialize.attaches_transport = True  # type: ignore[attr-defined]
    WorkerBase.__init__ = initialize
    # What `loading`, `runs` and `served` call in all workers.
    WorkerBase.aim_load_transport = load
    WorkerBase.aim_unload_transport = unload
    WorkerBase.aim_take_answers = take_answers


def _add_routes() -> None:
    """Lets servers load transports, see `loading`, and say what was changed, see `responses`."""
    from vllm.entrypoints import serve

    original = getattr(serve, "register_vllm_serve_api_routers", None)
    if original is None:
        raise changed_interface("vllm.entrypoints.serve.register_vllm_serve_api_routers")
    if getattr(original, "adds_transports", False):
        return

    @functools.wraps(original)
    def register_routers(app: Any) -> None:
        original(app)
        from aim_plugins.engines.vllm import loading, responses

        loading.add_routes(app)
        responses.add_receipts()

    register_routers.adds_transports = True  # type: ignore[attr-defined]
    serve.register_vllm_serve_api_routers = register_routers


def _follow_answers() -> None:
    """Lets asynchronous engines decide conditions, see `probes`, and vouch for answers, `served`.

    What decides is outside: it hands on a request without conditions, whose answer is watched.
    """
    from aim_plugins.engines.vllm import probes, served

    served.watch_answers()
    probes.decide_requests()


def why_not(vllm_config: Any) -> str | None:
    """Why an engine with this configuration cannot modulate; None if it can."""
    model = vllm_config.model_config
    if vllm_config.speculative_config is not None:
        return (
            "this engine decodes speculatively, where vLLM leaves logits processors out: "
            "modulation would be silently off; start vLLM without speculative_config "
            "(--speculative-config)"
        )
    if getattr(model, "is_encoder_decoder", False):
        return (
            "this model is an encoder-decoder, whose noise would have to be keyed by its source "
            "text as well; modulate a causal language model"
        )
    if getattr(model, "enable_prompt_embeds", False):
        return (
            "this engine takes prompts as embeddings, and keyed noise needs their token ids; start "
            "vLLM without enable_prompt_embeds (--enable-prompt-embeds)"
        )
    if getattr(vllm_config.parallel_config, "enable_batch_sharded_sampling", False):
        return (
            "this engine shards the sampling of a batch, so that no worker sees all logits; start "
            "vLLM without enable_batch_sharded_sampling (--enable-batch-sharded-sampling)"
        )
    if (
        not vllm_config.use_v2_model_runner
        and vllm_config.scheduler_config.async_scheduling
        and not model.logits_processors
    ):
        return (
            "this engine schedules asynchronously and shows installed logits processors "
            "placeholders in place of tokens; start vLLM with async_scheduling=False "
            "(--no-async-scheduling), or with --logits-processors "
            "aim_plugins.engines.vllm.processor:ChangesVLLMProcessor"
        )
    return None
