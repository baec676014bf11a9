"""What runs, as a person reads it."""

from __future__ import annotations

from cluster import serving, zipkin
from cluster.state import State


def report(state: State | None) -> tuple[str, bool]:
    """(lines for a terminal, whether the graph serves)."""
    if state is None or not state.alive:
        leftover = " (it ended without `make down`, which will tidy up)" if state is not None else ""
        return f"nothing runs here{leftover}; `make up` or `make demo` starts it", False
    ready, said = serving.ask_ready(state.http_url)
    lines = [f"API        {state.http_url}   {'ready' if ready else f'NOT READY: {said}'}   (since {state.began})"]
    if state.ray is not None:
        lines.append(f"Ray        {state.ray.dashboard_url}   {_process(state.ray.process)}")
    if state.zipkin is None:
        lines.append(f"Zipkin     none; spans are in {state.spans_file}")
    else:
        health = "healthy" if zipkin.healthy(state.zipkin.url) else "NOT HEALTHY"
        whose = _process(state.zipkin.process) if state.zipkin.process else "not started here"
        lines.append(f"Zipkin     {state.zipkin.ui_url}   {health}, {whose}; traces in {state.zipkin.storage}")
    if state.gate is not None:
        asks = "asks for keys" if state.gate.asks_for_a_key else "DOESN'T ANSWER"
        lines.append(f"Gate       {state.gate.url}/zipkin/   {asks}, {_process(state.gate.process)}; keys in "
                     f"{state.gate.viewers}, who looked at what in {state.gate.audit_log}")
    if state.database is not None:
        lines.append(f"MariaDB    127.0.0.1:{state.database.port}   {_process(state.database.process)}")
    if state.ray is not None and state.ray.process.alive:
        application = serving.Dashboard(state.ray).applications().get(state.app, {})
        for service, deployment in sorted(application.get("deployments", {}).items()):
            replicas = deployment.get("replicas", [])
            running = sum(replica.get("state") == "RUNNING" for replica in replicas)
            lines.append(f"  {service:<18} {deployment['status']:<10} {running} of {len(replicas)} replicas run")
    return "\n".join(lines), ready


def _process(process) -> str:
    return f"pid {process.pid}" if process.alive else f"pid {process.pid} IS GONE (its log: {process.log})"
