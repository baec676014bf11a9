"""Reads the replicas and the nodes from Serve and Ray, and kills a replica.

Every call but `silent` blocks: make it in a thread.

Serve has no public call for a replica's actor from inside the cluster. Its REST API has one, but would need an address
and a token. So the controller is asked as Serve's own client asks it (`deployments/ray_internals.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.state import list_nodes

from deployments import ray_internals
from watchdog.nodes import Node
from watchdog.replicas import Replica, Service

log = logging.getLogger(__name__)

NAMESPACE = "serve"
ANSWERS_WITHIN_S = 5.0
CONNECTED_WITHIN_S = 2.0
#: A word in Ray's record of an actor's end -> the cause. Serve kills (RAY_KILL) a replica that it found unhealthy.
_ENDS = {
    "NODE_DIED": "node_died",
    "oom_context": "out_of_memory",
    "reason: RAY_KILL": "unhealthy",
    "worker process has died": "died",
    "WORKER_DIED": "died",
}


def services(app_name: str) -> dict[str, Service]:
    """Return the application's deployments by name. Empty if it is gone or Serve does not answer."""
    details = ray_internals.serve_details()
    return parse(details.get("applications", {}).get(app_name) or {})


def parse(application: Mapping[str, Any]) -> dict[str, Service]:
    """Read one application's deployments from Serve's details. A deployment that can't be read is left out."""
    found = {}
    for name, one in (application.get("deployments") or {}).items():
        try:
            found[name] = Service(
                _word(one["status"]),
                int(one["target_num_replicas"]),
                tuple(
                    Replica(
                        replica["replica_id"],
                        _word(replica["state"]),
                        replica.get("actor_name") or "",
                        replica.get("actor_id") or "",
                        replica.get("node_id") or "",
                    )
                    for replica in one.get("replicas") or ()
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            log.warning("what Serve says of %s can't be read (%s)", name, type(error).__name__)
    return found


def _word(value: object) -> str:
    return str(getattr(value, "value", value))


def end_of(replica: Replica) -> str:
    """Return why a replica's actor ended: died, unhealthy, node_died, out_of_memory, or gone if Ray doesn't say."""
    try:
        cause = ray_internals.actor_death_cause(replica.actor_id)
    except Exception as error:
        log.warning("why a replica ended can't be found out (%s)", type(error).__name__)
        return "gone"
    return next((word for mark, word in _ENDS.items() if mark in cause), "gone")


def nodes() -> list[Node]:
    """Return all nodes that Ray knows of, the dead ones too."""
    return parse_nodes(ray.nodes())


def parse_nodes(found: Iterable[Mapping[str, Any]]) -> list[Node]:
    """Read Ray's nodes. One that can't be read is left out."""
    read = []
    for one in found:
        try:
            read.append(
                Node(
                    str(one["NodeID"]),
                    str(one["NodeManagerAddress"]),
                    bool(one["Alive"]),
                    int(one.get("DeathReason") or 0),
                    str(one.get("DeathReasonMessage") or ""),
                    int(one.get("NodeManagerPort") or 0),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            log.warning("what Ray says of a node can't be read (%s)", type(error).__name__)
    return read


async def silent(nodes: Iterable[Node]) -> set[str]:
    """Return the ids of the nodes that take no connection on their raylet's port."""

    async def answers(node: Node) -> bool:
        try:
            async with asyncio.timeout(CONNECTED_WITHIN_S):
                _, writer = await asyncio.open_connection(node.address, node.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    asked = [node for node in nodes if node.alive and node.port]
    return {node.id for node, up in zip(asked, await asyncio.gather(*map(answers, asked)), strict=True) if not up}


def nodes_ended() -> dict[str, float]:
    """Return when dead nodes ended, in seconds since the epoch, by id. Empty where Ray's state API does not answer."""
    try:
        dead = list_nodes(
            # Without it, Ray looks for any cluster on this machine.
            address=ray.get_runtime_context().gcs_address,
            filters=[("state", "=", "DEAD")],
            limit=1000,
            timeout=int(ANSWERS_WITHIN_S),
            detail=True,
            raise_on_missing_output=False,  # Ray takes what the filter leaves out for missing
        )
        return {node.node_id: node.end_time_ms / 1000 for node in dead if node.end_time_ms}
    except Exception as error:
        log.warning("Ray's state API does not say when nodes ended (%s)", type(error).__name__)
        return {}


def at_fault(service: Service) -> Replica | None:
    """Return a running replica that fails its own health check now, or else the first one."""
    running = list(service.running.values())
    for replica in running:
        try:
            ray.get(_actor(replica).check_health.remote(), timeout=ANSWERS_WITHIN_S)
        except Exception:
            return replica
    return running[0] if running else None


def kill(replica: Replica) -> None:
    """End a replica's process; Serve starts another.

    Raises:
        ValueError: The replica is gone already.
    """
    ray.kill(_actor(replica), no_restart=True)


def _actor(replica: Replica) -> ActorHandle[Any]:
    return ray.get_actor(replica.actor_name, namespace=NAMESPACE)
