"""Makes tracers whose spans tell where the replica runs: its node's address and id, and its pod on Kubernetes."""

from __future__ import annotations

import os

import ray
import ray.util

from tracing import Tracer, vocabulary


def tracer(service: str, instance: str = "") -> Tracer:
    """Make the tracer of this process: its spans name the node.

    Args:
        service: the service's name.
        instance: the replica's id; empty for Serve's HTTP proxy, which is none.
    """
    place: dict[str, str] = {}
    if node := node_id():
        place[vocabulary.NODE_ID] = node
    if pod := _pod():
        place[vocabulary.K8S_POD_NAME] = pod
    return Tracer(service, instance=instance, ip=node_address(), place=place)


def node_id() -> str:
    """Return Ray's id of this node; empty outside of Ray, as in tests."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def node_address() -> str:
    """Return the address of this node, as Ray's other nodes reach it."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def _pod() -> str | None:
    """Return the pod's name. Kubernetes sets both variables in every container, and the host's name is the pod's."""
    return os.environ.get("HOSTNAME") if "KUBERNETES_SERVICE_HOST" in os.environ else None
