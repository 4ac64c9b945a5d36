"""Transports that a running server loads and unloads, by HTTP from its own machine.

    vllm serve MODEL --additional-config '{"aim_loading": {"folder": "DIR", "sites": ".*norm"}}'
    curl localhost:8000/v1/transports/load -d '{"name": "sea", "folder": "sea"}'

A server does so only where its configuration names the folder that transports may come from. They
are written into slots that workers have kept free since their start, in place, so that compiled
graphs and CUDA graphs read them when they run next.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from aim_plugins.core.errors import did_you_mean
from aim_plugins.engines.vllm.served import ServedAnswers
from aim_plugins.engines.vllm.transports import LOADING_KEY, Loading
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.named_kinds import is_label
from aim_plugins.transport.artifact import LearnedTransport

_FROM_ELSEWHERE = ("origin", "forwarded", "x-forwarded-for")
"""Headers of requests that a web page made or a proxy passed on."""

_PATIENCE = 300.0
"""Seconds that unloading waits for the requests that were there before it."""


def add_routes(app: FastAPI) -> None:
    """Adds the routes of this module to a server."""
    router = APIRouter()
    lock = asyncio.Lock()

    def answer(
        act: Callable[[EngineTransports, dict[str, Any]], Awaitable[dict[str, Any]]] | None,
    ) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def route(request: Request) -> JSONResponse:
            try:
                _refuse_elsewhere(request)
                given = _body(await request.body())
                engine = EngineTransports.of(request.app.state.engine_client)
                if act is None:  # what is there may be asked while one is waited for
                    found = {"transports": engine.described()}
                else:
                    async with lock:
                        found = await act(engine, given)
            except _ElsewhereError as error:
                return _error(str(error), 403, "PermissionDeniedError")
            except TimeoutError as error:  # before OSError, of which it is one
                return _error(str(error), 409, "ConflictError")
            except (ValueError, OSError) as error:
                return _error(str(error), 400, "BadRequestError")
            return JSONResponse(found)

        return route

    router.add_api_route("/v1/transports", answer(None), methods=["GET"])
    for path, act in (("load", EngineTransports.load), ("unload", EngineTransports.unload)):
        router.add_api_route(f"/v1/transports/{path}", answer(act), methods=["POST"])
    app.include_router(router)


def _error(message: str, code: int, kind: str) -> JSONResponse:
    error = {"message": message, "type": kind, "code": code}
    return JSONResponse({"error": error}, status_code=code)


class _ElsewhereError(Exception):
    """A request that is not surely from the server's own machine."""


def _refuse_elsewhere(request: Request) -> None:
    host = request.client.host if request.client else None
    if not _is_loopback(host):
        raise _ElsewhereError(
            f"transports are loaded from the server's own machine, not {host!r}: ask there, at "
            "localhost"
        )
    if through := next((name for name in _FROM_ELSEWHERE if name in request.headers), None):
        raise _ElsewhereError(
            f"the header {through} says that a proxy or a web page sent this: ask the server "
            "itself, from its own machine, without it"
        )


def _is_loopback(host: str | None) -> bool:
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _body(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body or b"{}")
    except ValueError as error:
        raise ValueError(f"the body is no JSON ({error})") from error
    if not isinstance(given, dict):
        raise ValueError('the body is no mapping such as {"name": "sea", "folder": "sea"}')
    known = ("name", "folder")
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(
            f"{unknown[0]!r} is unknown in the body: {did_you_mean(unknown[0], known)}"
        )
    return given


class EngineTransports:
    """The transports of a running engine.

    Args:
        client: The engine, `AsyncLLM`.
        loading: What may be loaded.
        maps: Maps that requests may ask for, by name; those that are loaded come and go.
    """

    def __init__(self, client: Any, loading: Loading, maps: dict[str, ActivationMaps]) -> None:
        self._client, self._loading, self._maps = client, loading, maps
        self._loaded: set[str] = set()

    @classmethod
    def of(cls, client: Any) -> EngineTransports:
        """Those of an engine.

        Raises:
            ValueError: If its configuration lets nothing be loaded.
        """
        admission = client.input_processor.aim_admission
        if admission.loading is None:
            raise ValueError(
                "this server loads no transports: start it with --additional-config "
                f'\'{{"{LOADING_KEY}": {{"folder": "DIR", "sites": ".*layernorm"}}}}\''
            )
        if admission.transports is None:
            admission.transports = cls(client, admission.loading, admission.maps)
        return admission.transports

    def described(self) -> dict[str, Any]:
        """Names, fingerprints, positions and numbers of sites."""
        return {name: _described(maps) for name, maps in self._maps.items()}

    async def load(self, given: dict[str, Any]) -> dict[str, Any]:
        """Loads a transport.

        Args:
            given: Its name, and its folder within the one that the configuration names.

        Raises:
            ValueError: If the name is malformed or taken, the folder is outside, damaged or of
                another model, or there is no slot or site for it.
        """
        name, folder = given.get("name"), self._folder(given.get("folder", given.get("name")))
        if not isinstance(name, str) or not is_label(name):
            raise ValueError(
                f"name={name!r} is no name that aim_strength_NAME may end in: take letters, digits "
                "and underscores, a letter first, at most 64"
            )
        if name in {*self._maps, *self._loaded}:
            raise ValueError(f"name={name!r} is taken: unload it first, or take another name")
        learned = await asyncio.to_thread(LearnedTransport.load, folder)
        call, fingerprint = self._client.collective_rpc, learned.maps.fingerprint
        try:
            problems = await call("aim_load_transport", args=(name, str(folder), fingerprint))
            if problem := next((one for one in problems if one is not None), None):
                raise ValueError(f"folder={given.get('folder', name)!r}: {problem}")
        except BaseException:  # some workers may have it, whatever went wrong
            await call("aim_unload_transport", args=(name,))
            raise
        self._loaded.add(name)
        self._maps[name] = learned.maps
        return {"name": name, **_described(learned.maps)}

    def _folder(self, named: Any) -> Path:
        root = self._loading.folder
        place = (root / named).resolve() if isinstance(named, str) and "\0" not in named else root
        if root not in place.parents or not place.is_dir():
            raise ValueError(f"folder={named!r} is no folder within {str(root)!r}")
        return place

    async def unload(self, given: dict[str, Any]) -> dict[str, Any]:
        """Unloads a transport, once the modulated requests that were there before have ended.

        Args:
            given: Its name.

        Raises:
            ValueError: If none of that name was loaded.
            TimeoutError: If requests do not end; it is unknown to new ones, and unloading may be
                asked for again.
        """
        name = given.get("name")
        if name not in self._loaded:
            raise ValueError(f"name={name!r} was not loaded: loaded are {sorted(self._loaded)}")
        self._maps.pop(name, None)
        # They are known before they are admitted, until their receipts have been settled.
        running = ServedAnswers.of(self._client).open
        waited, before = 0.0, set(running)
        while before & running:
            if waited > _PATIENCE:
                raise TimeoutError(
                    f"name={name!r}: {len(before & running)} requests still run; new ones are "
                    "refused: unload it again once they have ended"
                )
            await asyncio.sleep(0.05)
            waited += 0.05
        await self._client.collective_rpc("aim_unload_transport", args=(name,))
        self._loaded.discard(name)
        return {"name": name}


def _described(maps: ActivationMaps) -> dict[str, Any]:
    return {
        "fingerprint": maps.fingerprint,
        "positions": maps.positions,
        "sites": len(maps.maps),
    }
