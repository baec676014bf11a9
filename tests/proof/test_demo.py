"""The launcher's commands as a person types them, on real Ray with the simulated engine: up, demo, down, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import soundfile
import yaml

from cluster import demo, ports, processes
from cluster import zipkin as zipkins
from cluster.ray_head import ROOT
from cluster.state import StateFile

pytestmark = pytest.mark.proof

GENERATE_MS = 2500
ROBOT = "robot-key-0123456789"
STAGES = ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")


class Place:
    """A run folder with ports and a config of its own, and the commands run in it."""

    def __init__(self, folder: Path, zipkin_url: str | None = None) -> None:
        self.run_dir, self.outputs = folder / "run", folder / "outputs"
        self.http_port, self.dashboard_port = ports.any_free(), ports.any_free()
        config = yaml.safe_load((ROOT / "cluster" / "serve.cpu.yaml").read_text())
        config["applications"][0]["args"] |= {"engine": "simulated", "engine_options": {"generate_ms": GENERATE_MS}}
        self.config = folder / "serve.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self.env = {**os.environ} | ({"ZIPKIN_URL": zipkin_url} if zipkin_url else {})
        self.monitoring: list[str] = []  #: options

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def options(self) -> list[str]:
        return [
            "--http-port",
            str(self.http_port),
            "--dashboard-port",
            str(self.dashboard_port),
            "--config",
            str(self.config),
        ]

    def command(self, command: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "cluster", command, "--run-dir", str(self.run_dir), *options]

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(command, *options),
            cwd=ROOT,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )

    def post(self) -> httpx.Response:
        return httpx.post(
            f"{self.url}/api/generate",
            data=demo.Request().form(),
            timeout=60,
            trust_env=False,
            files={"prompt_audio": demo.CLIP.read_bytes()},
        )

    def family(self) -> list[psutil.Process]:
        state = StateFile(self.run_dir).load()
        return [process for started in state.started for process in processes.family(started)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, zipkin):
    place = Place(tmp_path_factory.mktemp("up"), zipkin.url)
    if shutil.which("prometheus") and shutil.which("prometheus-alertmanager"):
        place.monitoring = [
            "--with-monitoring",
            "--prometheus-port",
            str(ports.any_free()),
            "--alertmanager-port",
            str(ports.any_free()),
        ]
        place.env["COSYGRAPH_WECOM_ROBOT"] = ROBOT
    answer = place.run("up", *place.options, *place.monitoring)
    try:
        assert answer.returncode == 0, answer.stdout
        place.said = answer.stdout
        yield place
    finally:
        place.run("down", "--force")


def test_up_says_what_it_does_and_listens_on_loopback_alone(place):
    assert "tts-service is healthy" in place.said and f"ready: {place.url}" in place.said
    assert "reachable from the network" not in place.said
    assert ports.open_to_the_network({process.pid for process in place.family()}) == []


def test_status_knows_every_service(place):
    answer = place.run("status")
    assert answer.returncode == 0, answer.stdout
    assert len(re.findall(r"-(?:api|service) +HEALTHY +1 of 1", answer.stdout)) == 5


def test_the_web_page_is_up_beside_the_graph(place):
    assert f"web page          {place.url}/ui/" in place.said
    assert re.search(rf"Web page +{place.url}/ui/ +running", place.run("status").stdout)
    browser = {"Accept": "text/html", "Accept-Language": "zh-CN"}
    for path in ("/", "/ui"):
        answer = httpx.get(place.url + path, headers=browser, follow_redirects=True, trust_env=False)
        assert answer.status_code == 200 and answer.url.path == "/ui/zh/", path
    assert httpx.get(f"{place.url}/ui/zh/config", trust_env=False).json()["analytics_enabled"] is False


def test_monitoring_went_up_with_it_and_the_robots_key_is_nowhere(place):
    if not place.monitoring:
        pytest.skip(
            "no Prometheus or Alertmanager; on Debian and Ubuntu: apt-get install --no-install-recommends "
            "prometheus prometheus-alertmanager"
        )
    assert len(re.findall(r"(?:Prometheus|Alerts|WeCom) .* healthy, pid", place.run("status").stdout)) == 3
    adapter = StateFile(place.run_dir).load().wecom.process.pid
    for process in place.family():
        with suppress(psutil.Error):
            assert (ROBOT in " ".join(process.environ().values())) == (process.pid == adapter), process.name()
            assert ROBOT not in " ".join(process.cmdline())


def test_demo_uses_what_runs_and_shows_the_trace_from_zipkin(place):
    answer = place.run("demo", "--outputs", str(place.outputs))
    assert answer.returncode == 0, answer.stdout
    assert "using the graph" in answer.stdout and "Apache License 2.0" in answer.stdout
    speech = list(place.outputs.glob("*.wav"))
    trace_id = re.fullmatch(r"output_\d{8}_\d{6}_([0-9a-f]{32})\.wav", speech[0].name)[1]
    assert soundfile.info(str(speech[0])).samplerate == 24000
    assert f"/zipkin/traces/{trace_id}" in answer.stdout and "/zipkin/dependency" in answer.stdout
    lines = answer.stdout.splitlines()
    assert all(any(stage in line and "%" in line for line in lines) for stage in STAGES)
    assert ["GENERATE_MEL" in line for line in lines if "slowest stage" in line] == [True]
    assert "voice.cache" not in answer.stdout


def test_a_second_demo_finds_the_voice_known(place):
    """With the voice cache as the project's own config has it."""
    answer = place.run("demo", "--outputs", str(place.outputs))
    assert answer.returncode == 0, answer.stdout
    assert "voice.cache=hit" in answer.stdout and "  3 spans" in answer.stdout
    assert [stage for stage in STAGES if any(stage in line and "%" in line for line in answer.stdout.splitlines())] == [
        "GENERATE_MEL",
        "VOCODE_WAV",
    ]


