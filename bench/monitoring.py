"""Measure the cost of monitoring a running graph: `python -m bench.monitoring`.

One graph (simulated engine, four stages of 20 ms, batching, so that the CPU is the limit) with Prometheus and
Alertmanager beside it, and 16 clients in a closed loop. Monitoring is

- `on`: the ingress records every request in its metrics, Prometheus scrapes Ray's agent and Zipkin every 30 s and
  evaluates the project's rules, Alertmanager runs;
- `off`: the ingress records nothing (`metrics: false`), and both servers are suspended by a signal.

The two take turns, in random order within a pair and in the same processes, so that no mode has an advantage. The
requests after each switch count in no window, because resumed servers first catch up. A figure is the change against
`off` within a pair, the mean over the pairs (of logarithms), with the 95 % interval of a bootstrap over the pairs.

CPU time is that of all of Ray's processes and of both servers; Zipkin and the client share the machine with them. The
machine's speed varies by more than the effect, so the separable parts are also counted by themselves: the servers' CPU
time and the additional time of Ray's agent (`accounted`, as a share of a request's CPU time without monitoring). The
ingress's own time to record a request comes on top (`python -m bench.metrics`). Both modes include Ray's own work: its
agent gets all series of each process every 10 s, even if they don't change. At the end Prometheus must have counted
exactly the requests that were made while monitoring was on, or the switch did not work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time

import httpx
import numpy as np
import psutil

from bench import results
from bench.measuring.clips import clip
from bench.measuring.load import closed_loop, multipart
from bench.measuring.private_graph import PrivateGraph, private_graph
from bench.measuring.private_monitoring import private_monitoring
from bench.measuring.private_zipkin import private_zipkin
from bench.tracing_served import SIMULATED, cpu_s, interval, of_means
from cluster import loopback, processes
from cluster.monitoring import Server
from cluster.serving import Application

CLIENTS, WARM_UP = 16, 400
#: A window has one scrape. As requests, by the rate of the warm-up: windows of equal work, not of equal time.
SETTLE_S, WINDOW_S = 2.0, 30.0
MODES = ("on", "off")
COUNTED = 'sum(ray_cosygraph_requests_total{route="/api/generate"})'


class Bench:
    def __init__(self, graph: PrivateGraph, servers: dict[str, Server]) -> None:
        from ray import serve

        self.graph = graph
        self.prometheus = servers["prometheus"].url
        self.ingress = serve.get_deployment_handle("cosyvoice3-api", graph.application.name)
        self.servers = [process for server in servers.values() for process in processes.family(server.process)]
        self.ray = processes.family(graph.head.process)
        self.agents = [process for process in self.ray if "DashboardAgent" in " ".join(process.cmdline())]
        self.request = multipart(f"127.0.0.1:{graph.port}", {"text": "Hello there", "dialect": "en-US"}, clip(5))
        self.mode = "on"
        self.told = 0  #: number of requests made while monitoring was on

    def load(self, count: int) -> float:
        """Send `count` requests; returns requests a second."""
        began = time.monotonic()
        samples = asyncio.run(closed_loop("127.0.0.1", self.graph.port, self.request, clients=CLIENTS, count=count))
        took = time.monotonic() - began
        failed = sorted({sample.status for sample in samples} - {200})
        if failed:
            raise RuntimeError(f"requests failed: {failed}")
        self.told += count * (self.mode == "on")
        return count / took

    def switch(self, mode: str) -> None:
        """Switch monitoring between two loads, while no request is under way."""
        for process in self.servers:
            os.kill(process.pid, signal.SIGCONT if mode == "on" else signal.SIGSTOP)
        self.ingress.broadcast("reconfigure", {"metrics": mode == "on"}).results(timeout_s=20)
        self.mode = mode

    def window(self, mode: str, settle: int, count: int) -> dict[str, float]:
        """Measure requests a second, and ms of CPU a request: of all, of the servers, and of Ray's scraped agent."""
        self.switch(mode)
        self.load(settle)
        ray, agents, servers = cpu_s(self.ray), cpu_s(self.agents), cpu_s(self.servers)
        rate = self.load(count)
        ours = cpu_s(self.servers) - servers
        if mode == "off" and ours:
            raise RuntimeError(f"servers that should stand still have computed for {ours:.3f} s")
        return {
            "req_per_s": rate,
            "cpu_ms": 1000 * (cpu_s(self.ray) - ray + ours) / count,
            "servers_ms": 1000 * ours / count,
            "agents_ms": 1000 * (cpu_s(self.agents) - agents) / count,
        }

    def check(self, within_s: float = 90.0) -> int:
        """Return the count of Prometheus. Raises RuntimeError if it differs from the number of requests sent."""
        self.switch("on")
        end, counted = time.monotonic() + within_s, 0
        while counted != self.told:
            if time.monotonic() > end:
                raise RuntimeError(f"Prometheus has {counted} requests, not {self.told}: the switch did not work")
            time.sleep(1)
            found = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": COUNTED}, trust_env=False).json()
            counted = sum(int(float(one["value"][1])) for one in found["data"]["result"])
        return counted


