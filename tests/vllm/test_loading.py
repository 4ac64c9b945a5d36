"""Transports that are loaded into slots while an engine runs, without an engine."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from aim_plugins.engines.vllm.loading import EngineTransports, add_routes
from aim_plugins.engines.vllm.served import ServedAnswers
from aim_plugins.engines.vllm.steps import Step
from aim_plugins.engines.vllm.transports import Loading, configured_loading
from aim_plugins.engines.vllm.worker_maps import WorkerMaps
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

SITE, OTHER = "model.layers.0.post_attention_layernorm", "model.layers.1.input_layernorm"


def transport_of(small_model, maps: dict[str, AffineMap]) -> LearnedTransport:
    metadata = TransportMetadata.describe(
        small_model.model, small_model.tokenizer, method="linear", sites=list(maps)
    )
    return LearnedTransport(ActivationMaps(maps), metadata)


def random_map(*, support: float = torch.inf, clip: bool = False, width: int = 128) -> AffineMap:
    generator = torch.Generator().manual_seed(3)
    scale, shift = 1 + torch.randn(2, width, generator=generator)
    ends = torch.full((width,), support)
    return AffineMap(scale, shift, -ends, ends, clip)


@pytest.fixture()
def runner(small_model) -> SimpleNamespace:
    """What workers ask of a runner, around the model of transformers, whose modules have the names
    of vLLM's."""
    hooks = [one for module in small_model.model.modules() for one in (module._forward_hooks,)]
    config = SimpleNamespace(
        model_config=SimpleNamespace(enforce_eager=True, get_hidden_size=lambda: 128),
        additional_config={},
    )
    yield SimpleNamespace(
        vllm_config=config,
        max_num_tokens=16,
        device=torch.device("cpu"),
        get_model=lambda: small_model.model,
    )
    for one in hooks:
        one.clear()
    for module in small_model.model.modules():
        for name in [name for name in module._buffers if name.startswith("aim_")]:
            delattr(module, name)


def output(small_model, maps: WorkerMaps, inputs: torch.Tensor, **strengths: float) -> torch.Tensor:
    """What the site's module puts out for a request of some strengths."""
    asked = {f"aim_strength_{name}": strength for name, strength in strengths.items()}
    maps.add_request("r", asked, [1] * len(inputs))
    maps.before_forward(Step(["r"], np.array([0, len(inputs)]), np.array([0])))
    maps.remove_request("r")
    with torch.no_grad():
        return small_model.model.get_submodule(SITE)(inputs)


def loaded(maps: WorkerMaps, name: str, folder: Path) -> str | None:
    """What a worker answers that loads the transport which lies there."""
    known = LearnedTransport.load(folder).maps.fingerprint if folder.is_dir() else ""
    return maps.load(name, str(folder), known)


