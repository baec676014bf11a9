"""Servers that are written in Java, for tests: fetched as the jars of `tests/backends`, started on loopback."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cluster import java, java_source, maven, ports, processes
from cluster.cli_error import CliError

BACKENDS = Path(__file__).with_name("backends")
READY_WITHIN_S = 120.0
HEAP = "-Xmx384m"


class Program:
    """The jars of one server and a Java for them. Skips the test where they can't be had."""

    def __init__(self, jars: str, folder: Path) -> None:
        self.folder = folder
        self.runtime, found = java.find()
        if self.runtime is None:
            pytest.skip(found)
        try:
            self.jars = maven.obtain_all(maven.read_list(BACKENDS / jars), print)
        except CliError as problem:
            pytest.skip(str(problem))

    def compile(self, source: Path) -> None:
        java_source.compile(source, self.jars, self.folder, self.runtime, print)

    def command(self, main: str, *arguments: str) -> list[str]:
        classes = os.pathsep.join([str(self.folder), *map(str, self.jars)])
        return [str(self.runtime), HEAP, "-cp", classes, main, *arguments]


def wait_until(ready: Callable[[], bool], process: processes.Started) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while not ready():
        ended = not process.alive
        if ended or time.monotonic() > until:
            processes.stop(process)
            pytest.fail(
                f"{process.name} {'ended' if ended else 'was not ready in time'}:\n{processes.last_lines(process.log)}"
            )
        time.sleep(0.25)


class OpenSearch:
    """One OpenSearch node whose data is in `folder`."""

    def __init__(self, folder: Path) -> None:
        program = Program("opensearch.txt", folder)
        program.compile(BACKENDS / "OpenSearchNode.java")
        home = folder / "home"
        (home / "config").mkdir(parents=True)
        self.data = home / "data"
        port = ports.any_free()
        self.url = f"http://{ports.LOOPBACK}:{port}"
        command = program.command("OpenSearchNode", str(home), str(port), str(ports.any_free()))
        command.insert(1, f"-Dlog4j2.configurationFile={BACKENDS / 'log4j2.properties'}")
        self.process = processes.start("opensearch", command, folder / "opensearch.log")
        wait_until(self._answers, self.process)
        assert ports.open_to_the_network({self.process.pid}) == []

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/_cluster/health", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        processes.stop(self.process)
