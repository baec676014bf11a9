"""Private calls into Ray, Serve and Python's thread pools: all of them stand here, each with what it is for.

Neither project promises that these calls stay. Each has a contract test in `tests/served/test_ray_internals.py`, which
fails first after an upgrade. Two patches stand elsewhere, because they must run before Ray is imported:
`cluster/loopback` (where gRPC servers listen) and `cluster/ray_head.py` (the workers' setup hook); the same test file
holds their contracts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from threading import Thread
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

#: Of a caller. After 5 s without an answer it asks whether the other end is there, and 5 s later it gives the
#: connection up: a request that waits for a lost node goes to another replica within 10 s. A new connection is given up
#: after 3 s instead of 20.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),  # TCP's, for bytes that are not confirmed
    ("grpc.http2.ping_timeout_ms", 5_000),  # of the question; 60 s by default, whatever the other timeout says
    ("grpc.http2.max_pings_without_data", 0),  # a batch may compute for longer than two of them
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
#: The replica's end: it takes these questions, which are more than gRPC allows by default, and asks itself: what a lost
#: node has asked for is cancelled.
SERVER_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
)


def _core_worker() -> Any:
    worker: Any = ray._private.worker.global_worker
    return worker.core_worker


def _serve_client() -> Any:
    return serve.context._get_global_client()


def serialize_object_ref(ref: ray.ObjectRef[Any]) -> tuple[bytes, bytes]:
    """Take an ObjectRef apart, so that it can travel outside Ray's own messages.

    Returns:
        The owner's address and the object's status, both as Ray serialises them.
    """
    _, owner, status = _core_worker().serialize_object_ref(ref)
    return owner, status


def deserialize_object_ref(binary: bytes, owner: bytes, status: bytes) -> ray.ObjectRef[Any]:
    """Build the ObjectRef again in another process and register this process as a borrower.

    Args:
        binary: `ObjectRef.binary()` of the original.
        owner: the owner's address, from `serialize_object_ref`.
        status: the object's status, from `serialize_object_ref`.
    """
    object_ref: Any = ray.ObjectRef  # its stub has another signature than its code
    ref: ray.ObjectRef[Any] = object_ref(binary, owner, "")
    _core_worker().deserialize_and_register_object_ref(binary, ray.ObjectRef.nil(), owner, status)
    return ref


def prefer_local_replicas(handle: DeploymentHandle[Any]) -> None:
    """Make a handle choose among the replicas on its own node while one of them has room.

    Serve has this for its HTTP proxy; for handles its public options don't. Call it before the handle is used.
    """
    if not handle.is_initialized:
        handle._init(_prefer_local_routing=True)  # type: ignore[no-untyped-call]


def serve_http_host() -> str | None:
    """Return the address that Serve's HTTP proxy listens on, as Serve's controller knows it."""
    host: str | None = _serve_client().http_config.host
    return host


def serve_details() -> Mapping[str, Any]:
    """Return what Serve's REST API says of all applications, without an address or a token."""
    details: Mapping[str, Any] = _serve_client().get_serve_details()
    return details


def kv_put(key: str, value: bytes) -> None:
    """Write a value into Ray's key-value store, which the head keeps; blocks for a call to the head."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key, value, overwrite=True)


def kv_get(key: str) -> bytes | None:
    """Return a value from Ray's key-value store; None if there is none. Blocks for a call to the head."""
    from ray.experimental import internal_kv

    value: bytes | None = internal_kv._internal_kv_get(key)
    return value


def keep_connections_alive() -> None:
    """Make Serve's connections to replicas notice that the other end is gone without a word.

    A node that loses its network closes no connection. By Ray's settings a call that waits for it is given up after
    seven minutes (`RAY_grpc_client_keepalive_time_ms` and `…_timeout_ms`); these would hold for Ray's own connections
    too, whose servers break off with a client that asks more often. Call it in a worker before Serve connects.
    """
    from ray._private import grpc_utils
    from ray.serve._private import replica
    from ray.serve._private.request_router import replica_wrapper

    wrapper: Any = replica_wrapper
    wrapper.init_grpc_channel = _with_options(grpc_utils.init_grpc_channel, CHANNEL_OPTIONS)
    server: Any = replica
    server.create_grpc_server_with_interceptors = _with_options(
        grpc_utils.create_grpc_server_with_interceptors, SERVER_OPTIONS
    )


def _with_options(make: Callable[..., Any], more: Sequence[tuple[str, int]]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, options: Sequence[tuple[str, Any]] | None = None, **named: Any) -> Any:
        return make(*args, options=[*(options or ()), *more], **named)

    return made


def running_replicas(handle: DeploymentHandle[Any]) -> int | None:
    """Return how many running replicas a handle knows of; None where it was not used yet, or has not heard of any."""
    router = getattr(getattr(handle, "_router", None), "_asyncio_router", None)
    chooser = getattr(router, "request_router", None)
    return len(chooser.curr_replicas) if chooser is not None else None


def wanted_replicas(handle: DeploymentHandle[Any]) -> int | None:
    """Return how many replicas of a handle's deployment Serve wants now; None if it does not say. Blocks for a call."""
    application = serve_details().get("applications", {}).get(handle.app_name) or {}
    wanted = (application.get("deployments", {}).get(handle.deployment_name) or {}).get("target_num_replicas")
    return None if wanted is None else int(wanted)


def replica_node(handle: DeploymentHandle[Any], actor_id: str | None) -> str | None:
    """Return the id of the node that a deployment's replica is on; None where Serve does not list the replica.

    Args:
        handle: the deployment's, which was used already.
        actor_id: the replica's, as Ray's errors have it.
    """
    router = getattr(getattr(handle, "_router", None), "_asyncio_router", None)
    chooser = getattr(router, "request_router", None)
    replicas = chooser.curr_replicas.values() if chooser is not None else ()
    return next((replica.node_id for replica in replicas if replica.actor_id.hex() == actor_id), None)


def actor_death_cause(actor_id: str) -> str:
    """Return Ray's record of why an actor ended, as text; empty where there is none.

    The public call, `ray.util.state`, needs the dashboard's address and a token.
    """
    from ray._private.state import actors

    return str(actors(actor_id).get("DeathCause", ""))


def executor_threads(executor: Executor) -> Collection[Thread]:
    """Return the threads that a `ThreadPoolExecutor` has started so far."""
    threads: Collection[Thread] = getattr(executor, "_threads", ())
    return threads


def replica_is_stopping() -> bool:
    """Tell whether Serve is stopping the replica that this process is. It says so to nobody, and waits for requests."""
    actor = ray._private.worker.global_worker.actors.get(ray._private.worker.global_worker.actor_id)
    return bool(getattr(getattr(actor, "_replica_impl", None), "_shutting_down", False))
