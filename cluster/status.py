"""Say what runs, as lines for a terminal."""

from __future__ import annotations

from pathlib import Path

from cluster import monitoring, otlp, serving, zipkin
from cluster.options import RUN_DIR, command
from cluster.processes import Started
from cluster.state import State


def report(state: State | None, run_dir: Path = RUN_DIR) -> tuple[str, bool]:
    """Return the lines for a terminal, and whether the graph is ready."""
    if state is None or not state.alive:
        up, start, down = (command(name, run_dir) for name in ("up", "demo", "down"))
        leftover = f" (it ended without `{down}`, which tidies up)" if state is not None else ""
        return f"nothing runs here{leftover}; `{up}` or `{start}` starts it", False
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
    if state.otlp is not None:
        receiver = otlp.destination(state.otlp)
        trouble = otlp.problem(receiver)
        lines.append(f"OTLP       {receiver.url}   {'takes traces' if trouble is None else f'TAKES NONE: {trouble}'}")
    if state.zipkin_proxy is not None:
        asks = "asks for keys" if state.zipkin_proxy.requires_key else "DOESN'T ANSWER"
        lines.append(
            f"Gate       {state.zipkin_proxy.url}/zipkin/   {asks}, {_process(state.zipkin_proxy.process)}; keys in "
            f"{state.zipkin_proxy.viewers}, the log of who read what in {state.zipkin_proxy.audit_log}"
        )
    if state.database is not None:
        lines.append(f"MariaDB    127.0.0.1:{state.database.port}   {_process(state.database.process)}")
    for name, server, path in (
        ("Prometheus", state.prometheus, "/-/ready"),
        ("Alerts", state.alertmanager, "/-/ready"),
        ("WeCom", state.wecom, "/health"),
    ):
        if server is not None:
            health = "healthy" if monitoring.healthy(server.url, path) else "NOT HEALTHY"
            lines.append(f"{name:<10} {server.url}   {health}, {_process(server.process)}")
    if state.ray is not None and state.ray.process.alive:
        applications = serving.Dashboard(state.ray).applications()
        if state.page_url is not None:
            lines.insert(
                1, f"Web page   {state.page_url}   {applications.get(state.page_app, {}).get('status', 'GONE').lower()}"
            )
        ours = {
            name: deployment
            for app in (state.app, state.page_app, state.watchdog_app)
            for name, deployment in applications.get(app, {}).get("deployments", {}).items()
        }
        for service, deployment in sorted(ours.items()):
            replicas = deployment.get("replicas", [])
            running = sum(replica.get("state") == "RUNNING" for replica in replicas)
            lines.append(f"  {service:<18} {deployment['status']:<10} {running} of {len(replicas)} replicas run")
    return "\n".join(lines), ready


def _process(process: Started) -> str:
    return f"pid {process.pid}" if process.alive else f"pid {process.pid} IS GONE (its log: {process.log})"
