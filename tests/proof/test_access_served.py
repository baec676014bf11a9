"""Keys and limits behind the graph: an application of its own with two ingress replicas, gone afterwards."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from access.key_editor import KeyEditor
from bench.measuring.load import multipart
from cluster.serving import Application
from deployments.ingress.access_control import http_host
from tests.helpers.files import contents
from tests.helpers.serving import CLUSTER, WATCHED, App

pytestmark = pytest.mark.proof

NAME = "guarded"
UNKNOWN = "cosygraph_nobody-has-this-one"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("access") / "keys.yaml"


@pytest.fixture(scope="module")
def keys(keys_file) -> KeyEditor:
    return KeyEditor(keys_file)


@pytest.fixture(scope="module")
def key(keys) -> str:
    """Alice's, without limits."""
    return keys.add("alice", owner="Alice Liddell")


@pytest.fixture(scope="module")
def guarded(apps, ray_driver, tracing, keys_file, key) -> App:
    neighbour = apps["fast"]
    entry = yaml.safe_load((CLUSTER / "serve.cpu.yaml").read_text())["applications"][0]
    entry["args"] |= {
        "engine": "simulated",
        "engine_options": WATCHED,
        "tracing": tracing,
        "voice_cache_mb": 0,
        "access": {"required": True, "keys_file": str(keys_file)},
    }
    for deployment in entry["deployments"]:
        if scaling := deployment.get("autoscaling_config"):
            scaling["max_replicas"] = 1
        if deployment["name"] == "cosyvoice3-api":
            deployment["num_replicas"] = 2
    applications = neighbour.config["applications"]  # one list for all, or redeploying another would end this one
    applications.append(entry | {"name": NAME, "route_prefix": f"/{NAME}"})
    try:
        neighbour.dashboard.deploy(Application(neighbour.config))
        neighbour.dashboard.wait_until_running(NAME, print)
        app = App(NAME, neighbour.port, neighbour.zipkin, neighbour.dashboard, neighbour.config)
        app.wait_ready()
        connected(app)
        yield app
    finally:
        applications[:] = [one for one in applications if one["name"] != NAME]
        neighbour.dashboard.deploy(Application(neighbour.config))


def counted(app: App, name: str) -> list[int]:
    """By each ingress replica."""
    return [one[f"access_{name}"] for one in app.counters()]


def until(condition: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def connected(app: App) -> None:
    until(lambda: counted(app, "limiter_present") == [1, 1], "both ingress replicas never found the limiter")


def post(app: App, key: str | None, **fields: str) -> httpx.Response:
    return app.post(headers={"Authorization": f"Bearer {key}"} if key else None, **fields)


def code(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


@contextmanager
def under_way(app: App, key: str) -> Iterator[socket.socket]:
    """A request whose body never ends: it is under way for as long as this lasts."""
    request = multipart(
        f"127.0.0.1:{app.port}",
        {"text": "Hello", "dialect": "en-US"},
        b"RIFF" + bytes(60_000),
        path=f"/{app.name}/api/generate",
        headers={"X-API-Key": key},
    )
    before = sum(counted(app, "under_way"))
    with socket.create_connection(("127.0.0.1", app.port)) as connection:
        connection.sendall(request[:-100])
        until(lambda: sum(counted(app, "under_way")) == before + 1, "the request never arrived")
        yield connection


def test_keys_are_asked_for_and_roles_are_looked_at(guarded, keys, key):
    voices_only = keys.add("voices-only", roles=["voices"])
    until(lambda: post(guarded, voices_only).status_code == 403, "the key was never known", 5)
    assert [post(guarded, one).status_code for one in (None, UNKNOWN, key)] == [401, 401, 200]
    assert [code(post(guarded, one)) for one in (None, UNKNOWN, voices_only)] == [
        "key_missing",
        "key_unknown",
        "role_missing",
    ]
    for path, status in (
        ("/health", 200),
        ("/ready", 200),
        ("/api/dialects", 200),
        ("/openapi.json", 200),
        ("/nothing", 401),
    ):
        assert httpx.get(guarded.url + path, trust_env=False).status_code == status, path
    refused = httpx.post(guarded.url + "/api/generate", trust_env=False)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"].keys() == {"message", "type", "param", "code"}


def test_keys_come_and_go_while_it_runs(guarded, keys):
    def statuses(key: str) -> set[int]:
        return {post(guarded, key, text="").status_code for _ in range(6)}  # of both replicas; 400 is past the entrance

    made = keys.add("short-lived")
    time.sleep(1)
    assert statuses(made) == {400}
    newer = keys.rotate("short-lived")
    time.sleep(1)
    assert statuses(made) == statuses(newer) == {400}
    keys.retire("short-lived")
    time.sleep(1)
    assert (statuses(made), statuses(newer)) == ({401}, {400})
    keys.revoke("short-lived")
    time.sleep(1)
    assert statuses(newer) == {401}


def test_a_refused_request_leaves_a_trace_and_no_key_in_any_file(guarded, key, ray_head):
    answers = [post(guarded, UNKNOWN), post(guarded, key, text="")]
    refused, known = (guarded.trace(answer.headers["x-trace-id"]) for answer in answers)
    [span] = refused
    assert span["tags"]["error.code"] == "key_unknown" and span["tags"]["http.status_code"] == "401"
    assert "user.hash" not in span["tags"] and "user.hash" in known[0]["tags"]
    secret = (UNKNOWN, key, "Alice Liddell")
    assert not [word for word in secret if word in json.dumps([refused, known])]
    seen = 0
    for path, data in contents(ray_head.logs.parent):
        seen += NAME.encode() in data
        assert not [word for word in secret if word.encode() in data], path.name
    assert seen, "the search was in the right place"


def test_a_rate_holds_over_both_replicas_to_the_request(guarded, keys):
    made = keys.add("rated", limits={"requests_per_minute": 0.5, "burst": 12})
    time.sleep(1)
    began, before = time.monotonic(), guarded.counters()
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda number: post(guarded, made), range(20)))
    assert time.monotonic() - began < 120, "or the bucket has filled meanwhile"
    after = {one["pid"]: one for one in guarded.counters()}
    assert sum(one["access_alone"] for one in after.values()) == sum(one["access_alone"] for one in before)
    assert Counter(answer.status_code for answer in answers) == {200: 12, 429: 8}
    for answer in answers:
        if answer.status_code == 429:
            assert code(answer) == "too_many_requests" and 1 <= int(answer.headers["retry-after"]) <= 120
    assert all(
        after[one["pid"]]["kept_ratio"] + after[one["pid"]].get("kept_error", 0)
        > one.get("kept_ratio", 0) + one.get("kept_error", 0)
        for one in before
    ), "both had their share"
    [span] = guarded.trace(next(answer for answer in answers if answer.status_code == 429).headers["x-trace-id"])
    assert span["tags"]["error.type"] == "rate_limited" and "user.hash" in span["tags"]


