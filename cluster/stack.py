"""Zipkin, Ray and the graph as one thing that goes up and comes down."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from access.required import is_loopback
from cluster import key, monitoring, otlp, private_file, ray_head, serving, watchdog_key, zipkin
from cluster.application import Application
from cluster.cli_error import CliError
from cluster.options import Options, command
from cluster.ports import open_to_the_network, require_free
from cluster.processes import family, last_lines
from cluster.ray_head import ROOT
from cluster.state import State, StateFile, boot_id
from cluster.storage import prepare
from cluster.storage_mariadb import MariaDb
from cluster.zipkin_proxy import process as zipkin_proxy

#: Below the run folder: where voices are stored, unless the config names another place. `make clean` leaves it.
VOICES = "voices"
DRAIN_WITHIN_S = 30.0


def secret_file(run_dir: Path) -> Path:
    """This stack's secret, made once: what user ids are hashed with, and what makes sampling unpredictable."""
    path = run_dir / "secret"
    if not path.exists() or not path.stat().st_size:  # empty: an older version was stopped while it made it
        run_dir.mkdir(parents=True, exist_ok=True)
        private_file.write(path, secrets.token_hex(32) + "\n")
    return path


class Stack:
    """Starts and stops one stack, whose traces are in `options.run_dir`."""

    def __init__(self, run_dir: Path, say: Callable[[str], None]) -> None:
        self.run_dir = run_dir.resolve()
        self.file = StateFile(self.run_dir)
        self.say = say
        self.started: State | None = None  #: what this object has to stop if it is interrupted

    @property
    def ray_logs(self) -> Path:
        """The folder of Ray's logs once Ray has stopped. While it runs, they are in its own folder."""
        return self.run_dir / "logs" / "ray"

    def up(self, options: Options) -> State:
        """Start everything and return when the graph is ready. Whatever goes wrong, nothing is left running."""
        with self.file.locked():
            self._make_way()
            application = self._application(options)
            application.check_engine()
            application.check_scaling()
            keys_required = application.check_access(self.say)
            if options.zipkin_proxy is not None:
                zipkin_proxy.check(options.zipkin_proxy, self._keys_file(options))
            require_free(options.http_port, "the API", "--http-port", host=options.host)
            require_free(options.dashboard_port, "Ray's dashboard", "--dashboard-port")
            if options.with_monitoring:
                monitoring.check()
            state = State(
                datetime.now().astimezone().isoformat(timespec="seconds"),
                boot_id(),
                options.http_port,
                options.host,
                zipkin_ui_url=options.zipkin_ui_url,
            )
            self.started = state
            try:
                self._start(options, state, keys_required)
            except BaseException:
                # Also for Ctrl-C, which is no Exception.
                self.say("stopping what was started")
                self.stop(state, drain=False)
                raise
            return state

    def _make_way(self) -> None:
        """Refuse to start beside a running graph, and stop what is left of one that has ended by itself.

        Its file is written over, so nobody else would find, for example, the children of a Ray head that was killed.
        """
        earlier = self.file.load()
        if earlier is None or earlier.boot_id != boot_id():
            return
        if earlier.alive:
            raise CliError(
                f"A graph has been running here since {earlier.began}, at {earlier.http_url}. "
                f"Stop it with `{command('down', self.run_dir)}`, or use another folder for this one with --run-dir."
            )
        self.say(f"the graph of {earlier.began} has ended by itself; stopping what is left of it")
        self.stop(earlier, drain=False)

    def _start(self, options: Options, state: State, keys_required: bool) -> None:
        self._start_zipkin(options, state)
        self._start_zipkin_proxy(options, state)
        self.say(f"starting Ray (dashboard on port {options.dashboard_port})")

        def remember(head: ray_head.RayHead) -> None:
            state.ray = head
            self.file.save(state)

        application = self._application(options, tracing=self._tracing(options, state))
        self._check_otlp(application, state)
        if keys_required:
            self._give_canary_key(application)
        head = ray_head.start(
            options.dashboard_port,
            self.run_dir / "logs" / "ray.log",
            options.ray_port,
            num_cpus=max(2, os.cpu_count() or 1),
            remember=remember,
            env=application.proxy_environment(),
            behind_haproxy=options.haproxy,
        )
        state.app, state.module = application.name, application.module
        self.file.save(state)
        if options.web_page and not is_loopback(options.host):
            self.say("the web page is left out: it asks nobody who they are, and is for loopback alone")
        self.say(f"deploying the graph ({options.config.name})")
        dashboard = serving.Dashboard(head, self.ray_logs)
        dashboard.deploy(application)
        dashboard.wait_until_running(application.name, self.say)
        if application.web_page is not None:
            page, state.page_path = application.web_page
            dashboard.wait_until_running(page, self.say)
            state.page_app = page
        if application.watchdog is not None:
            dashboard.wait_until_running(application.watchdog, self.say)
            state.watchdog_app = application.watchdog
        serving.wait_until_ready(state.http_url)
        if options.with_monitoring:
            self._start_monitoring(options, state, head)
        state.ready = True
        self.file.save(state)
        ours = {process.pid for started in state.started for process in family(started)}
        proxy = state.zipkin_proxy
        exposed = open_to_the_network(
            ours, meant=(options.host, options.http_port), also=(proxy.host, proxy.port) if proxy is not None else None
        )
        if exposed:
            self.say(f"WARNING: reachable from the network, where only loopback was meant: {', '.join(exposed)}")
        self.say(f"ready: {state.http_url}" + (f", web page {state.page_url}" if state.page_url else ""))

    def _application(self, options: Options, **args) -> Application:
        if options.engine:
            args["engine"] = options.engine
        args["engine_options"] = options.engine_options
        read = partial(
            Application.read,
            options.config,
            options.http_port,
            host=options.host,
            web_page=options.web_page and is_loopback(options.host),
            watchdog=options.watchdog,
        )
        application = read(args)
        if not application.stores_voices:
            args["voices"] = {"url": str(self.run_dir / VOICES)}
            application = read(args)
        keys_file = options.keys_file or self.run_dir / key.FILE
        if options.keys_file or (keys_file.exists() and not application.keys_file):
            named = {"keys_file": str(keys_file.resolve())}  # in both places: a config may name it in the older one
            application = read(args | {"access": named, "tracing": {**args.get("tracing", {}), **named}})
        return application

    def _give_canary_key(self, application: Application) -> None:
        if application.canary_has_key or application.keys_file is None:
            return
        try:
            path = watchdog_key.ready(self.run_dir, Path(application.keys_file), self.say)
        except (OSError, ValueError) as error:
            raise CliError(
                f"The watchdog's canary can't be given an API key: {error}. --no-watchdog does without."
            ) from error
        if path is not None:
            application.give_canary_key(path)

    def _tracing(self, options: Options, state: State) -> dict:
        """Return the graph's tracing settings, as this stack overrides the config's.

        On loopback every trace is kept unless an option says otherwise, so that newcomers always find theirs.
        """
        url = state.zipkin.url if state.zipkin is not None else None
        return {
            "spool_dir": str(self.run_dir / "spool"),
            "zipkin_url": url,
            "zipkin_ui_url": state.traces_url,
            "spans_file": state.spans_file,
            "secret_file": str(secret_file(self.run_dir)),
            "sampling": {"ratio": options.sampling},
            **({"otlp": {"url": options.otlp_url}} if options.otlp_url else {}),
        }

    def _check_otlp(self, application: Application, state: State) -> None:
        """Say whether the receiver of OTLP takes traces. One that doesn't, stops nothing: they wait for it."""
        if application.otlp is None:
            return
        receiver = otlp.destination(application.otlp)
        trouble = otlp.problem(receiver)
        state.otlp = receiver.model_dump(mode="json", exclude_defaults=True)
        self.file.save(state)
        self.say(
            f"traces go to the receiver of OTLP at {receiver.url} too"
            if trouble is None
            else f"the receiver of OTLP at {receiver.url} takes no traces yet: {trouble}. They wait for it in the spool"
        )

    def _start_zipkin(self, options: Options, state: State) -> None:
        def remember(server: zipkin.Zipkin) -> None:
            state.zipkin = replace(server, storage=options.storage.named)
            self.file.save(state)

        def remember_database(server: MariaDb) -> None:
            state.database = server
            self.file.save(state)

        def storage() -> dict[str, str]:
            return prepare(options.storage, self.run_dir, self.say, remember_database)

        missing = ["it was left out with --no-zipkin"]
        if options.with_zipkin:
            server, missing = zipkin.find_or_start(
                options.zipkin_port,
                self.run_dir / "logs" / "zipkin.log",
                self.say,
                remember=remember,
                storage=storage if options.storage.kind != "mem" else None,
            )
            state.zipkin = server and replace(server, storage=options.storage.named)
        elif options.storage.kind != "mem":
            raise CliError("--no-zipkin and --zipkin-storage contradict each other: leave one of them out.")
        if state.zipkin is not None:
            self.say(f"Zipkin is ready: {state.zipkin.ui_url} (traces are kept in {options.storage.named})")
            if options.zipkin_ui_url:
                self.say(f"  links to traces lead to {options.zipkin_ui_url}/zipkin")
            return
        state.spans_file = str(self.run_dir / "spans.jsonl")
        self.say("no Zipkin: " + "; ".join(missing))
        if options.with_zipkin:
            self.say(
                "  to have one: install a Java 17 or newer or `make setup` (it installs one), and let the jar be "
                "fetched once; or set ZIPKIN_JAR, or ZIPKIN_URL, or start a Docker engine"
            )
        self.say(f"  going on without; spans are written to {state.spans_file}")

    def _start_monitoring(self, options: Options, state: State, head: ray_head.RayHead) -> None:
        def remember(name: str, server: monitoring.Server) -> None:
            setattr(state, name, server)
            self.file.save(state)

        servers = monitoring.Monitoring(self.run_dir, self.say, remember, options.wecom)
        servers.start(
            head,
            state.zipkin.url if state.zipkin is not None else None,
            options.prometheus_port,
            options.alertmanager_port,
            state.traces_url,
        )

    def _start_zipkin_proxy(self, options: Options, state: State) -> None:
        if options.zipkin_proxy is None:
            return
        if state.zipkin is None:
            raise CliError("--with-gate needs a Zipkin to stand before, and there is none here; leave one of them out.")

        def remember(server: zipkin_proxy.ZipkinProxy) -> None:
            state.zipkin_proxy = server
            self.file.save(state)

        zipkin_proxy.start(
            options.zipkin_proxy, state.zipkin.url, self._keys_file(options), self.run_dir, self.say, remember
        )

    def _keys_file(self, options: Options) -> Path | None:
        keys_file = self._application(options).keys_file
        return Path(keys_file) if keys_file else None

    def down(self, drain_within_s: float = DRAIN_WITHIN_S, force: bool = False) -> bool:
        """Stop what the state file names, from whichever terminal. False where nothing was running."""
        with self.file.locked():
            state = self.file.load()
            if state is None:
                return False
            if state.boot_id != boot_id():
                self.file.forget()
                return False
            self.started = state
            self.stop(state, drain=not force, drain_within_s=drain_within_s)
            return True

    def stop(self, state: State, drain: bool = True, drain_within_s: float = DRAIN_WITHIN_S) -> None:
        """Requests under way first, then the graph, Ray and Zipkin. Safe to call again after an interruption."""
        if state.monitoring:
            # First, so that stopping on purpose raises no alert.
            self.say("stopping Prometheus and Alertmanager")
            for server in state.monitoring:
                server.stop()
        if state.ray is not None:
            if drain and state.ready and state.ray.process.alive:
                self._drain(state, drain_within_s)
                self.say("deleting the graph")
                serving.Dashboard(state.ray).delete()
            self.say("stopping Ray")
            if trouble := state.ray.stop(keep_logs_in=self.ray_logs):
                self.say(f"  not all of Ray's logs could be kept in {self.ray_logs}: {trouble}")
        if state.zipkin_proxy is not None:
            self.say("stopping the gate")
            state.zipkin_proxy.stop()
        if state.zipkin is not None and state.zipkin.process is not None:
            self.say("stopping Zipkin")
            zipkin.stop(state.zipkin.process, state.zipkin.container)
        if state.database is not None:
            self.say("stopping MariaDB")
            state.database.stop()
        self.file.forget()
        self.started = None
        self.say("stopped")

    def watch(self, state: State, every_s: float = 1.0) -> None:
        """Return never.

        Raises:
            CliError: A process that was started ends by itself.
        """
        while True:
            for process in state.started:
                if not process.alive:
                    raise CliError(
                        f"{process.name} (pid {process.pid}) has ended by itself. The end of {process.log}:\n"
                        f"{last_lines(process.log)}"
                    )
            time.sleep(every_s)

    def _drain(self, state: State, within_s: float) -> None:
        assert state.ray is not None
        self.say(f"refusing new requests, waiting for those under way (at most {within_s:.0f} s)")
        began = time.monotonic()
        command = [sys.executable, "-m", "cluster.drain", state.ray.address, state.module, state.app, str(within_s)]
        try:
            answer = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **ray_head.environment()},
                text=True,
                capture_output=True,
                timeout=within_s + 30,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            self.say("  the graph doesn't answer; going on")
            return
        if answer.returncode != 0:
            self.say(f"  that failed, going on: {serving.last_error(answer.stderr)[:300]}")
            return
        left = answer.stdout.split()[-1:] or ["0"]
        if left != ["0"]:
            self.say(f"  {left[0]} requests still under way after {time.monotonic() - began:.0f} s; they are cut off")
