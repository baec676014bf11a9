"""Gates for tests: real nginx before a real Zipkin whose spans have a canary in every tag."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from access.key_editor import KeyEditor
from cluster import ports, processes
from cluster.cli_error import CliError
from cluster.gate import process as gates
from cluster.gate.configuration import MOST_TRACES, Wanted

CANARY = "canary7secret"
SERVICE, OTHER = "gate-front", "gate-back"
TRACES = MOST_TRACES + 50
FRIEND = "https://grafana.example:3000"
TRACE, NEXT = (f"{2**124 + number:032x}" for number in (7, 8))
CLIENT = httpx.Client(trust_env=False)  # one for all: making one takes longer than a request


@dataclass
class Place:
    """A gate, its keys, and the Zipkin behind it."""

    gate: gates.Gate
    keys: KeyEditor
    all: str  #: a key
    services: str
    nothing: str
    zipkin: str

    def get(self, path: str, key: str | None = None, method: str = "GET", **more) -> httpx.Response:
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        return CLIENT.request(method, f"{self.gate.own_url}{path}", headers=headers, **more)

    def audit(self) -> list[dict]:
        return [json.loads(line) for line in Path(self.gate.audit_log).read_text().splitlines()]


def spans() -> list[dict]:
    now = int(time.time() * 1e6) - 10_000_000
    found = []
    for number in range(1, TRACES + 1):
        trace, root = f"{2**124 + number:032x}", f"{number:016x}"
        secret = {
            "tags": {f"{CANARY}.name": f"{CANARY} value", "error": f"{CANARY} error", "stage": f"{CANARY}stage"},
            "annotations": [{"timestamp": now, "value": f"{CANARY} annotation"}],
        }
        found += [
            {
                "traceId": trace,
                "id": root,
                "kind": "SERVER",
                "name": "post /api/generate",
                "timestamp": now + number,
                "duration": 2000,
                "localEndpoint": {"serviceName": SERVICE, "ipv4": "192.0.2.33", "port": 4711},
                **secret,
            },
            {
                "traceId": trace,
                "parentId": root,
                "id": f"{number + 2**32:016x}",
                "kind": "CLIENT",
                "name": "call",
                "timestamp": now + number,
                "duration": 1000,
                "localEndpoint": {"serviceName": SERVICE},
                "remoteEndpoint": {"serviceName": OTHER, "ipv4": "192.0.2.34"},
                **secret,
            },
        ]
    return found


def wait_until(holds, within_s: float = 5.0) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def zipkin_with_canaries(zipkin):
    """Zipkin with the spans in it."""
    CLIENT.post(f"{zipkin.url}/api/v2/spans", json=spans()).raise_for_status()
    wait_until(lambda: SERVICE in CLIENT.get(f"{zipkin.url}/api/v2/services").json(), within_s=10)
    return zipkin.url


@pytest.fixture(scope="session")
def nginx():
    try:
        return gates.find()
    except CliError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def start_gate(nginx, zipkin_with_canaries, tmp_path_factory):
    """A function that starts a gate of its own keys; all are stopped at the end."""
    started = []

    def one(**wanted) -> Place:
        folder = tmp_path_factory.mktemp("gate")
        keys = KeyEditor(folder / "keys.yaml")
        made = [keys.add(role, roles=[role]) for role in ("view-traces", "view-services", "synthesize")]
        gate = gates.start(
            Wanted(port=ports.any_free(), **wanted),
            zipkin_with_canaries,
            folder / "keys.yaml",
            folder,
            lambda text: None,
            started.append,
        )
        return Place(gate, keys, *made, zipkin=zipkin_with_canaries)

    yield one
    for gate in started:
        gate.stop()
        assert not processes.family(gate.process)
