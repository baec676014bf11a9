"""The launcher's parts: ports, processes, state, Serve configs, the command line, and what it tells people."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import cli, demo, ports, processes, serving, signals, stack, zipkin
from cluster.cli_error import CliError
from cluster.ray_head import ROOT, RayHead
from cluster.state import State, StateFile, boot_id


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def sleeper(tmp_path):
    """A process of ours that started another one."""
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); print('up', flush=True); time.sleep(600)"
    started = processes.start("sleeper", [sys.executable, "-c", code], tmp_path / "sleeper.log")
    wait_for(lambda: "up" in processes.last_lines(started.log))
    yield started
    processes.stop(started, grace_s=1)


def wait_for(condition, within_s=10.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def signals_as_before():
    """`cli.main` takes over the signals of its process, which here is pytest's."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def state(**changes) -> State:
    return State(**{"began": "2030-01-01T00:00:00+00:00", "boot_id": boot_id(), "http_port": 8000} | changes)


def head(process: processes.Started, folder: Path) -> RayHead:
    return RayHead(process, gcs_port=1, dashboard_port=2, folder=str(folder))


class TestPorts:
    def test_a_taken_port_names_its_owner_and_the_option_that_moves_us(self, listener):
        with pytest.raises(CliError) as problem:
            ports.require_free(listener, "the API", "--http-port")
        assert f"Port {listener}" in str(problem.value)
        assert f"--http-port {listener + 1}" in str(problem.value)
        assert f"pid {os.getpid()}" in str(problem.value)

    def test_a_listener_on_all_addresses_counts_as_taken(self):
        with socket.socket() as server:
            server.bind(("0.0.0.0", 0))
            server.listen()
            assert not ports.is_free(server.getsockname()[1])

    def test_a_free_port_is_free(self):
        ports.require_free(ports.any_free(), "the API", "--http-port")

    def test_listeners_beyond_loopback_are_found(self, listener):
        assert ports.open_to_the_network({os.getpid()}) == []
        with socket.socket() as server:
            server.bind(("0.0.0.0", 0))
            server.listen()
            found = ports.open_to_the_network({os.getpid()})
        assert len(found) == 1 and found[0].startswith(f"0.0.0.0:{server_port(found[0])}")

    @pytest.mark.parametrize("option", ["--http-port", "--dashboard-port", "--zipkin-port"])
    def test_up_names_each_taken_port_before_it_starts_anything(self, option, listener, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv("ZIPKIN_URL", raising=False)
        free = {"--http-port", "--dashboard-port", "--zipkin-port"} - {option}
        arguments = [part for name in free for part in (name, str(ports.any_free()))]
        code = cli.main(["up", "--run-dir", str(tmp_path), option, str(listener), *arguments])
        assert code == 1
        assert f"{option} {listener + 1}" in capsys.readouterr().err
        assert not (tmp_path / "state.json").exists()


def server_port(listed: str) -> str:
    return listed.split(":")[1].split(" ")[0]


class TestProcesses:
    def test_the_family_goes_with_its_leader(self, sleeper):
        family = processes.family(sleeper)
        assert len(family) == 2
        assert processes.stop(sleeper)
        assert not any(process.is_running() and process.status() != "zombie" for process in family)

    def test_who_ignores_sigterm_is_killed(self, tmp_path):
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
        started = processes.start("stubborn", [sys.executable, "-c", code], tmp_path / "log")
        wait_for(lambda: "up" in processes.last_lines(started.log))
        assert not processes.stop(started, grace_s=0.3)
        assert not started.alive

    def test_children_are_found_after_their_leader_was_killed(self, sleeper):
        os.kill(sleeper.pid, signal.SIGKILL)
        wait_for(lambda: not sleeper.alive)
        assert [process.name() for process in processes.family(sleeper)] == ["sleep"]
        processes.stop(sleeper, grace_s=1)
        assert processes.family(sleeper) == []

    def test_a_child_that_left_the_session_is_found_by_its_mark(self, tmp_path):
        code = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
        started = processes.start("leaver", [sys.executable, "-c", code], tmp_path / "log")
        wait_for(lambda: len(processes.family(started)) == 2)
        leaver = next(process for process in processes.family(started) if process.pid != started.pid)
        assert os.getsid(leaver.pid) != started.pid
        processes.stop(started, grace_s=1)
        wait_for(lambda: not leaver.is_running() or leaver.status() == psutil.STATUS_ZOMBIE)

    def test_a_recycled_pid_is_never_touched(self, tmp_path):
        stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
        try:
            ticks = processes.start_ticks(stranger.pid)
            remembered = processes.Started("ours", stranger.pid, ticks - 100, "mark-of-ours", str(tmp_path / "log"))
            assert not remembered.alive
            assert processes.family(remembered) == []
            processes.stop(remembered, grace_s=0.2)
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_a_zombie_does_not_count_as_running(self):
        child = subprocess.Popen(["true"])
        wait_for(lambda: processes.start_ticks(child.pid) is None)
        child.wait()


class TestState:
    def test_it_comes_back_as_it_was(self, tmp_path, sleeper):
        saved = state(
            app="cosygraph", zipkin=zipkin.Zipkin("http://127.0.0.1:1", sleeper, "box"), ray=head(sleeper, tmp_path)
        )
        StateFile(tmp_path).save(saved)
        assert StateFile(tmp_path).load() == saved

    def test_alive_follows_the_processes_and_the_boot(self, tmp_path, sleeper):
        running = state(ray=head(sleeper, tmp_path))
        assert running.alive
        assert not state(ray=head(sleeper, tmp_path), boot_id="before the reboot").alive
        processes.stop(sleeper)
        assert not running.alive

    def test_a_damaged_file_is_named(self, tmp_path):
        (tmp_path / "state.json").write_text("{")
        with pytest.raises(CliError, match="state.json"):
            StateFile(tmp_path).load()

    def test_two_launchers_do_not_work_in_one_folder(self, tmp_path):
        with StateFile(tmp_path).locked(), pytest.raises(CliError, match="--run-dir"):
            with StateFile(tmp_path).locked():
                pass

    def test_up_refuses_while_something_runs(self, tmp_path, sleeper):
        StateFile(tmp_path).save(state(ray=head(sleeper, tmp_path)))
        with pytest.raises(CliError, match="`python -m cluster down --run-dir"):
            stack.Stack(tmp_path, lambda text: None).up(stack.Options(run_dir=tmp_path))

    def test_up_stops_what_is_left_of_a_graph_that_has_ended_by_itself(self, tmp_path, sleeper, listener):
        StateFile(tmp_path).save(state(ray=head(sleeper, tmp_path / "ray")))
        os.kill(sleeper.pid, signal.SIGKILL)
        wait_for(lambda: not sleeper.alive)
        assert processes.family(sleeper), "its child lives on"
        said = []
        with pytest.raises(CliError, match=str(listener)):  # and is stopped itself by a port that is taken
            stack.Stack(tmp_path, said.append).up(stack.Options(run_dir=tmp_path, http_port=listener))
        assert not processes.family(sleeper) and not (tmp_path / "state.json").exists()
        assert "has ended by itself" in said[0]

    def test_down_stops_what_a_killed_launcher_left_behind(self, tmp_path, sleeper):
        sessions = tmp_path / "sessions"
        (sessions / "session_latest" / "logs").mkdir(parents=True)
        (sessions / "session_latest" / "logs" / "raylet.out").write_text("log")
        run_dir = tmp_path / "run"
        StateFile(run_dir).save(state(ray=head(sleeper, sessions)))
        assert cli.main(["down", "--run-dir", str(run_dir)]) == 0
        assert not sleeper.alive and not (run_dir / "state.json").exists() and not sessions.exists()
        assert (run_dir / "logs" / "ray" / "raylet.out").read_text() == "log"

    def test_a_part_that_ends_by_itself_is_noticed(self, tmp_path, sleeper):
        running = state(ray=head(sleeper, tmp_path))
        os.kill(sleeper.pid, signal.SIGKILL)
        with pytest.raises(CliError, match=r"sleeper \(pid \d+\) has ended by itself.*\nup"):
            stack.Stack(tmp_path, lambda text: None).watch(running, every_s=0.05)

    def test_a_second_ctrl_c_stops_at_once(self, tmp_path, sleeper, monkeypatch):
        """The first one asks for a gentle end, which here would take for ever."""

        def drain(self, running, within_s):
            raise signals.Interrupted

        monkeypatch.setattr(stack.Stack, "_drain", drain)
        StateFile(tmp_path / "run").save(state(ready=True, ray=head(sleeper, tmp_path / "ray")))
        assert cli.main(["down", "--run-dir", str(tmp_path / "run")]) == 130
        assert not sleeper.alive and not (tmp_path / "run" / "state.json").exists()

    def test_signals_of_one_wish_count_once(self):
        """A terminal signals `make` and us, and `make` passes on its own."""
        interruptions = signals.Interruptions()
        with pytest.raises(signals.Interrupted):
            interruptions._on_signal(signal.SIGINT, None)
        interruptions._on_signal(signal.SIGTERM, None)
        interruptions._last -= 2
        with pytest.raises(signals.Interrupted):
            interruptions._on_signal(signal.SIGINT, None)

    def test_down_and_status_say_that_nothing_runs(self, tmp_path, capsys):
        assert cli.main(["down", "--run-dir", str(tmp_path)]) == 0
        assert cli.main(["status", "--run-dir", str(tmp_path)]) == 1
        assert capsys.readouterr().out.count("nothing runs here") == 2


class TestServing:
    def config(self, tmp_path, text: str) -> Path:
        path = tmp_path / "serve.yaml"
        path.write_text(text)
        return path

    def test_the_launchers_options_are_laid_over_the_files(self, tmp_path):
        path = self.config(
            tmp_path,
            "http_options: {host: 0.0.0.0, port: 1, keep_alive_timeout_s: 9}\n"
            "applications: [{name: a, import_path: 'graph:build', args: {engine: embedded, "
            "tracing: {zipkin_url: x, spool_dir: y}}}]",
        )
        application = serving.Application.read(path, 8080, {"engine": "simulated", "tracing": {"zipkin_url": "z"}})
        assert application.config["http_options"] == {"host": "127.0.0.1", "port": 8080, "keep_alive_timeout_s": 9}
        assert application.config["applications"][0]["args"] == {
            "engine": "simulated",
            "tracing": {"zipkin_url": "z", "spool_dir": "y"},
        }
        assert (application.name, application.module) == ("a", "graph")

    PAGE = "{name: page, route_prefix: /ui, import_path: 'webui.deployment:build', args: {api_url: x}}"

    def test_voices_lie_in_the_run_folder_unless_the_config_names_a_place(self, tmp_path):
        def of(text: str) -> str:
            options = stack.Options(config=self.config(tmp_path, text), run_dir=tmp_path / "run")
            application = stack.Stack(options.run_dir, print)._application(options)
            return application.config["applications"][0]["args"]["voices"]["url"]

        entry = "applications: [{name: a, import_path: 'graph:build', args: {engine: simulated%s}}]"
        assert of(entry % "") == str((tmp_path / "run" / "voices").resolve())
        assert of(entry % ", voices: {url: /elsewhere}") == "/elsewhere"

    def test_the_web_page_is_told_where_the_api_and_zipkin_are(self, tmp_path):
        path = self.config(
            tmp_path,
            f"applications: [{self.PAGE}, {{name: a, route_prefix: /a/, "
            "import_path: 'graph:build', args: {engine: embedded}}]",
        )
        tracing = {"tracing": {"zipkin_ui_url": "http://127.0.0.1:9"}}
        application = serving.Application.read(path, 8080, tracing, web_page=True)
        assert [one["name"] for one in application.config["applications"]] == ["a", "page"], "the graph comes first"
        assert application.config["applications"][1]["args"] == {
            "api_url": "http://127.0.0.1:8080/a",
            "api_docs_url": "/a/docs",
            "zipkin_ui_url": "http://127.0.0.1:9",
        }
        assert (application.name, application.module, application.web_page) == ("a", "graph", ("page", "/ui/"))
        assert application.config["applications"][0]["args"]["web_page_url"] == "/ui/", "a browser at / is sent there"

    def test_and_is_left_out_where_nobody_wants_it(self, tmp_path):
        path = self.config(tmp_path, f"applications: [{{name: a, import_path: 'graph:build'}}, {self.PAGE}]")
        application = serving.Application.read(path, 8080, {})
        assert [one["name"] for one in application.config["applications"]] == ["a"]
        assert application.web_page is None and application.config["applications"][0]["args"]["web_page_url"] is None

    @pytest.mark.parametrize(
        "applications", [f"[{PAGE}]", f"[{{name: a}}, {PAGE}, {PAGE}]", f"[{{name: a}}, {PAGE}, x]"]
    )
    def test_beside_one_graph_there_is_one_web_page_at_most(self, tmp_path, applications):
        with pytest.raises(CliError, match="exactly one application, and beside it at most the web page"):
            serving.Application.read(self.config(tmp_path, f"applications: {applications}"), 1, {}, web_page=True)

    @pytest.mark.parametrize("text", ["applications: [", "[]", "applications: {}", "applications: [{}, {}]"])
    def test_a_config_that_is_none_is_named(self, tmp_path, text):
        with pytest.raises(CliError, match="serve.yaml"):
            serving.Application.read(self.config(tmp_path, text), 8000, {})
        with pytest.raises(CliError, match="--config"):
            serving.Application.read(tmp_path / "missing.yaml", 8000, {})

    def test_the_options_of_one_engine_are_not_given_to_another(self, tmp_path):
        path = self.config(
            tmp_path,
            "applications: [{name: a, import_path: 'graph:build', args: {engine: embedded, "
            "engine_options: {bf16: false}}}]",
        )

        def args(**options) -> dict:
            return serving.Application.read(path, 1, options).config["applications"][0]["args"]

        assert args(engine_options={})["engine_options"] == {"bf16": False}
        assert args(engine_options={"another": 2})["engine_options"] == {"bf16": False, "another": 2}
        assert args(engine="simulated", engine_options={"seconds": 1})["engine_options"] == {"seconds": 1}

    @pytest.mark.parametrize(
        "options, words",
        [
            (
                ["--engine", "cosyvoice3"],
                ["needs model_dir", "FunAudioLLM/Fun-CosyVoice3-0.5B-2512", "--engine-option"],
            ),
            (
                ["--engine", "cosyvoice3", "--engine-option", "model_dir=/no/such"],
                ["/no/such does not exist", "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"],
            ),
            (
                ["--config", str(ROOT / "cluster" / "serve.cosyvoice3.yaml"), "--engine-option", "model_dir="],
                ["needs model_dir", "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"],
            ),
            (
                ["--config", str(ROOT / "cluster" / "serve.cosyvoice3.yaml"), "--engine-option", "model_dir=/no/such"],
                ["/no/such does not exist", "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"],
            ),
            (["--engine", "cosivoice"], ["unknown engine 'cosivoice'", "cosyvoice3, embedded, simulated"]),
            (["--engine", "simulated", "--engine-option", "secnds=3"], ["secnds"]),
        ],
    )
    def test_an_engine_that_cannot_be_made_stops_before_anything_starts(self, options, words, tmp_path, capsys):
        assert cli.main(["up", "--run-dir", str(tmp_path / "run"), *options]) == 1
        said = capsys.readouterr().err
        assert all(word in said for word in words), said
        assert not (tmp_path / "run" / "state.json").exists()

    def test_an_option_without_a_value_is_refused(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["up", "--engine-option", "model_dir"])
        assert exit_.value.code == 2 and "write NAME=VALUE" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["serve.cpu.yaml", "serve.gpu.yaml", "serve.cosyvoice3.yaml"])
    def test_the_projects_own_configs_are_valid_for_serve(self, name):
        from ray.serve.schema import ServeDeploySchema

        application = serving.Application.read(ROOT / "cluster" / name, 8000, {}, web_page=True)
        ServeDeploySchema.model_validate(application.config)
        assert application.web_page == ("webui", "/ui/")

    def test_the_error_is_found_in_serves_message(self):
        message = (
            "The deployment failed to start 2 times in a row. Error:\nray::ServeReplica() (pid=1)\n"
            '  File "a.py", line 1, in __init__\n    load()\nengines.contract.WeightsError: kokoro is missing.\n'
            "Install it with make setup."
        )
        assert serving.last_error(message) == (
            "engines.contract.WeightsError: kokoro is missing. Install it with make setup."
        )
        assert serving._failure(
            {"status": "DEPLOYING", "deployments": {"tts-service": {"status": "UPDATING", "message": message}}}
        ).startswith("tts-service: engines.contract.")
        assert (
            serving._failure(
                {
                    "status": "DEPLOYING",
                    "deployments": {"tts-service": {"status": "UPDATING", "message": "waiting for 1 replica"}},
                }
            )
            == ""
        )


