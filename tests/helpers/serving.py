"""Four applications on one private Ray head, deployed once a session from the project's own Serve configs.

- `fast`: simulated engine, short times, a deadline of 8 s; from `cluster/serve.cpu.yaml`;
- `slow`: simulated engine, 1.5 s of GENERATE_MEL, one at a time; from `cluster/serve.gpu.yaml`, on logical GPUs;
- `voice`: the embedded engine, with the watermark in its sound; from `cluster/serve.cpu.yaml`;
- `watched`: simulated engine that fails on demand, hardly any service times, its spans sent through a stand-in
  (`standin.py`) that keeps them and can fail too, and to a receiver of OTLP (`otlp_receiver.py`), a spool of its own,
  and a fallback engine that does not fail; from `cluster/serve.cpu.yaml`.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import yaml

from bench.measuring.load import Sample, closed_loop, multipart
from cluster import ports
from cluster.serving import Application, Dashboard
from tests.helpers.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.helpers.standin import StandIn

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
FAST = {"prepare_ms": 30, "encode_ms": 40, "generate_ms": 60, "vocode_ms": 50, "seconds": 10}
SLOW = {"generate_ms": 1500, "batch_slope": 1.0, "seconds": 3}
WATCHED = {"prepare_ms": 1, "encode_ms": 1, "generate_ms": 20, "vocode_ms": 1, "seconds": 1, "faults": True}
SPARE = WATCHED | {"faults": False}  # of the fallback engine: it does not fail on demand
SERVICES = {"cosyvoice3-api", "audio-service", "embedding-service", "tts-service", "vocoder-service"}


@dataclass(frozen=True)
class App:
    """One deployed application, its Zipkin and its place in the dashboard's API."""

    name: str
    port: int
    zipkin: str
    dashboard: Dashboard
    config: dict  #: of all applications, as it was deployed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.name}"

    def post(
        self, clip: bytes | None = None, *, headers: dict | None = None, timeout: float = 60.0, **fields: str
    ) -> httpx.Response:
        files = {"prompt_audio": ("clip.wav", tone() if clip is None else clip)}
        return httpx.post(
            f"{self.url}/api/generate",
            data={"text": "Hello", "dialect": "en-US"} | fields,
            files=files,
            headers=headers,
            timeout=timeout,
            trust_env=False,
        )

    def many(self, clients: int, count: int, **fields: str) -> list[Sample]:
        request = multipart(
            f"127.0.0.1:{self.port}",
            {"text": "Hello", "dialect": "en-US"} | fields,
            tone(),
            path=f"/{self.name}/api/generate",
        )
        return asyncio.run(closed_loop("127.0.0.1", self.port, request, clients=clients, count=count))

    def trace(self, trace_id: str, *, spans: int = 1, within_s: float = 20.0) -> list[dict]:
        """The trace as Zipkin has it, once it holds at least `spans` spans."""
        end = time.monotonic() + within_s
        while True:
            answer = httpx.get(f"{self.zipkin}/api/v2/trace/{trace_id}", trust_env=False)
            if answer.status_code == 200 and len(answer.json()) >= spans:
                return answer.json()
            assert time.monotonic() < end, f"Zipkin has {answer.text[:300]!r} for {trace_id}, not {spans} spans"
            time.sleep(0.1)

    def replicas(self, service: str) -> list[dict]:
        """Running replicas as the dashboard's API reports them (`pid`, `replica_id`, `state` …)."""
        deployments = self.dashboard.applications().get(self.name, {}).get("deployments", {})  # none while it is built
        return [
            replica for replica in deployments.get(service, {}).get("replicas", []) if replica["state"] == "RUNNING"
        ]

    def counters(self) -> list[dict[str, int]]:
        """Return the counters of each replica of the ingress.

        Serve hides a replica from handles while it is reconfigured, so this waits until all of them answer.
        """
        from ray import serve
        from ray.serve.exceptions import DeploymentUnavailableError

        end = time.monotonic() + 30
        while True:
            with suppress(DeploymentUnavailableError):
                found = (
                    serve.get_deployment_handle("cosyvoice3-api", self.name).broadcast("counters").results(timeout_s=20)
                )
                if len(found) == len(self.replicas("cosyvoice3-api")):
                    return found
            assert time.monotonic() < end, f"not every ingress of {self.name} answers"
            time.sleep(0.1)

    def redeploy(self, change: Callable[[dict], None]) -> None:
        """Deploy again with this application's config changed; the others stay as they are."""
        change(next(entry for entry in self.config["applications"] if entry["name"] == self.name))
        self.dashboard.deploy(Application(self.config))

    def wait_ready(self, within_s: float = 90.0) -> None:
        end = time.monotonic() + within_s
        while not self._ready():
            assert time.monotonic() < end, f"{self.name} was not ready again within {within_s} s"
            time.sleep(0.3)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=10, trust_env=False).status_code == 200
        except httpx.TimeoutException:  # Serve holds requests back while an application has no ingress
            return False


