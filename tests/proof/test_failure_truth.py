"""The requests that fail for clients are those that fail in Zipkin: replicas killed and hung under load.

A graph of its own (private Ray head, simulated engine) that keeps nothing but errors, eight clients that never stop,
and every replica's death in mid-request, several times over. About six minutes on two cores.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from cluster import ports, ray_head
from cluster.serving import Application, Dashboard, wait_until_ready
from deployments import trace_error_messages
from tests.helpers.serving import CLUSTER, tone
from tracing.vocabulary import INGRESS, STAGE_SERVICE

pytestmark = pytest.mark.proof

STAGES = list(STAGE_SERVICE.values())
#: An ingress that is replaced leaves 4.5 s without one, in which requests wait.
CLIENTS, DEADLINE_S, KILLS = 8, 9.0, 2
NAME = "truth"
#: long enough that each stage has something to do at any time
TIMES = {"prepare_ms": 100, "encode_ms": 60, "generate_ms": 60, "vocode_ms": 40, "seconds": 4}
LOST = (
    trace_error_messages.LOST_REPLICA,
    trace_error_messages.LOST_ARRAY,
    trace_error_messages.NO_ANSWER,
    trace_error_messages.LOST_INGRESS,
)


@dataclass
class Seen:
    """One request as its client saw it. Times in µs since the epoch, as Zipkin's."""

    trace_id: str
    began: int
    ended: int = 0
    status: int | None = None  #: None where no whole answer came
    kind: str = ""  #: the error's type, or the exception's


@dataclass
class Down:
    """A service that could not answer: from just before the fault until it served again."""

    service: str
    began: int
    ended: int = 0


@dataclass
class Truth:
    """The graph, what its clients saw, and which services were taken down when."""

    port: int
    zipkin: str
    dashboard: Dashboard
    config: dict
    spool: Path
    seen: list[Seen] = field(default_factory=list)
    down: list[Down] = field(default_factory=list)
    began: int = field(default_factory=lambda: now() - 1_000_000)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/generate"

    def replica(self, service: str) -> int | None:
        """Pid of the service's only replica, once it runs."""
        deployments = self.dashboard.applications().get(NAME, {}).get("deployments", {})
        pids = [
            replica["pid"]
            for replica in deployments.get(service, {}).get("replicas", [])
            if replica["state"] == "RUNNING"
        ]
        return pids[0] if len(pids) == 1 else None

    def traces(self) -> dict[str, list[dict]]:
        """All of the graph's traces since the start, by id."""
        lookback = (now() - self.began) // 1000 + 1000
        answer = httpx.get(
            f"{self.zipkin}/api/v2/traces",
            trust_env=False,
            timeout=60,
            params={"endTs": now() // 1000 + 1000, "lookback": lookback, "limit": 100_000},
        )
        return {trace[0]["traceId"]: trace for trace in answer.json()}


def now() -> int:
    return time.time_ns() // 1000


def body() -> tuple[bytes, dict[str, str]]:
    request = httpx.Request(
        "POST", "http://x", data={"text": "Hello", "dialect": "en-US"}, files={"prompt_audio": ("clip.wav", tone())}
    )
    return request.read(), {"content-type": request.headers["content-type"]}


async def one(
    client: httpx.AsyncClient, url: str, content: bytes, headers: dict, word: str = "", timeout: float = 60.0
) -> Seen:
    """A request that brings its own trace context, so that its id is known in any case; its decision is deferred
    unless `word` says otherwise."""
    seen = Seen(secrets.token_hex(16), now())
    try:
        answer = await client.post(
            url,
            content=content,
            timeout=timeout,
            headers=headers | {"b3": f"{seen.trace_id}-{secrets.token_hex(8)}{word}"},
        )
        seen.status = answer.status_code
        seen.kind = "" if answer.status_code == 200 else answer.json()["error"]["type"]
        assert answer.headers["x-trace-id"] == seen.trace_id
    except httpx.HTTPError as error:
        seen.kind = type(error).__name__
    seen.ended = now()
    return seen


@contextmanager
def load(truth: Truth, word: str = "") -> Iterator[None]:
    """Eight clients that send as soon as they are answered, until the end of the block."""
    stop = threading.Event()

    async def client(http: httpx.AsyncClient, content: bytes, headers: dict) -> None:
        while not stop.is_set():
            truth.seen.append(await one(http, truth.url, content, headers, word))

    async def clients() -> None:
        content, headers = body()
        async with httpx.AsyncClient(trust_env=False) as http:
            await asyncio.gather(*(client(http, content, headers) for _ in range(CLIENTS)))

    thread = threading.Thread(target=asyncio.run, args=(clients(),))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


@pytest.fixture(scope="module")
def truth(zipkin, tmp_path_factory) -> Iterator[Truth]:
    folder = tmp_path_factory.mktemp("truth")
    tracing = {"zipkin_url": zipkin.url, "spool_dir": str(folder / "spool"), "sampling": {"ratio": 0.0}}
    entry = yaml.safe_load((CLUSTER / "serve.cpu.yaml").read_text())["applications"][0]
    for deployment in entry["deployments"]:  # one replica each: its death is the service's
        deployment.pop("autoscaling_config", None)
        deployment["num_replicas"] = 1
    entry |= {
        "name": NAME,
        "args": {
            "engine": "simulated",
            "engine_options": TIMES,
            "tracing": tracing,
            "limits": {"deadline_s": DEADLINE_S},
        },
    }
    port = ports.any_free()
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [entry],
    }
    heads = []
    try:
        head = ray_head.start(
            ports.any_free(),
            folder / "ray.log",
            num_cpus=8,
            remember=heads.append,
            env=Application(config).proxy_environment(),
        )
        dashboard = Dashboard(head)
        dashboard.deploy(Application(config))
        dashboard.wait_until_running(NAME, print)
        wait_until_ready(f"http://127.0.0.1:{port}")
        yield Truth(port, zipkin.url, dashboard, config, folder / "spool")
    finally:
        for head in heads:
            head.stop(keep_logs_in=folder / "logs", grace_s=1.0)