class TestDemo:
    def test_a_bad_clip_is_refused_before_anything_starts(self, tmp_path, capsys):
        (tmp_path / "empty.wav").write_bytes(b"")
        (tmp_path / "text.wav").write_text("this is no sound")
        for clip, words in (
            ("missing.wav", "no such file"),
            ("", "is no file"),
            ("empty.wav", "0 bytes"),
            ("text.wav", "not audio"),
        ):
            assert cli.main(["demo", "--run-dir", str(tmp_path / "run"), "--clip", str(tmp_path / clip)]) == 1
            assert words in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_the_default_clip_and_its_form_are_good(self):
        demo.Request().check()
        with pytest.raises(CliError, match="--text needs --dialect"):
            demo.Request(text="你好").check()
        assert demo.Request(seed=0).form() == {"text": demo.TEXT, "dialect": "en-US", "mode": "fast", "seed": "0"}

    def test_the_links_name_the_web_page_where_there_is_one(self):
        assert "web page          http://127.0.0.1:8000/ui/\n" in demo.links(state(page_app="webui", page_path="/ui/"))
        assert "web page" not in demo.links(state())

    def test_a_trace_is_found_in_the_spans_file(self, tmp_path):
        file = tmp_path / "spans.jsonl"
        file.write_text('[{"traceId": "a", "id": "1"}]\n[{"traceId": "b", "id": "2"}]\n')
        assert demo.from_file(file, "b", within_s=0) == [{"traceId": "b", "id": "2"}]
        with pytest.raises(CliError, match="spans.jsonl"):
            demo.from_file(file, "c", within_s=0)


class TestCommandLine:
    def test_help_names_every_command_and_the_environment(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["--help"])
        text = capsys.readouterr().out
        assert exit_.value.code == 0
        assert all(
            word in text for word in ("demo", "say", "up", "down", "status", "--once", "ZIPKIN_URL", "ZIPKIN_JAR")
        )

    @pytest.mark.parametrize("command", ["demo", "say", "up", "down", "status"])
    def test_every_command_explains_its_options(self, command, capsys):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "--run-dir" in capsys.readouterr().out

    def test_a_wrong_port_is_refused(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["up", "--http-port", "70000"])
        assert exit_.value.code == 2 and "70000 is no port" in capsys.readouterr().err
