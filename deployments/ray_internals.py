"""Private calls into Ray, Serve and Python's thread pools: all of them stand here, each with what it is for.

Neither project promises that these calls stay. Each has a contract test in `tests/served/test_ray_internals.py`, which
fails first after an upgrade. Two patches stand elsewhere, because they must run before Ray is imported:
`cluster/loopback` (where gRPC servers listen) and `cluster/ray_head.py` (the workers' setup hook); the same test file
holds their contracts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from threading import Thread
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle


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
