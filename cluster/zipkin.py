"""A Zipkin to send spans to: one that runs already, or one started here on loopback, by Java or by Docker.

In order: ZIPKIN_URL; the jar (ZIPKIN_JAR, the user's cache, fetched) with a Java; Docker. Where none of them can be
had, `find_or_start` answers with what is missing, and the caller goes on without. The way by Docker has only been
tried with a stand-in for the `docker` command. Traces are kept in memory unless a storage is given (`cluster.storage`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from cluster import java, processes, zipkin_jar
from cluster.cli_error import CliError
from cluster.ports import LOOPBACK, require_free

IMAGE = f"openzipkin/zipkin:{zipkin_jar.VERSION}"
READY_WITHIN_S = 90.0
#: about 20,000 plain requests; the oldest are dropped first. What 512 MB of heap hold with room to spare.
MEM_MAX_SPANS = 100_000


@dataclass(frozen=True)
class Zipkin:
    """A Zipkin that answers. `process` is None if it ran already: then it is never stopped here."""

    url: str
    process: processes.Started | None = None
    container: str | None = None
    storage: str = "mem"  #: for people and for `links`: the kind and, where there is a server, its address

    @property
    def ui_url(self) -> str:
        return f"{self.url}/zipkin"


def page_address(url: str, name: str) -> str:
    """Return the address at which people open Zipkin, without /zipkin behind it.

    Args:
        url: what was given.
        name: the option or variable that gave it, for the message.

    Raises:
        CliError: It is no address that a browser can open.
    """
    base = url.strip().rstrip("/").removesuffix("/zipkin")
    try:
        parts = urlsplit(base)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise CliError(
            f"{name} is {url!r}, which is no address that a browser can open: write https://traces.example, or "
            f"http://{LOOPBACK}:9411."
        )
    return base


def settings(port: int, storage: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the server's configuration, which it reads from its environment, with Java and in a container alike.

    AUTOCOMPLETE_KEYS stays unset. Zipkin's page (Lens 3.6.1) appends an empty term to a search whose terms are all
    such keys, and finds nothing: by link, by hand, and by the very lists that the setting offers.
    tests/served/test_zipkin_links.py opens our links in a browser.

    Args:
        port: Where the server will listen.
        storage: Settings of its storage; without them it keeps traces in memory.
    """
    return {
        "STORAGE_TYPE": "mem",
        "MEM_MAX_SPANS": str(MEM_MAX_SPANS),
        # Its own page needs no permission; the default lets every page of the web read the traces.
        "ZIPKIN_QUERY_ALLOWED_ORIGINS": f"http://{LOOPBACK}:{port}",
        "COLLECTOR_GRPC_ENABLED": "false",
        **(storage or {}),
    }


def find_or_start(
    port: int,
    log: Path,
    say: Callable[[str], None],
    env: Mapping[str, str] = os.environ,
    remember: Callable[[Zipkin], None] = lambda zipkin: None,
    storage: Callable[[], Mapping[str, str]] | None = None,
) -> tuple[Zipkin | None, list[str]]:
    """Return a Zipkin that is ready, or None, and a list of what was missing.

    Args:
        port: For the server that is started.
        log: For its output.
        say: Hears of progress.
        env: ZIPKIN_URL names a server that runs already, ZIPKIN_JAR the jar to run.
        remember: Called as soon as a server is started, before it is ready, so that it can be stopped whatever happens.
        storage: Gets a storage ready and returns the settings that name it; called when everything else is there.

    Raises:
        CliError: An explicit wish can't be fulfilled: ZIPKIN_URL doesn't answer, ZIPKIN_JAR is no file, the port is
            taken, or with a storage anything is missing.
    """
    running = env.get("ZIPKIN_URL")
    if running and storage:
        raise CliError(
            f"ZIPKIN_URL names a Zipkin that runs already ({running}), and that one has its storage. Leave "
            "--zipkin-storage out, or unset ZIPKIN_URL to have a Zipkin started here."
        )
    if running:
        return _already_running(running.rstrip("/").removesuffix("/zipkin")), []
    require_free(
        port, "Zipkin", "--zipkin-port", f"If it is a Zipkin of your own, use it: ZIPKIN_URL=http://{LOOPBACK}:{port}."
    )
    missing = []
    runtime, found = java.find(env)
    if runtime is None:
        missing.append(found)
        if storage:
            raise CliError(f"A Zipkin with a storage of its own runs by Java alone. {found}")
    else:
        try:
            jar = zipkin_jar.obtain(say, env)
            stored = storage() if storage else {}
            say(f"starting Zipkin on http://{LOOPBACK}:{port} ({found})")
            return _start(java_command(runtime, jar, port), port, log, None, remember, stored), missing
        except CliError as problem:
            if env.get("ZIPKIN_JAR") or storage:
                raise
            missing.append(str(problem))
    if not _docker_runs(env):
        missing.append("no Docker engine answers either")
        return None, missing
    container = f"cosygraph-zipkin-{port}-{os.getpid()}"
    say(f"starting Zipkin on http://{LOOPBACK}:{port} (Docker, {IMAGE})")
    try:
        return _start(docker_command(container, port), port, log, container, remember), missing
    except CliError as problem:
        missing.append(str(problem))
        return None, missing