def test_requests_at_a_time_are_counted_over_both_replicas_and_one_that_leaves_makes_room(guarded, keys):
    made = keys.add("narrow", limits={"concurrent": 2})
    time.sleep(1)
    with under_way(guarded, made):
        with under_way(guarded, made):
            answers = [post(guarded, made) for _ in range(6)]
            assert {(answer.status_code, code(answer)) for answer in answers} == {(429, "too_many_at_once")}
            assert {answer.headers["retry-after"] for answer in answers} == {"1"}
        until(lambda: post(guarded, made).status_code == 200, "the client that left still holds its place", 10)
    assert sum(counted(guarded, "alone")) == 0


def test_while_the_limiter_is_away_requests_go_on_and_then_it_counts_again(guarded, keys):
    made = keys.add("patient", limits={"requests_per_minute": 0.5, "burst": 4, "concurrent": 3})
    time.sleep(1)
    with under_way(guarded, made):
        [limiter] = guarded.replicas("limiter")
        os.kill(limiter["pid"], signal.SIGKILL)
        began = time.monotonic()
        statuses = Counter(post(guarded, made, text="").status_code for _ in range(16))
        assert time.monotonic() - began < 10, "nobody waits for it"
        assert set(statuses) == {400, 429} and 3 <= statuses[400] <= 8, "each replica gave at most the whole limit"
        # Serve sends requests to the replica that holds none, and where a limiter is replaced within a heartbeat's
        # patience, the other one need not notice.
        assert sum(counted(guarded, "lost")) >= 1 and sum(counted(guarded, "alone")) >= 1
        until(
            lambda: [one["pid"] for one in guarded.replicas("limiter")] not in ([], [limiter["pid"]]), "no new limiter"
        )
        connected(guarded)
        other = keys.add("other", limits={"concurrent": 1})
        time.sleep(1)
        with under_way(guarded, other):
            assert {post(guarded, other).status_code for _ in range(4)} == {429}


def test_an_ingress_that_dies_frees_the_places_it_held(guarded, keys):
    made = keys.add("unlucky", limits={"concurrent": 1})
    time.sleep(1)
    with under_way(guarded, made):
        [holder] = [one["pid"] for one in guarded.counters() if one["access_under_way"]]
        os.kill(holder, signal.SIGKILL)
        died = time.monotonic()
        until(lambda: post(guarded, made, text="").status_code == 400, "its place was never freed", 40)
        assert time.monotonic() - died > 5, "not before its lease had ended"
    guarded.wait_ready()


def test_what_serve_listens_on_is_known(guarded):
    """In the replicas too, or those of the other applications, which have no keys, would not have started."""
    assert http_host() == "127.0.0.1"