def serves_again(truth: Truth, since: int, within_s: float = 60.0) -> None:
    """Until a request that was sent after `since` has been answered with 200."""
    end = time.monotonic() + within_s
    while not any(seen.status == 200 and seen.began > since for seen in truth.seen[-200:]):
        assert time.monotonic() < end, f"nothing was answered for {within_s:.0f} s"
        time.sleep(0.05)


def kill(truth: Truth, services: Sequence[str]) -> list[str]:
    """SIGKILL to all of them, and wait until their next replicas answer requests; those that were working for one."""
    serves_again(truth, now())
    pids = {service: truth.replica(service) for service in services}
    assert all(pids.values()), pids
    killed = now()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while any(truth.replica(service) in (None, pid) for service, pid in pids.items()):
        assert time.monotonic() < end, f"{services} did not come back"
        time.sleep(0.2)
    serves_again(truth, now())
    truth.down += [Down(service, killed, now()) for service in services]
    return told_deaths(truth, services, killed)


def told_deaths(truth: Truth, services: Sequence[str], killed: int, within_s: float = 5.0) -> list[str]:
    """Return the services that were working when they were killed.

    Traces are waited for: a request that the killed replica had ends, and is exported, later than the first one that
    its successor answers.
    """
    end = time.monotonic() + within_s
    while True:
        traces = truth.traces().values()
        told = [service for service in services if any(died_over_it(trace, service, killed) for trace in traces)]
        if len(told) == len(services) or time.monotonic() > end:
            return told
        time.sleep(0.5)


def died_over_it(trace: list[dict], service: str, killed: int) -> bool:
    """Return True if the service had this request when it was killed."""
    told = [
        span
        for span in trace
        if failed(span)
        and service
        == (INGRESS if span in roots(trace) + lost(trace) else span.get("remoteEndpoint", {}).get("serviceName"))
    ]
    return any(
        span["tags"]["error"].startswith(("the replica died", INGRESS))
        and span["timestamp"] <= killed <= span["timestamp"] + span["duration"]
        for span in told
    )


def hang(truth: Truth, service: str) -> None:
    """SIGSTOP for longer than any deadline."""
    serves_again(truth, now())
    pid, down = truth.replica(service), Down(service, now())
    os.kill(pid, signal.SIGSTOP)
    time.sleep(DEADLINE_S + 0.5)
    os.kill(pid, signal.SIGCONT)
    serves_again(truth, now())
    down.ended = now()
    truth.down.append(down)


def roots(trace: list[dict]) -> list[dict]:
    return [span for span in trace if span.get("kind") == "SERVER" and span["localEndpoint"]["serviceName"] == INGRESS]


def lost(trace: list[dict]) -> list[dict]:
    """The spans of tries that were lost with an ingress replica, before another one answered."""
    return [span for span in trace if "kind" not in span and span.get("tags", {}).get("error.service") == INGRESS]


def failed(span: dict) -> bool:
    return "error" in span.get("tags", {})


def named(trace: list[dict]) -> set[str]:
    """The services that a trace says failed."""
    wrong = [span for span in trace if failed(span)]
    services = {span["remoteEndpoint"]["serviceName"] for span in wrong if span.get("kind") == "CLIENT"}
    services |= {span["localEndpoint"]["serviceName"] for span in wrong if span.get("kind") == "SERVER"} - {INGRESS}
    if lost(trace) or any(root["tags"].get("error", "").startswith(INGRESS) for root in roots(trace)):
        services.add(INGRESS)
    return services