KINDS = [{}, {"support": 0.5}, {"support": 0.5, "clip": True}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_loaded_transport_does_what_its_map_does(small_model, runner, tmp_path, kind) -> None:
    one, start = random_map(**kind), random_map()
    folder = transport_of(small_model, {SITE: one}).save(tmp_path / "sea")
    maps = WorkerMaps(
        runner,
        {"start": transport_of(small_model, {SITE: start})},
        Loading(tmp_path, 2, (r".*layernorm",)),
    )
    inputs = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    plain = output(small_model, maps, inputs)
    assert loaded(maps, "sea", folder) is None
    given = output(small_model, maps, inputs, sea=0.7)
    assert torch.allclose(given, one(plain, 0.7), atol=1e-5)
    both = output(small_model, maps, inputs, sea=0.7, start=-0.2)
    wanted = plain + 0.7 * one.displacement(plain) - 0.2 * start.displacement(plain)
    assert torch.allclose(both, wanted, atol=1e-5)
    assert torch.equal(output(small_model, maps, inputs), plain)
    maps.unload("sea")
    # A straggler is not steered; an error would end the engine.
    assert torch.equal(output(small_model, maps, inputs, sea=0.7), plain)


def test_a_slot_that_is_free_again_has_nothing_of_the_former(small_model, runner, tmp_path) -> None:
    folders = {
        name: transport_of(small_model, {site: random_map()}).save(tmp_path / name)
        for name, site in (("here", SITE), ("there", OTHER))
    }
    maps = WorkerMaps(runner, {}, Loading(tmp_path, 1, (r".*layernorm",)))
    inputs = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    plain = output(small_model, maps, inputs)
    assert loaded(maps, "here", folders["here"]) is None
    assert "all slots are taken" in (loaded(maps, "there", folders["there"]) or "")
    maps.unload("here")
    assert loaded(maps, "there", folders["there"]) is None
    assert torch.equal(output(small_model, maps, inputs, there=1.0), plain)


def test_what_slots_cannot_hold_is_said(small_model, runner, tmp_path) -> None:
    maps = WorkerMaps(runner, {}, Loading(tmp_path, 1, (r".*post_attention_layernorm",)))
    for site, width, reason in (
        (OTHER, 128, "were not open to transports when the engine started"),
        ("model.layers.0.mlp.gate_proj", 256, "were not open"),
        ("model.norm", 64, "'model.norm'"),
    ):
        folder = transport_of(small_model, {site: random_map(width=width)}).save(tmp_path / "t")
        assert reason in (loaded(maps, "sea", folder) or "")
    assert "is no folder" in (loaded(maps, "sea", tmp_path / "none") or "")


class Client:
    """An engine as far as transports are loaded into it."""

    def __init__(self, loading: Loading | None, problem: str | Exception | None = None) -> None:
        self.called: list = []
        self.problem = problem
        maps = {"start": ActivationMaps({})}
        core = SimpleNamespace(core_engines=[b"0"], _call_utility_async=None)
        answers = ServedAnswers(core, maps)
        self.input_processor = SimpleNamespace(
            aim_admission=SimpleNamespace(
                loading=loading, maps=maps, transports=None, answers=answers
            )
        )
        self.running = answers.open

    async def collective_rpc(self, name: str, args: tuple) -> list:
        self.called.append((name, *args))
        if name == "aim_load_transport" and isinstance(self.problem, Exception):
            raise self.problem
        return [None, self.problem if name == "aim_load_transport" else None]


@pytest.fixture()
def root(small_transport: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_transport, tmp_path / "root" / "sea")
    shutil.copytree(small_transport, tmp_path / "outside")
    return tmp_path / "root"


def test_a_transport_is_known_to_requests_as_long_as_it_is_loaded(root) -> None:
    client = Client(Loading(root))
    engine = EngineTransports.of(client)
    maps = client.input_processor.aim_admission.maps
    found = asyncio.run(engine.load({"name": "storm", "folder": "sea"}))
    assert found["fingerprint"] == maps["storm"].fingerprint
    assert EngineTransports.of(client) is engine
    client.running.add("before")

    async def unload() -> None:
        unloading = asyncio.ensure_future(engine.unload({"name": "storm"}))
        await asyncio.sleep(0)
        assert "storm" not in maps
        client.running.add("after")
        with pytest.raises(ValueError, match="is taken"):
            await engine.load({"name": "storm", "folder": "sea"})
        await asyncio.sleep(0.1)
        assert not unloading.done()
        client.running.remove("before")
        await unloading

    asyncio.run(unload())
    folder = str(root / "sea")
    assert client.called == [
        ("aim_load_transport", "storm", folder, found["fingerprint"]),
        ("aim_unload_transport", "storm"),
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"name": "outside", "folder": "../outside"}, "no folder within"),
        ({"name": "sea", "folder": "."}, "no folder within"),
        ({"name": "sea", "folder": "/etc"}, "no folder within"),
        ({"name": "sea", "folder": 3}, "no folder within"),
        ({"name": "calm"}, "folder='calm' is no folder"),
        ({"name": "../sea", "folder": "sea"}, "is no name"),
        ({"folder": "sea"}, "name=None is no name"),
        ({"name": "start", "folder": "sea"}, "name='start' is taken"),
    ],
)
def test_what_may_not_be_loaded_is_refused(root, given: dict, reason: str) -> None:
    client = Client(Loading(root))
    with pytest.raises(ValueError, match=reason):
        asyncio.run(EngineTransports.of(client).load(given))
    assert not client.called


def test_a_link_that_leads_out_of_the_folder_is_refused(root) -> None:
    (root / "link").symlink_to(root.parent / "outside")
    with pytest.raises(ValueError, match="no folder within"):
        asyncio.run(EngineTransports.of(Client(Loading(root))).load({"name": "link"}))


def test_what_a_worker_cannot_hold_is_taken_back_from_all(root) -> None:
    client = Client(Loading(root), problem="all slots are taken")
    with pytest.raises(ValueError, match="folder='sea': all slots are taken"):
        asyncio.run(EngineTransports.of(client).load({"name": "sea"}))
    assert client.called[-1] == ("aim_unload_transport", "sea")
    assert list(client.input_processor.aim_admission.maps) == ["start"]