def java_command(runtime: Path, jar: Path, port: int) -> list[str]:
    """Return the command for Java. `server.address` doesn't bind this server to loopback; the armeria settings do."""
    return [
        str(runtime),
        "-Xmx512m",
        "-XX:+ExitOnOutOfMemoryError",
        "-jar",
        str(jar),
        f"--armeria.ports[0].ip={LOOPBACK}",
        f"--armeria.ports[0].port={port}",
        "--armeria.ports[0].protocols[0]=http",
    ]


def docker_command(container: str, port: int) -> list[str]:
    """Return the command for Docker, in the foreground like the other one; only loopback is published."""
    command = ["docker", "run", "--rm", "--name", container, "--memory", "768m", "--publish", f"{LOOPBACK}:{port}:9411"]
    for name, value in settings(port).items():
        command += ["--env", f"{name}={value}"]
    return [*command, IMAGE]


def healthy(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/health", timeout=5, trust_env=False)
        return answer.status_code == 200 and answer.json().get("status") == "UP"
    except (httpx.HTTPError, ValueError, AttributeError):
        return False


def stop(process: processes.Started, container: str | None) -> None:
    """Stop a server that was started here. A container outlives a killed `docker run`, so it is removed by name."""
    processes.stop(process)
    if container:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, timeout=60, check=False)


def _already_running(url: str) -> Zipkin:
    if not healthy(url):
        raise CliError(
            f"ZIPKIN_URL is {url}, but {url}/health doesn't answer as a healthy Zipkin does. Start it, "
            "correct the address, or unset ZIPKIN_URL to have one started here."
        )
    return Zipkin(url)


def _start(
    command: list[str],
    port: int,
    log: Path,
    container: str | None,
    remember: Callable[[Zipkin], None],
    storage: Mapping[str, str] | None = None,
) -> Zipkin:
    began = time.monotonic()
    process = processes.start("zipkin", command, log, env=settings(port, storage))
    zipkin = Zipkin(f"http://{LOOPBACK}:{port}", process, container)
    remember(zipkin)
    while not healthy(zipkin.url):
        if not process.alive:
            stop(process, container)
            raise CliError(f"Zipkin ended while it started. The end of {log}:\n{processes.last_lines(log)}")
        if time.monotonic() - began > READY_WITHIN_S:
            stop(process, container)
            raise CliError(
                f"Zipkin was not ready within {READY_WITHIN_S:.0f} s. The end of {log}:\n{processes.last_lines(log)}"
            )
        time.sleep(0.25)
    return zipkin


def _docker_runs(env: Mapping[str, str]) -> bool:
    docker = shutil.which("docker", path=env.get("PATH", ""))
    if docker is None:
        return False
    try:
        return subprocess.run([docker, "info"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
