"""The contract of each private call into Ray, Serve and thread pools: what an upgrade must not change unnoticed.

The first tests look at the packages alone; the last ones call a running cluster, as the graph does.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from ray.core.generated import common_pb2

from cluster import loopback, ray_head
from deployments import ray_internals
from watchdog import nodes, serve_view


def test_a_core_worker_can_take_references_apart_and_put_them_together():
    import ray

    for method in ("serialize_object_ref", "deserialize_and_register_object_ref"):
        assert callable(getattr(ray._raylet.CoreWorker, method))


def test_serves_client_knows_the_http_options_and_all_applications():
    from ray.serve import context
    from ray.serve._private.client import ServeControllerClient

    assert callable(context._get_global_client)
    assert isinstance(ServeControllerClient.http_config, property)
    assert callable(ServeControllerClient.get_serve_details)


def test_a_handle_can_be_told_to_prefer_replicas_on_its_node():
    from ray.serve._private.handle_options import InitHandleOptions
    from ray.serve.handle import DeploymentHandle

    asked = []

    class Handle:
        is_initialized = property(lambda self: bool(asked))
        _init = staticmethod(lambda **options: asked.append(options))

    handle = Handle()
    ray_internals.prefer_local_replicas(handle)
    ray_internals.prefer_local_replicas(handle)
    assert asked == [{"_prefer_local_routing": True}], "once: an initialised handle refuses"
    assert InitHandleOptions.create(**asked[0])._prefer_local_routing is True
    assert isinstance(DeploymentHandle.is_initialized, property) and callable(DeploymentHandle._init)


def test_serves_connections_are_made_by_the_functions_that_are_replaced(monkeypatch):
    from ray._private import grpc_utils
    from ray.serve._private import replica
    from ray.serve._private.request_router import replica_wrapper

    for module, name in ((replica_wrapper, "init_grpc_channel"), (replica, "create_grpc_server_with_interceptors")):
        original = getattr(grpc_utils, name)
        assert name in inspect.getsource(module) and "options" in inspect.signature(original).parameters
        monkeypatch.setattr(module, name, original)  # put back afterwards
    ray_internals.keep_connections_alive()
    assert replica_wrapper.init_grpc_channel.__wrapped__ is grpc_utils.init_grpc_channel
    made = replica.create_grpc_server_with_interceptors
    assert made.__wrapped__ is grpc_utils.create_grpc_server_with_interceptors


class Relay:
    """Carries a TCP connection's bytes until it is cut: nothing is closed then, and nothing comes any more."""

    def __init__(self) -> None:
        self.cut = False

    async def start(self, port: int) -> int:
        async def connected(reader, writer):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

        self._server = await asyncio.start_server(connected, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _carry(self, reader, writer) -> None:
        while data := await reader.read(65536):
            if not self.cut:
                writer.write(data)

    def close(self) -> None:
        self._server.close()


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_call_over_a_silent_connection_is_given_up_and_one_that_computes_is_not(is_cut):
    """With Serve's own options both wait until their deadline. Here the questions come 50 times as often."""
    import grpc
    from ray._private import grpc_utils

    quick = {"grpc.keepalive_time_ms": 100, "grpc.keepalive_timeout_ms": 300, "grpc.http2.ping_timeout_ms": 300}
    fast = {"grpc.http2.min_ping_interval_without_data_ms": 10}
    channel_options = list({**dict(ray_internals.CHANNEL_OPTIONS), **quick}.items())
    server_options = list({**dict(ray_internals.SERVER_OPTIONS), **fast}.items())

    async def run() -> tuple[object, float]:
        computing = asyncio.Event()

        async def compute(request, context):
            computing.set()
            await asyncio.sleep(1.5)  # a dozen questions
            return b"done"

        make = ray_internals._with_options(grpc_utils.create_grpc_server_with_interceptors, server_options)
        server, relay = make(asynchronous=True), Relay()
        handlers = {"Call": grpc.unary_unary_rpc_method_handler(compute)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("drill", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        connect = ray_internals._with_options(grpc_utils.init_grpc_channel, channel_options)
        channel = connect(f"127.0.0.1:{await relay.start(port)}", asynchronous=True)
        began = time.monotonic()
        try:
            call = channel.unary_unary("/drill/Call")(b"", timeout=20)
            await computing.wait()
            relay.cut = is_cut
            return await call, time.monotonic() - began
        except grpc.aio.AioRpcError as error:
            return error.code(), time.monotonic() - began
        finally:
            await channel.close()
            relay.close()
            await server.stop(0)

    outcome, took_s = asyncio.run(run())
    if is_cut:
        assert outcome is grpc.StatusCode.UNAVAILABLE and took_s < 1.4, "before its work would have been done"
    else:
        assert outcome == b"done" and took_s >= 1.5


def test_a_handle_tells_the_node_of_a_replica_that_serve_lists():
    from ray.serve._private.request_router.replica_wrapper import RunningReplica
    from ray.serve._private.request_router.request_router import RequestRouter
    from ray.serve._private.router import AsyncioRouter, CurrentLoopRouter

    for kind, name in ((RunningReplica, "node_id"), (RunningReplica, "actor_id"), (RequestRouter, "curr_replicas")):
        assert isinstance(getattr(kind, name), property)
    assert isinstance(AsyncioRouter.request_router, property)
    assert "_asyncio_router" in inspect.getsource(CurrentLoopRouter.__init__)

    class Id:
        def hex(self) -> str:
            return "ab12"

    replica = SimpleNamespace(actor_id=Id(), node_id="node")
    router = SimpleNamespace(request_router=SimpleNamespace(curr_replicas={1: replica}))
    handle = SimpleNamespace(_router=SimpleNamespace(_asyncio_router=router))
    assert ray_internals.replica_node(handle, "ab12") == "node"
    assert ray_internals.replica_node(handle, "cd34") is None
    assert ray_internals.replica_node(SimpleNamespace(_router=None), "ab12") is None
    assert ray_internals.running_replicas(handle) == 1
    assert ray_internals.running_replicas(SimpleNamespace(_router=None)) is None, "it was not used yet"


def test_an_executor_names_the_threads_it_has_started():
    with ThreadPoolExecutor(2) as executor:
        assert list(ray_internals.executor_threads(executor)) == []
        executor.submit(int).result()
        [thread] = ray_internals.executor_threads(executor)
        assert thread.is_alive()


@pytest.mark.parametrize("module", loopback._MENDED)
def test_the_functions_that_loopback_replaces_are_there(module):
    functions = {
        "ray._private.services": ("resolve_ip_for_localhost", ["host"]),
        "ray._common.tls_utils": ("add_port_to_grpc_server", ["server", "address"]),
    }
    name, parameters = functions[module]
    assert list(inspect.signature(getattr(importlib.import_module(module), name)).parameters) == parameters


def test_the_workers_setup_hook_is_still_found_by_its_variable():
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    assert WORKER_PROCESS_SETUP_HOOK_ENV_VAR in ray_head.SETTINGS


def test_the_proxys_middleware_is_still_found_by_its_variable():
    from ray.serve._private import constants

    assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" in ray_head.SETTINGS
    assert hasattr(constants, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH")


def test_a_reference_can_be_taken_apart_and_put_together(ray_driver):
    ref = ray_driver.put(np.arange(200_000))
    owner, status = ray_internals.serialize_object_ref(ref)
    again = ray_internals.deserialize_object_ref(ref.binary(), owner, status)
    assert again == ref and ray_driver.get(again, timeout=30).sum() == 200_000 * 199_999 // 2


def test_ray_says_why_an_actor_ended(ray_driver):
    @ray_driver.remote(num_cpus=0.1)
    class Actor:
        def ping(self) -> None:
            pass

    actor = Actor.remote()
    ray_driver.get(actor.ping.remote(), timeout=60)
    assert ray_internals.actor_death_cause(actor._actor_id.hex()) == ""
    ray_driver.kill(actor)
    end = time.monotonic() + 30
    while not (cause := ray_internals.actor_death_cause(actor._actor_id.hex())):
        assert time.monotonic() < end, "Ray never said"
        time.sleep(0.1)
    assert "RAY_KILL" in cause


def test_a_replica_knows_that_serve_stops_it(monkeypatch):
    import ray
    from ray.serve._private import replica

    assert "self._shutting_down = False" in inspect.getsource(replica.Replica.__init__)
    assert "self._shutting_down = True" in inspect.getsource(replica.Replica._perform_graceful_shutdown)
    assert "_replica_impl" in inspect.getsource(replica.ReplicaActor)
    worker = ray._private.worker.global_worker
    assert isinstance(worker.actors, dict) and hasattr(worker, "actor_id")
    assert not ray_internals.replica_is_stopping(), "this is no replica"
    stopping = SimpleNamespace(_replica_impl=SimpleNamespace(_shutting_down=True))
    fake = SimpleNamespace(actors={"a": stopping}, actor_id="a")
    monkeypatch.setattr(ray._private.worker, "global_worker", fake)
    assert ray_internals.replica_is_stopping()


def test_a_value_that_one_process_leaves_another_one_finds(ray_driver):
    @ray_driver.remote(num_cpus=0.1)
    def leave() -> None:
        ray_internals.kv_put("cosygraph:test", b"left")

    assert ray_internals.kv_get("cosygraph:test") is None
    ray_driver.get(leave.remote(), timeout=60)
    assert ray_internals.kv_get("cosygraph:test") == b"left"


def test_a_class_is_taken_for_an_applications_policy_and_made_once():
    """deployments/scaling/serve_policy.py relies on the hook, and on the layout of the reports."""
    from ray.serve._private.autoscaling_state import ApplicationAutoscalingState, DeploymentAutoscalingState
    from ray.serve.config import AutoscalingContext
    from ray.serve.schema import ServeApplicationSchema

    assert "autoscaling_policy" in ServeApplicationSchema.model_fields
    assert "raw_metrics" in inspect.signature(AutoscalingContext.__init__).parameters
    assert callable(ApplicationAutoscalingState.register)
    state = object.__new__(DeploymentAutoscalingState)
    state._running_replicas = ["r"]
    state._replica_metrics = {"r": SimpleNamespace(metrics={"arrived": ["a point"]})}
    assert state._get_raw_custom_metrics() == {"arrived": {"r": ["a point"]}}


def test_serve_says_what_it_listens_on_and_which_replicas_it_has(ray_driver, fast):
    from ray import serve

    fast.wait_ready()
    assert ray_internals.serve_http_host() == "127.0.0.1"
    replicas = ray_internals.serve_details()["applications"]["fast"]["deployments"]["tts-service"]["replicas"]
    assert replicas and all(replica["actor_name"] and replica["actor_id"] for replica in replicas)
    handle = serve.get_deployment_handle("tts-service", "fast")
    assert ray_internals.running_replicas(handle) in (None, len(replicas)), "Serve may have made it for another test"
    handle.ping.remote().result(timeout_s=30)
    assert ray_internals.running_replicas(handle) == ray_internals.wanted_replicas(handle) == len(replicas)
    unknown = SimpleNamespace(app_name="no application of this name", deployment_name="tts-service")
    assert ray_internals.wanted_replicas(unknown) is None


def test_ray_says_of_each_node_whether_it_lives_and_why_it_ended(ray_driver, caplog):
    """The keys that watchdog/serve_view.py reads: Ray documents `ray.nodes()`, and not its keys."""
    [node] = ray_driver.nodes()
    assert node["Alive"] is True and len(node["NodeID"]) == 56 and node["NodeManagerAddress"] == "127.0.0.1"
    assert isinstance(node["NodeManagerPort"], int) and node["NodeManagerPort"] > 0
    assert node["DeathReason"] == 0 and node["DeathReasonMessage"] == ""
    reasons = common_pb2.NodeDeathInfo
    assert (nodes.EXPECTED_TERMINATION, nodes.DRAIN_PREEMPTED, nodes.DRAIN_IDLE) == (
        reasons.EXPECTED_TERMINATION,
        reasons.AUTOSCALER_DRAIN_PREEMPTED,
        reasons.AUTOSCALER_DRAIN_IDLE,
    )
    assert serve_view.nodes_ended() == {} and not caplog.text, "the state API answers"