def sound(answer: httpx.Response) -> bytes:
    """Return an answer's samples as 16-bit PCM. Whole files are never equal: each has its own trace id in its mark."""
    found: bytes = soundfile.read(io.BytesIO(answer.content), dtype="int16")[0].tobytes()
    return found


def tone(
    seconds: float = 4.0,
    rate: int = 24_000,
    hz: float = 180.0,
    level: float = 0.3,
    format: str = "WAV",
    subtype: str | None = None,
) -> bytes:
    """A sine as an audio file: sound enough for every check that does not need a voice."""
    file = io.BytesIO()
    wave = level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)
    soundfile.write(file, wave.astype(np.float32), rate, format=format, subtype=subtype)
    return file.getvalue()


def _config(file: str, name: str, args: dict) -> dict:
    app = yaml.safe_load((CLUSTER / file).read_text())["applications"][0]
    # Most tests repeat a clip and expect every stage's span; test_voice_cache_served.py switches the cache on.
    app["args"] = {**app["args"], "voice_cache_mb": 0, **args}
    return app | {"name": name, "route_prefix": f"/{name}"}


def _quick_to_scale(app: dict) -> dict:
    """tts-service scales on seconds instead of minutes; everything else stays as the file has it."""
    tts = next(entry for entry in app["deployments"] if entry["name"] == "tts-service")
    tts["autoscaling_config"] |= {
        "max_replicas": 2,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 1,
        "downscale_delay_s": 3,
        "look_back_period_s": 2,
    }
    tts["user_config"] |= {"max_batch_size": 1, "batch_wait_ms": 0}
    return app


@pytest.fixture(scope="session")
def tracing(zipkin, tmp_path_factory) -> dict:
    """The applications' tracing settings: every trace is kept."""
    secret = tmp_path_factory.mktemp("secret") / "secret"
    secret.write_text("0123456789abcdef" * 4)
    return {
        "zipkin_url": zipkin.url,
        "spool_dir": str(tmp_path_factory.mktemp("spool")),
        "secret_file": str(secret),
        "sampling": {"ratio": 1.0},
    }


@pytest.fixture(scope="session")
def stand_in(zipkin) -> Iterator[StandIn]:
    """A stand-in for Zipkin, to which `watched` sends its spans."""
    server = StandIn(zipkin.url)
    yield server
    server.close()


@pytest.fixture(scope="session")
def otlp() -> Iterator[OtlpReceiver]:
    """A receiver of OTLP, to which `watched` sends its spans too."""
    with otlp_receiver() as server:
        yield server


@pytest.fixture(scope="session")
def watched_spool(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("watched") / "spool"


@pytest.fixture(scope="session")
def voices_folder(tmp_path_factory) -> Path:
    """The folder in which `fast` and `voice` store voices."""
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="session")
def apps(ray_head, zipkin, tracing, stand_in, otlp, watched_spool, voices_folder) -> dict[str, App]:
    port = ports.any_free()
    through = tracing | {
        "zipkin_url": stand_in.url,
        "otlp": {"url": otlp.url},
        "zipkin_ui_url": zipkin.url,
        "spool_dir": str(watched_spool),
        "retry_most_s": 0.5,
    }
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [
            _config(
                "serve.cpu.yaml",
                "fast",
                {
                    "engine": "simulated",
                    "engine_options": FAST,
                    "tracing": tracing,
                    "limits": {"deadline_s": 8, "sessions": {"stall_timeout_s": 2}},
                    "cosyvoice_dialect": "zh-CN",
                    "voices": {"url": str(voices_folder / "fast")},
                },
            ),
            _quick_to_scale(
                _config("serve.gpu.yaml", "slow", {"engine": "simulated", "engine_options": SLOW, "tracing": tracing})
            ),
            _config(
                "serve.cpu.yaml",
                "voice",
                {
                    "tracing": tracing,
                    "voices": {"url": str(voices_folder / "voice")},
                    "marking": {"watermark": "perth"},
                },
            ),
            _config(
                "serve.cpu.yaml",
                "watched",
                {
                    "engine": "simulated",
                    "engine_options": WATCHED,
                    "tracing": through,
                    "fallback": {"engine": "simulated", "engine_options": SPARE},
                    "limits": {"deadline_s": 4, "max_in_flight": 8, "max_waiting": 1, "max_wait_s": 1},
                },
            ),
        ],
    }
    dashboard = Dashboard(ray_head)
    dashboard.deploy(Application(config))
    found = {}
    for name in ("fast", "slow", "voice", "watched"):
        dashboard.wait_until_running(name, print)
        found[name] = App(name, port, zipkin.url, dashboard, config)
        found[name].wait_ready()
    return found


@pytest.fixture
def fast(apps) -> App:
    return apps["fast"]


@pytest.fixture
def slow(apps) -> App:
    return apps["slow"]


@pytest.fixture
def voice(apps) -> App:
    return apps["voice"]


@pytest.fixture
def watched(apps, stand_in) -> App:
    stand_in.mode = "well"
    return apps["watched"]