def waited_for(trace: list[dict]) -> set[str]:
    """Services whose spans say that the request waited a second and more to reach them: there was no replica."""
    return {
        span["localEndpoint"]["serviceName"]
        for span in trace
        if any(float(span.get("tags", {}).get(wait, 0)) > 1000 for wait in ("queue.wait_ms", "proxy.wait_ms"))
    }


def check_whole(trace: list[dict]) -> None:
    """Every span hangs below a root, and each stage before the one that failed has its own span."""
    ids, tops = {span["id"] for span in trace}, roots(trace)
    assert tops, trace
    assert all(span["parentId"] in ids for span in trace if span not in tops)
    reached = [STAGES.index(service) for service in named(trace) - {INGRESS}]
    served = {span["localEndpoint"]["serviceName"] for span in trace if span.get("kind") == "SERVER"}
    assert set(STAGES[: max(reached, default=0)]) <= served, (named(trace), served)


def settled(truth: Truth, wanted: set[str], within_s: float = 30.0) -> dict[str, list[dict]]:
    """Zipkin's traces once it has those wanted, or those it has by then."""
    end = time.monotonic() + within_s
    while True:
        traces = truth.traces()
        if wanted <= traces.keys() or time.monotonic() > end:
            return traces
        time.sleep(0.5)


def check(truth: Truth, seen: list[Seen], down: list[Down]) -> None:
    """The comparison of both sides, for requests during which only `down` was wrong."""
    wrong = {request.trace_id: request for request in seen if request.status != 200}
    traces = settled(truth, wrong.keys())
    ours = {request.trace_id for request in seen}
    broken = {trace_id for trace_id, trace in traces.items() if trace_id in ours and any(map(failed, roots(trace)))}
    retried = {trace_id for trace_id, trace in traces.items() if trace_id in ours - broken}
    cut = {trace_id for trace_id, request in wrong.items() if request.status is None}
    print(
        f"{len(seen)} requests, {len(wrong)} failed, {len(retried)} retried with success; by what clients saw:",
        dict(Counter(f"{request.status} {request.kind}".strip() for request in wrong.values())),
        f"; without an answer {len(cut)}; failed without a trace {len(wrong.keys() - broken)}; "
        f"traced as failed but answered {len(broken - wrong.keys())}",
    )
    assert wrong.keys() - broken == set(), "every failure has its error trace"
    assert broken - wrong.keys() == set(), "and every error trace is a failure that a client saw"
    assert cut == set(), "every request was answered"
    assert all(any(span["tags"]["error"] in LOST for span in traces[trace_id] if failed(span)) for trace_id in retried)
    late = 0
    for trace_id in wrong.keys() | retried:
        request, trace = next(one for one in seen if one.trace_id == trace_id), traces[trace_id]
        check_whole(trace)
        dead = {one.service for one in down if one.began < request.ended and request.began < one.ended}
        assert (named(trace) | waited_for(trace)) & dead, (named(trace), dead, request, trace)
        late += not named(trace) & dead
    print(f"{late} of them ran out of time in a stage that lived, and say how long they waited for the one that died")


def test_every_death_is_told_by_whole_traces_and_nothing_else_is(truth):
    hits = Counter()
    with load(truth):
        for _ in range(
            3 * KILLS
        ):  # whether a death meets a request is chance, and a stage may be idle as another is down
            for services in ((INGRESS,), STAGES[0::2], STAGES[1::2]):
                if lacking := tuple(service for service in services if hits[service] < KILLS):
                    hits.update(kill(truth, lacking))
    seen = list(truth.seen)
    print("killed:", dict(Counter(down.service for down in truth.down)), "of them in mid-request:", dict(hits))
    check(truth, seen, truth.down)
    assert len(seen) >= 40 * KILLS and min(hits[service] for service in (INGRESS, *STAGES)) >= KILLS


