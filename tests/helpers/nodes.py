"""Ray nodes with addresses of their own on one machine: each in a network namespace, all on one bridge.

    with ray_nodes(2, folder, environment) as cluster:
        cluster.workers[1].kill()

It needs root and iproute2. Everything is made here and removed again: processes by the namespace's own list of pids,
never by `ray stop`, which ends every Ray of the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

STARTED_WITHIN_S = 240


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


@dataclass(frozen=True)
class RayNode:
    """One node: its namespace and its address."""

    namespace: str
    address: str
    link: str  #: the end of its cable inside the namespace

    def pids(self) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]

    def kill(self) -> None:
        """End all its processes at once, as a power cut would."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def cut(self) -> None:
        """Take its link down: its processes go on, and no packet says so."""
        _ip("-n", self.namespace, "link", "set", self.link, "down")


@dataclass(frozen=True)
class RayCluster:
    """Nodes, of which the first is the head. It has a proxy and no CPU for replicas, as large clusters have it."""

    nodes: list[RayNode]

    @property
    def head(self) -> RayNode:
        return self.nodes[0]

    @property
    def workers(self) -> list[RayNode]:
        return self.nodes[1:]

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:8265"

    def applications(self) -> dict:
        return httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30, trust_env=False).json()

    def deploy(self, config: dict, within_s: float = STARTED_WITHIN_S) -> None:
        """Deploy by Serve's own API, and wait until everything runs."""
        address = f"{self.dashboard}/api/serve/applications/"
        answer = httpx.put(address, json=config, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        self.wait_running(within_s)

    def wait_running(self, within_s: float = STARTED_WITHIN_S) -> None:
        end = time.monotonic() + within_s
        while not self._running():
            assert time.monotonic() < end, f"not running after {within_s} s: {self.applications()}"
            time.sleep(1)

    def _running(self) -> bool:
        states = self.applications()["applications"].values()
        return bool(states) and all(one["status"] == "RUNNING" for one in states)

    def replicas(self, service: str) -> list[str]:
        """Addresses of the nodes with a running replica of a service."""
        return [
            replica["node_ip"]
            for one in self.applications()["applications"].values()
            for replica in one["deployments"].get(service, {}).get("replicas", [])
            if replica["state"] == "RUNNING"
        ]


@contextmanager
def ray_nodes(workers: int, folder: Path, environment: Mapping[str, str]) -> Iterator[RayCluster]:
    """Start a head, and workers with eight logical CPUs and a logical GPU each; skips where that can't be.

    Args:
        workers: nodes beside the head.
        folder: where their sessions and logs go; its path is short, because sockets lie in it.
        environment: of every Ray process, as `python -m cluster env` prints it.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("several Ray nodes need root and iproute2: each is in a network namespace of its own")
    tag = f"cg{os.getpid() % 100_000}"
    net = f"10.98.{os.getpid() % 250 + 1}"
    made: list[tuple[str, ...]] = []  # how to remove what was made
    cluster = RayCluster([])
    try:
        _ip("link", "add", f"{tag}b", "type", "bridge")
        made.append(("link", "del", f"{tag}b"))
        _ip("address", "add", f"{net}.1/24", "dev", f"{tag}b")
        _ip("link", "set", f"{tag}b", "up")
        for number in range(1 + workers):
            cluster.nodes.append(_node(tag, net, number, made))
        for number, node in enumerate(cluster.nodes):
            _start(node, cluster.head, folder / str(number), environment)
        yield cluster
    finally:
        for node in cluster.nodes:
            node.kill()
        for words in reversed(made):
            subprocess.run(["ip", *words], check=False, capture_output=True, timeout=20)


def _node(tag: str, net: str, number: int, made: list[tuple[str, ...]]) -> RayNode:
    node = RayNode(f"{tag}n{number}", f"{net}.{11 + number}", f"{tag}e{number}")
    outside = f"{tag}v{number}"
    _ip("netns", "add", node.namespace)
    made.append(("netns", "del", node.namespace))
    _ip("link", "add", outside, "type", "veth", "peer", "name", node.link)
    made.append(("link", "del", outside))
    _ip("link", "set", outside, "master", f"{tag}b", "up")
    _ip("link", "set", node.link, "netns", node.namespace)
    _ip("-n", node.namespace, "address", "add", f"{node.address}/24", "dev", node.link)
    _ip("-n", node.namespace, "link", "set", node.link, "up")
    _ip("-n", node.namespace, "link", "set", "lo", "up")
    return node


def _start(node: RayNode, head: RayNode, folder: Path, environment: Mapping[str, str]) -> None:
    folder.mkdir(parents=True)
    place = (
        ["--head", "--port=6379", f"--dashboard-host={head.address}", "--num-cpus=0", "--num-gpus=0"]
        if node is head
        else [f"--address={head.address}:6379", "--num-cpus=8", "--num-gpus=1"]
    )
    sizes = ["--object-store-memory=200000000"]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *place, f"--node-ip-address={node.address}", *sizes]
    with open(folder / "start.log", "w") as log:
        done = subprocess.run(
            ["ip", "netns", "exec", node.namespace, *ray, f"--temp-dir={folder}/ray", "--disable-usage-stats"],
            env={**os.environ, **environment, "RAY_AUTH_MODE": "disabled"},
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=STARTED_WITHIN_S,
            check=False,
        )
    assert done.returncode == 0, (folder / "start.log").read_text()[-2000:]