def test_say_asks_what_runs_and_writes_the_file(place, tmp_path):
    answer = place.run(
        "say", "Good morning.", "--clip", str(demo.CLIP), "--dialect", "en-GB", "-o", str(tmp_path / "out.mp3")
    )
    assert answer.returncode == 0, answer.stdout
    assert soundfile.info(str(tmp_path / "out.mp3")).duration > 1
    assert "GENERATE_MEL" in answer.stdout and "/zipkin/traces/" in answer.stdout


def test_a_refused_request_shows_the_servers_words_and_fails(place):
    answer = place.run("demo", "--dialect", "zh-Nowhere")
    assert answer.returncode == 1
    assert "answered 400" in answer.stdout and "GET /api/dialects" in answer.stdout
    assert "Traceback" not in answer.stdout


def test_a_second_up_is_told_about_the_first(place):
    answer = place.run("up", *place.options)
    assert answer.returncode == 1 and "`python -m cluster down --run-dir" in answer.stdout


def test_down_lets_the_request_under_way_finish_and_stops_only_its_own(place, zipkin):
    """Runs last: it ends what the module's other tests use."""
    ours = place.family()
    answers = []
    client = threading.Thread(target=lambda: answers.append(place.post()))
    client.start()
    time.sleep(0.5)
    stopped = place.run("down")
    client.join(timeout=60)
    assert stopped.returncode == 0, stopped.stdout
    assert [answer.status_code for answer in answers] == [200]
    assert "cut off" not in stopped.stdout and "failed" not in stopped.stdout
    assert [process for process in ours if process.is_running() and process.status() != "zombie"] == []
    assert ports.is_free(place.http_port) and ports.is_free(place.dashboard_port)
    assert zipkins.healthy(zipkin.url)
    assert place.run("status").returncode == 1


def test_ctrl_c_stops_a_demo_without_zipkin(tmp_path):
    """The whole demo in one process: spans to a file, serving until the signal, nothing left behind."""
    place = Place(tmp_path)
    log = tmp_path / "demo.log"
    command = place.command("demo", *place.options, "--no-zipkin", "--no-webui", "--outputs", str(place.outputs))
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=place.env, stdout=output, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 240
        while "serving until Ctrl-C" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        ours = place.family()
        assert len(ours) > 5
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        place.run("down", "--force")
    spans = json.loads((place.run_dir / "spans.jsonl").read_text().splitlines()[0])
    assert {span["name"].upper() for span in spans} >= set(STAGES)
    assert all(stage in log.read_text() for stage in STAGES) and "web page" not in log.read_text()
    assert [process for process in ours if process.is_running() and process.status() != "zombie"] == []
    assert not (place.run_dir / "state.json").exists()