def test_the_dependency_graph_counts_retries_and_errors(truth):
    """After the deaths: each stage's calls are the spans that name it, theirs or told on their behalf."""
    time.sleep(1)
    calls, errors, traces = Counter(), Counter(), truth.traces()
    for span in (span for trace in traces.values() for span in trace):
        service = span.get("remoteEndpoint", span["localEndpoint"])["serviceName"]
        if service != INGRESS:
            calls[service] += 1
            errors[service] += failed(span)
    answer = httpx.get(
        f"{truth.zipkin}/api/v2/dependencies",
        trust_env=False,
        timeout=60,
        params={"endTs": now() // 1000 + 1000, "lookback": (now() - truth.began) // 1000 + 1000},
    )
    found = {(link["parent"], link["child"]): (link["callCount"], link.get("errorCount", 0)) for link in answer.json()}
    assert found == {(INGRESS, service): (calls[service], errors[service]) for service in STAGES}
    assert min(errors.values()) >= KILLS and max(calls.values()) > len(traces) / 2


def test_a_hang_is_told_by_the_deadline_and_names_who_hung(truth):
    before, down = len(truth.seen), len(truth.down)
    with load(truth):
        for service in STAGES:
            hang(truth, service)
    seen = truth.seen[before:]
    check(truth, seen, truth.down[down:])
    assert sum(request.status == 504 for request in seen) >= CLIENTS * len(STAGES) / 2


def test_clients_that_leave_have_a_whole_trace_each(truth):
    async def leave() -> list[Seen]:
        content, headers = body()
        async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)) as http:
            return [
                seen
                for n in range(8)
                for seen in await asyncio.gather(
                    *(one(http, truth.url, content, headers, timeout=0.05 + 0.02 * n) for _ in range(4))
                )
            ]

    seen = asyncio.run(leave())
    left = {request.trace_id for request in seen if request.status is None}
    assert len(left) >= 16
    half = secrets.token_hex(16)
    with socket.create_connection(("127.0.0.1", truth.port)) as connection:  # leaves amid its own upload
        connection.sendall(
            f"POST /api/generate HTTP/1.1\r\nHost: x\r\nb3: {half}-{secrets.token_hex(8)}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 99999\r\n\r\n--x".encode()
        )
        time.sleep(0.3)
    left.add(half)
    traces = settled(truth, left)
    assert left <= traces.keys(), f"{len(left - traces.keys())} of {len(left)} left without a trace"
    for trace_id in left:
        trace = traces[trace_id]
        [root] = roots(trace)
        assert (root["tags"]["http.status_code"], root["tags"]["error.type"]) == ("499", "cancelled")
        check_whole(trace)
    cut_off = Counter(next(iter(named(traces[trace_id])), "nobody") for trace_id in left)
    print("cut off in:", dict(cut_off))
    assert set(cut_off) & set(STAGES)
    answered = {request.trace_id for request in seen} - left
    assert not answered & traces.keys(), "what was answered in time is no error, and not kept"


def test_requests_to_an_ingress_that_hangs_are_answered_by_the_deadline_and_it_is_replaced(truth):
    old = truth.replica(INGRESS)
    os.kill(old, signal.SIGSTOP)

    async def four() -> list[Seen]:
        content, headers = body()
        async with httpx.AsyncClient(trust_env=False) as http:
            return await asyncio.gather(*(one(http, truth.url, content, headers, timeout=120) for _ in range(4)))

    seen = asyncio.run(four())
    wrong = {request.trace_id for request in seen if request.status != 200}
    print("answered after (s):", [(request.status, (request.ended - request.began) // 1_000_000) for request in seen])
    assert all(request.status == 504 for request in seen), "Serve's proxy answers: there is no other replica"
    assert all(request.ended - request.began <= (DEADLINE_S + 1) * 1e6 for request in seen)
    traces = settled(truth, wrong)
    assert all(named(traces[trace_id]) == {INGRESS} for trace_id in wrong)
    end = time.monotonic() + 60
    while truth.replica(INGRESS) in (None, old) or psutil.pid_exists(old):
        assert time.monotonic() < end, "no new ingress"
        time.sleep(0.2)


def test_an_ingress_that_is_replaced_under_load_fails_nobody_and_sends_everything_before_it_goes(truth):
    before, old = len(truth.seen), truth.replica(INGRESS)
    with load(truth, word="-1"):
        serves_again(truth, now())
        ingress = next(d for d in truth.config["applications"][0]["deployments"] if d["name"] == INGRESS)
        ingress["ray_actor_options"]["num_cpus"] += 0.1  # another number than it has, also at a second try
        truth.dashboard.deploy(Application(truth.config))
        end = time.monotonic() + 120
        while psutil.pid_exists(old):
            assert time.monotonic() < end, "the old ingress stays"
            time.sleep(0.01)
        unsent = [path.name for path in truth.spool.glob(f"{old}-*.spool") if path.stat().st_size]
        while truth.replica(INGRESS) in (None, old):
            assert time.monotonic() < end, "no new ingress"
            time.sleep(0.2)
        serves_again(truth, now())
    seen = truth.seen[before:]
    assert unsent == [], "what the old one had kept was sent when it ended"
    traces = settled(truth, {request.trace_id for request in seen})
    print("longest (s):", max((request.ended - request.began) / 1e6 for request in seen), len(seen))
    wrong = [
        (request, named(trace), waited_for(trace))
        for request in seen
        if request.status != 200
        for trace in [traces.get(request.trace_id, [])]
    ]
    assert wrong == []
    served = {
        request.trace_id: {span["localEndpoint"]["serviceName"] for span in traces.get(request.trace_id, ())}
        for request in seen
    }
    assert all({INGRESS, *STAGES} <= services for services in served.values())
