"""How the gate starts and ends, what it refuses to start with, and what it takes in all."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from access.key_editor import KeyEditor
from cluster import cli, ports, processes, status
from cluster import state as states
from cluster.cli_error import CliError
from cluster.ray_head import ROOT
from cluster.zipkin_proxy import process as zipkin_proxy
from cluster.zipkin_proxy.configuration import ProxyOptions, fill
from tests.helpers.gating import wait_until


class TestAGateOfItsOwn:
    def test_too_many_requests_are_refused_with_one_key_and_from_one_address(self, start_gate):
        place = start_gate(rate=1)
        answers = [place.get("/api/v2/autocompleteKeys", place.all) for _ in range(20)]
        assert [answer.status_code for answer in answers[:5]] == [200] * 5
        assert "this key" in answers[-1].text and answers[-1].headers["retry-after"] == "1"
        assert place.get("/api/v2/autocompleteKeys", place.services).status_code == 200
        strangers = [place.get("/zipkin/").status_code for _ in range(60)]
        assert strangers[0] == 401 and strangers[-1] == 429
        assert {line["viewer"] for line in place.audit() if line["status"] == 429} == {"", "view-traces"}

    def test_with_a_certificate(self, start_gate, tmp_path):
        certificate, key = tmp_path / "gate.pem", tmp_path / "gate.key"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                str(key),
                "-out",
                str(certificate),
            ],
            check=True,
            capture_output=True,
        )
        place = start_gate(tls=(certificate, key))
        assert place.gate.url.startswith("https://")
        with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate)), trust_env=False) as trusting:
            headers = {"Authorization": f"Bearer {place.all}"}
            assert trusting.get(f"{place.gate.url}/api/v2/services", headers=headers).status_code == 200
        plain = httpx.get(f"http://127.0.0.1:{place.gate.port}/zipkin/", trust_env=False)
        assert plain.status_code == 400

    def test_it_is_remembered_and_stopped(self, start_gate, tmp_path):
        place = start_gate(url="https://traces.example/")
        file = states.StateFile(tmp_path)
        file.save(states.State("now", states.boot_id(), ports.any_free(), zipkin_proxy=place.gate))
        state = file.load()
        assert state.zipkin_proxy == place.gate and state.traces_url == "https://traces.example" and state.alive
        assert "asks for keys" in status.report(state)[0]
        members = {process.pid for process in processes.family(place.gate.process)}
        assert len(members) == 3 and ports.open_to_the_network(members) == []
        assert cli.main(["down", "--run-dir", str(tmp_path)]) == 0
        assert not place.gate.process.alive and ports.is_free(place.gate.port)

    def test_in_the_foreground_as_in_a_container(self, zipkin, tmp_path):
        keys = tmp_path / "keys.yaml"
        key = KeyEditor(keys).add("alice", roles=["view-traces"])
        port = ports.any_free()
        command = [sys.executable, "-m", "cluster", "gate", "--run-dir", str(tmp_path / "run"), "--viewers", str(keys)]
        command += ["--zipkin-url", zipkin.url, "--gate-port", str(port)]
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                url = f"http://127.0.0.1:{port}/zipkin/"
                wait_until(lambda: not ports.is_free(port), 30)
                assert httpx.get(url, trust_env=False).status_code == 401
                headers = {"Authorization": f"Bearer {key}"}
                assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
            finally:
                process.terminate()
            assert process.wait(20) == 0
        assert ports.is_free(port) and (tmp_path / "run" / "gate" / "audit.jsonl").read_text()

    def test_its_log_can_be_rotated(self, start_gate):
        place = start_gate()
        log = Path(place.gate.audit_log)
        place.get("/zipkin/", place.all)
        wait_until(lambda: log.stat().st_size > 0)
        log.rename(log.with_suffix(".1"))
        log.touch(mode=0o600)
        os.kill(int(log.with_name("nginx.pid").read_text()), signal.SIGUSR1)
        wait_until(lambda: place.get("/zipkin/", place.all).status_code == 200 and place.audit())
        assert log.stat().st_mode & 0o777 == 0o600

    def test_killed_it_leaves_nothing_open(self, start_gate):
        place = start_gate()
        os.kill(place.gate.process.pid, signal.SIGKILL)
        wait_until(lambda: ports.is_free(place.gate.port))

    def test_without_zipkin_it_says_so(self, nginx, tmp_path):
        keys = KeyEditor(tmp_path / "keys.yaml")
        both = [keys.add(role, roles=[role]) for role in ("view-traces", "view-services")]
        nowhere = f"http://127.0.0.1:{ports.any_free()}"
        gate = zipkin_proxy.start(
            ProxyOptions(port=ports.any_free()), nowhere, tmp_path / "keys.yaml", tmp_path, lambda text: None
        )
        try:
            for key in both:
                answer = httpx.get(
                    f"{gate.own_url}/api/v2/services", headers={"Authorization": f"Bearer {key}"}, trust_env=False
                )
                assert answer.status_code == 502 and "Zipkin" in answer.json()["error"]["message"]
        finally:
            gate.stop()


class TestWhatIsRefusedBeforeAnythingStarts:
    @pytest.mark.parametrize(
        "options, says",
        [
            (["--viewers", "x"], "add --with-gate"),
            (["--gate-port", "1"], "add --with-gate"),
            (["--with-gate"], "--role view-traces"),
            (["--with-gate", "--viewers", "nowhere.yaml"], "can't be read"),
            (["--with-gate", "--gate-origin", "evil.example/x"], "--gate-origin"),
            (["--with-gate", "--gate-tls", "nowhere.pem", "nowhere.key"], "--gate-tls"),
        ],
    )
    def test_options(self, nginx, options, says, tmp_path, capsys):
        code = cli.main(
            [
                "up",
                "--run-dir",
                str(tmp_path),
                "--http-port",
                str(ports.any_free()),
                "--dashboard-port",
                str(ports.any_free()),
                *options,
            ]
        )
        assert code == 1 and says in capsys.readouterr().err
        assert not (tmp_path / "state.json").exists()

    @pytest.mark.parametrize("url", ["https://zipkin.example", "http://zipkin.example/behind", "http://x;y{}"])
    def test_a_zipkin_it_can_not_stand_before(self, url):
        with pytest.raises(CliError, match="--with-gate"):
            fill(ProxyOptions(), url, 1)

    def test_no_nginx(self, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
        with pytest.raises(CliError, match="apt-get install"):
            zipkin_proxy.find()
