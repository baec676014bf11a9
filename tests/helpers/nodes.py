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
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.helpers import slow_link

STARTED_WITHIN_S = 240


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


@dataclass(frozen=True)
class RayNode:
    """One node: its namespace and its address."""

    namespace: str
    address: str
    link: str  #: the end of its cable inside the namespace
    outside: str = ""  #: the other end
    bridge: str = ""  #: what that one is plugged into

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

    def mend(self) -> None:
        """Take its link up again."""
        _ip("-n", self.namespace, "link", "set", self.link, "up")

    @contextmanager
    def slow_link(self, delay_ms: float, loss: float) -> Iterator[None]:
        """Delay each packet from and to it, and lose some of them (`slow_link.py`).

        Args:
            delay_ms: each way.
            loss: share of the packets, each way.
        """
        mac = self._mac()
        inner, outer = f"{self.outside}i", f"{self.outside}o"
        relay = subprocess.Popen(
            [sys.executable, slow_link.__file__, inner, outer, str(delay_ms / 1000), str(loss)], stdout=subprocess.PIPE
        )
        try:
            assert relay.stdout is not None and relay.stdout.readline() == b"ready\n"
            _ip("link", "set", outer, "master", self.bridge, "up")
            _ip("link", "set", inner, "address", mac)
            _ip("link", "set", inner, "netns", self.namespace)
            self.cut()
            _ip("-n", self.namespace, "address", "del", f"{self.address}/24", "dev", self.link)
            _ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", inner)
            _ip("-n", self.namespace, "link", "set", inner, "up")
            yield
        finally:
            relay.kill()  # both ends go with it
            relay.wait()
            self.mend()
            _ip("-n", self.namespace, "address", "replace", f"{self.address}/24", "dev", self.link)

    def _mac(self) -> str:
        return _ip("netns", "exec", self.namespace, "cat", f"/sys/class/net/{self.link}/address").strip()


@dataclass(frozen=True)
class RayCluster:
    """Nodes, of which the first is the head. It has a proxy and no CPU for replicas, as large clusters have it."""

    nodes: list[RayNode]
    folder: Path = Path()
    environment: dict[str, str] = field(default_factory=dict)
    started: list[RayNode] = field(default_factory=list)  #: one entry for each start

    def start(self, node: RayNode, more: Mapping[str, str] | None = None) -> None:
        """Start a node's Ray, also once more after its processes have ended; `more` is added to the environment."""
        # The head comes back to its own folder, where its session is.
        folder = self.folder / str(0 if node is self.head else len(self.started))
        self.started.append(node)
        _start(node, self.head, folder, {**self.environment, **(more or {})})

    def ray_nodes(self) -> dict[str, dict]:
        """Return what Ray's dashboard knows of each node, by its address: the last one to start there."""
        # To a question that it has had before, the dashboard repeats its last answer, however old, while it looks.
        question = f"{self.dashboard}/nodes?view=summary&asked={time.monotonic_ns()}"
        answer = httpx.get(question, timeout=30, trust_env=False).json()
        found: dict[str, dict] = {}
        for summary in answer["data"]["summary"]:
            if summary["ip"] not in found or summary["raylet"].get("state") == "ALIVE":
                found[summary["ip"]] = summary["raylet"]
        return found

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
def ray_nodes(workers: int, folder: Path, environment: Mapping[str, str], redis: bool = False) -> Iterator[RayCluster]:
    """Start a head, and workers with eight logical CPUs and a logical GPU each; skips where that can't be.

    Args:
        workers: nodes beside the head.
        folder: where their sessions and logs go; its path is short, because sockets lie in it.
        environment: of every Ray process, as `python -m cluster env` prints it.
        redis: the head keeps its state in a Redis, which has an address of its own, so that a new head finds it.
    """
    if redis and shutil.which("redis-server") is None:
        pytest.skip("a head that comes back needs redis-server (Debian: apt-get install redis-server)")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("several Ray nodes need root and iproute2: each is in a network namespace of its own")
    tag = f"cg{os.getpid() % 100_000}"
    net = f"10.98.{os.getpid() % 250 + 1}"
    made: list[tuple[str, ...]] = []  # how to remove what was made
    cluster = RayCluster([], folder, dict(environment))
    store: RayNode | None = None
    try:
        # An address of its own, or it would take that of whatever is plugged in, and the nodes would lose it.
        _ip("link", "add", f"{tag}b", "address", "02:00:00:00:00:01", "type", "bridge")
        made.append(("link", "del", f"{tag}b"))
        _ip("address", "add", f"{net}.1/24", "dev", f"{tag}b")
        _ip("link", "set", f"{tag}b", "up")
        for number in range(1 + workers):
            cluster.nodes.append(_node(tag, net, number, made))
        if redis:
            store = _node(tag, net, len(cluster.nodes), made)
            cluster.environment["RAY_REDIS_ADDRESS"] = f"{store.address}:6379"
            server = ["--bind", store.address, "--protected-mode", "no", "--save", "", "--dir", str(folder)]
            log = open(folder / "redis.log", "w")  # noqa: SIM115  it lives as long as the server
            subprocess.Popen(["ip", "netns", "exec", store.namespace, "redis-server", *server], stdout=log, stderr=log)
        for node in cluster.nodes:
            cluster.start(node)
        yield cluster
    finally:
        for node in [*cluster.nodes, *([store] if store else [])]:
            node.kill()
        for words in reversed(made):
            subprocess.run(["ip", *words], check=False, capture_output=True, timeout=20)


def _node(tag: str, net: str, number: int, made: list[tuple[str, ...]]) -> RayNode:
    outside = f"{tag}v{number}"
    node = RayNode(f"{tag}n{number}", f"{net}.{11 + number}", f"{tag}e{number}", outside, f"{tag}b")
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
    folder.mkdir(parents=True, exist_ok=True)
    # A head that is gone has left its address there, and Ray believes it while any process on this machine has that
    # address: those of the other nodes have it.
    (folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
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
