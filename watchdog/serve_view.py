"""What Serve and Ray say of replicas, for the watchdog, and the end of one. Blocks: call it in a thread.

Serve has no public call for a replica's actor from inside the cluster; its REST API has the same, but would need an
address and a token. So the controller is asked as Serve's own client does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import ray
from ray import serve

from watchdog.replicas import Replica, Service

log = logging.getLogger("ray.serve")

NAMESPACE = "serve"
ANSWERS_WITHIN_S = 5.0
#: What Ray's record of an actor's end has in it -> what became of the replica. Whom Serve has killed was found ill.
_ENDS = {
    "NODE_DIED": "node_died",
    "oom_context": "out_of_memory",
    "reason: RAY_KILL": "unhealthy",
    "worker process has died": "died",
    "WORKER_DIED": "died",
}


def services(app_name: str) -> dict[str, Service]:
    """The application's deployments by name; empty where it is gone or Serve does not answer."""
    details = serve.context._get_global_client().get_serve_details()
    return parsed(details.get("applications", {}).get(app_name) or {})


def parsed(application: Mapping) -> dict[str, Service]:
    """Of one application as Serve's details have it. Whatever lacks what we need is left out."""
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
                    )
                    for replica in one.get("replicas") or ()
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            log.warning("what Serve says of %s can't be read (%s)", name, type(error).__name__)
    return found


def _word(value) -> str:
    return str(getattr(value, "value", value))


def end_of(replica: Replica) -> str:
    """Why a replica's actor ended: died, unhealthy, node_died, out_of_memory, or gone where Ray doesn't say."""
    from ray._private.state import actors  # ray.util.state would need the dashboard's address, and a token

    try:
        cause = str(actors(replica.actor_id).get("DeathCause", ""))
    except Exception as error:
        log.warning("why a replica ended can't be found out (%s)", type(error).__name__)
        return "gone"
    return next((word for mark, word in _ENDS.items() if mark in cause), "gone")


def at_fault(service: Service) -> Replica | None:
    """Of a service's running replicas one that doesn't pass its own health check now, or else the first."""
    running = list(service.running.values())
    for replica in running:
        try:
            ray.get(_actor(replica).check_health.remote(), timeout=ANSWERS_WITHIN_S)
        except Exception:
            return replica
    return running[0] if running else None


def kill(replica: Replica) -> None:
    """End a replica's process; Serve starts another. Raises ValueError where it is gone already."""
    ray.kill(_actor(replica), no_restart=True)


def _actor(replica: Replica):
    return ray.get_actor(replica.actor_name, namespace=NAMESPACE)