def test_a_worker_that_dies_leaves_nothing_loaded(root) -> None:
    client = Client(Loading(root), problem=RuntimeError("CUDA error"))
    with pytest.raises(RuntimeError, match="CUDA error"):
        asyncio.run(EngineTransports.of(client).load({"name": "sea"}))
    assert client.called[-1] == ("aim_unload_transport", "sea")
    assert list(client.input_processor.aim_admission.maps) == ["start"]


def test_a_worker_takes_no_other_maps_than_were_admitted_and_no_second_slot(
    small_model, runner, tmp_path
) -> None:
    folder = transport_of(small_model, {SITE: random_map()}).save(tmp_path / "sea")
    maps = WorkerMaps(runner, {}, Loading(tmp_path, 1, (r".*layernorm",)))
    assert "written anew" in (maps.load("sea", str(folder), "another") or "")
    assert loaded(maps, "sea", folder) is None
    assert loaded(maps, "sea", folder) is None
    for file in folder.iterdir():
        file.unlink()
        file.mkdir()
    assert maps.load("sea", str(folder), "") is not None


def test_a_server_that_was_not_told_so_loads_nothing() -> None:
    with pytest.raises(ValueError, match="--additional-config"):
        EngineTransports.of(Client(None))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("DIR", "does not say what may be loaded"),
        ({"sites": "a"}, "does not say what may be loaded"),
        ({"folder": "no/such"}, "is no folder"),
        ({"folder": ".", "slots": 0, "sites": "a"}, "slots=0 is no number"),
        ({"folder": ".", "sites": 3}, "sites=3 is no pattern"),
        ({"folder": ".", "sites": [3]}, "is no pattern"),
        ({"folder": "."}, "names no modules"),
        ({"folder": ".", "sites": "a"}, "leave out --data-parallel-size"),
    ],
)
def test_what_is_said_of_loading_is_checked(given: object, reason: str) -> None:
    parallel = SimpleNamespace(
        pipeline_parallel_size=1,
        prefill_context_parallel_size=1,
        use_ubatching=False,
        data_parallel_size=2,
    )
    config = SimpleNamespace(
        additional_config={"aim_loading": given},
        parallel_config=parallel,
        speculative_config=None,
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
    )
    with pytest.raises(ValueError, match=reason):
        configured_loading(config)


def asking(client: Client, host: str = "127.0.0.1") -> TestClient:
    """Asks a server for the routes alone, from some address."""
    app = FastAPI()
    app.state.engine_client = client
    add_routes(app)
    return TestClient(app, client=(host, 1))


def test_an_unknown_key_of_a_body_is_named(root) -> None:
    answer = asking(Client(Loading(root))).post("/v1/transports/load", json={"names": "sea"})
    assert answer.status_code == 400
    assert (
        answer.json()["error"]["message"] == "'names' is unknown in the body: did you mean 'name'?"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"])
def test_the_servers_own_machine_is_answered(root, host: str) -> None:
    http = asking(Client(Loading(root)), host)
    answer = http.post("/v1/transports/load", json={"name": "sea"})
    assert answer.status_code == 200, answer.text
    assert set(http.get("/v1/transports").json()["transports"]) == {"start", "sea"}


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("10.0.0.1", {}),
        ("::ffff:10.0.0.1", {}),
        ("testclient", {}),
        ("127.0.0.1", {"Origin": "http://localhost:8000"}),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}),
    ],
)
def test_nobody_else_is_answered(root, host: str, headers: dict) -> None:
    client = Client(Loading(root))
    answer = asking(client, host).post("/v1/transports/load", content="{", headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "PermissionDeniedError")
    assert not client.called


def test_the_list_is_answered_while_unloading_waits(root) -> None:
    client = Client(Loading(root))
    app = FastAPI()
    app.state.engine_client = client
    add_routes(app)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))

    async def ask() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            await http.post("/v1/transports/load", json={"name": "sea"})
            client.running.add("running")
            unloading = asyncio.ensure_future(
                http.post("/v1/transports/unload", json={"name": "sea"})
            )
            maps = client.input_processor.aim_admission.maps
            while "sea" in maps and not unloading.done():
                await asyncio.sleep(0)
            answer = await http.get("/v1/transports")
            assert set(answer.json()["transports"]) == {"start"} and not unloading.done()
            client.running.clear()
            assert (await unloading).status_code == 200

    asyncio.run(ask())