def run(bench: Bench, pairs: int) -> list[dict[str, dict[str, float]]]:
    rate = bench.load(WARM_UP)
    chance, found = random.Random(7), []
    for number in range(pairs):
        windows = {
            mode: bench.window(mode, round(rate * SETTLE_S), round(rate * WINDOW_S))
            for mode in chance.sample(MODES, len(MODES))
        }
        found.append(windows)
        print(
            f"pair {number + 1:3}",
            *(
                f"{mode}: {windows[mode]['req_per_s']:.1f} req/s, {windows[mode]['cpu_ms']:.2f} ms CPU;"
                for mode in MODES
            ),
            flush=True,
        )
    return found


def of_pairs(found: list[dict[str, dict[str, float]]], figure: str) -> dict[str, float]:
    return interval([(windows["on"][figure], windows["off"][figure]) for windows in found], of_means)


def accounted(found: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Return the interval of the additional CPU time of servers and Ray's agent, as a share of a request's."""
    return interval(
        [
            (
                windows["off"]["cpu_ms"]
                - windows["off"]["agents_ms"]
                + windows["on"]["agents_ms"]
                + windows["on"]["servers_ms"],
                windows["off"]["cpu_ms"],
            )
            for windows in found
        ],
        of_means,
    )


def with_batches(graph: PrivateGraph) -> None:
    """Let the vocoder batch, too: in the CPU's config it doesn't, and would be the limit instead of the CPU."""
    for deployment in graph.application.config["applications"][0]["deployments"]:
        if deployment["name"] == "vocoder-service":
            deployment["user_config"] = {"max_batch_size": 8, "batch_wait_ms": 0}
    graph.dashboard.deploy(Application(graph.application.config))
    time.sleep(2)  # the controller checks every half second
    graph.dashboard.wait_until_running(graph.application.name, lambda text: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    options = parser.parse_args()
    loopback.keep()
    import ray

    with (
        private_zipkin() as zipkin,
        private_graph(
            {"engine": "simulated", "engine_options": SIMULATED}, num_cpus=8, zipkin_url=zipkin, ratio=0.1
        ) as graph,
        private_monitoring(graph.head, zipkin) as servers,
    ):
        ray.init(address=graph.head.address, namespace="serve", log_to_driver=False)
        try:
            with_batches(graph)
            bench = Bench(graph, servers)
            busy = psutil.getloadavg()[0]
            found = run(bench, options.pairs)
            counted = bench.check()
        finally:
            ray.shutdown()
    change = {figure: of_pairs(found, figure) for figure in ("req_per_s", "cpu_ms")}
    change["accounted"] = accounted(found)
    for figure, values in change.items():
        print(
            f"{figure:10} {values['change']:+.2%}  ({values['low']:+.2%} to {values['high']:+.2%}, "
            f"{values['turns']} pairs)"
        )
    means = {
        mode: {
            figure: round(float(np.mean([windows[mode][figure] for windows in found])), 3) for figure in found[0][mode]
        }
        for mode in MODES
    }
    print(f"counted by Prometheus: {counted}; means: {means}")
    results.write(
        "monitoring",
        {
            "simulated": SIMULATED,
            "clients": CLIENTS,
            "pairs": options.pairs,
            "load_average_before": round(busy, 2),
            "counted": counted,
            "change": change,
            "means": means,
        },
        raw={"windows": found},
    )


if __name__ == "__main__":
    main()
