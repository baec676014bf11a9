"""The Serve application: deployed, watched and deleted through the dashboard's API, as any other client would."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from access.authentication import Authenticator
from access.required import is_loopback, keys_required
from cluster.cli_error import CliError
from cluster.ports import LOOPBACK, reachable
from cluster.ray_head import RayHead, auth_headers
from deployments.settings import AccessConfig
from engines import contract
from speech.dialects import DIALECTS

READY_WITHIN_S = 300.0
#: Of the graph's tracing settings, what says where traces go.
_WAY_OUT = (
    "zipkin_url",
    "zipkin_ui_url",
    "protocol",
    "kafka",
    "kafka_options",
    "spans_file",
    "spool_dir",
    "spool_limit_mb",
    "retry_most_s",
)
WEB_PAGE = "webui.deployment:build"  #: import path of the application that is the web page
WATCHDOG = "watchdog.deployment:build"  #: and of the one that watches the graph
_STILL_WAITING_EVERY_S = 15.0


@dataclass(frozen=True)
class Application:
    """A Serve config read from a file and completed by the launcher: the graph's application first, and behind it the
    web page's and the watchdog's, where there are any."""

    config: dict

    @classmethod
    def read(
        cls,
        path: Path,
        http_port: int,
        args: Mapping,
        host: str = LOOPBACK,
        web_page: bool = False,
        watchdog: bool = False,
    ) -> Application:
        """The config in `path`, with the HTTP server's host and port set and `args` laid over its graph's own.

        The file's engine options are for the file's engine: where `args` names another one, they are left out.
        Without `web_page` the file's web page is left out; with it, it is told where the API and Zipkin are. The same
        for `watchdog`, which is told how the graph traces too.
        """
        try:
            config = yaml.safe_load(path.read_text())
            applications = config["applications"]
        except OSError as failure:
            raise CliError(
                f"The Serve config {path} can't be read ({failure.strerror}); --config names another one."
            ) from failure
        except (yaml.YAMLError, KeyError, TypeError) as failure:
            raise CliError(f"{path} is no Serve config: it must be YAML with a list `applications`.") from failure
        graph, page, dog = _sorted(applications, path)
        config["http_options"] = {**config.get("http_options", {}), "host": host, "port": http_port}
        own = graph.get("args") or {}
        if args.get("engine", own.get("engine")) != own.get("engine"):
            own = {key: value for key, value in own.items() if key != "engine_options"}
        graph["args"] = _laid_over(own, args)
        config["applications"] = [graph]
        api = (graph.get("route_prefix") or "/").rstrip("/")
        api_url, tracing = f"http://{reachable(host)}:{http_port}{api}", graph["args"].get("tracing", {})
        if page is not None and web_page:
            page["args"] = _laid_over(
                page.get("args") or {},
                {"api_url": api_url, "api_docs_url": f"{api}/docs", "zipkin_ui_url": tracing.get("zipkin_ui_url")},
            )
            config["applications"].append(page)
        if dog is not None and watchdog:
            way_out = {name: tracing[name] for name in _WAY_OUT if tracing.get(name) is not None}
            dog["args"] = _laid_over(
                dog.get("args") or {},
                {"api_url": api_url, "app_name": graph.get("name", "default"), "tracing": way_out},
            )
            config["applications"].append(dog)
        return cls(config)

    def check_engine(self) -> None:
        """Raise Problem where the engine can't be made: unknown, wrong options, no weights. Loads nothing.

        Replicas would find out too, but only after Zipkin, Ray and Serve have started. An application that is not ours
        is not looked at.
        """
        application = self.config["applications"][0]
        if application.get("import_path") != "graph:build":
            return
        args = application["args"]
        name = args.get("engine", "embedded")
        try:
            contract.create(name, args.get("engine_options"))
        except contract.WeightsError as error:
            raise CliError(
                f"{error}\nOptions of the engine: --engine-option NAME=VALUE, or engine_options in the config file."
            ) from error
        except (TypeError, ValueError) as error:
            raise CliError(
                f"The engine {name} can't be made: {error}\nOptions of the engine: --engine-option "
                "NAME=VALUE, or engine_options in the config file."
            ) from error

    def check_access(self, say: Callable[[str], None]) -> bool:
        """Whether keys are required. The ingress finds the same, but later. An application that is not ours is not
        looked at.

        Raises Problem where the key file can't be used, or where the API would be open to the network and ask for no
        key.
        """
        application = self.config["applications"][0]
        host = self.config["http_options"]["host"]
        if application.get("import_path") != "graph:build":
            if not is_loopback(host):
                say(f"WARNING: {host} is open to the network, and what this application asks of callers is not known")
            return False
        try:
            args = application["args"]
            settings = AccessConfig(access=args.get("access") or {}, tracing=args.get("tracing") or {})
            known = Authenticator(settings.keys_file, DIALECTS.extended(args.get("dialects") or ())).known
            required = keys_required(settings.access, host, known)
        except ValueError as error:
            raise CliError(f"Who may call can't be decided: {error}.") from error
        if required:
            say(f"API keys are required ({known} known)")
        elif not is_loopback(host):
            say(f"WARNING: {host} is open to the network, and no key is asked for: access.required is false")
        return required

    @property
    def name(self) -> str:
        return self.config["applications"][0].get("name", "default")

    @property
    def web_page(self) -> tuple[str, str] | None:
        """Name and path of the web page's application, where the config has one."""
        page = next((one for one in self.config["applications"] if one.get("import_path") == WEB_PAGE), None)
        return page and (page.get("name", "webui"), (page.get("route_prefix") or "").rstrip("/") + "/")

    @property
    def watchdog(self) -> str | None:
        """Name of the watchdog's application, where the config has one."""
        return self._watchdog and self._watchdog.get("name", "watchdog")

    @property
    def canary_has_key(self) -> bool:
        """Whether the config names a file with one, or has no watchdog that would need it."""
        return self._watchdog is None or bool((self._watchdog.get("args") or {}).get("canary_key_file"))

    def give_canary_key(self, path: Path) -> None:
        """Name the file that holds the API key for the watchdog's canary."""
        self._watchdog["args"] = {**(self._watchdog.get("args") or {}), "canary_key_file": str(path)}

    @property
    def _watchdog(self) -> dict | None:
        return next((one for one in self.config["applications"] if one.get("import_path") == WATCHDOG), None)

    def proxy_environment(self) -> dict[str, str]:
        """What Serve's proxy must find in its environment: how the graph traces (`deployments/ingress/proxy_middleware.py`)."""
        tracing = self._args.get("tracing") or {}
        return {"COSYGRAPH_TRACING": json.dumps(tracing | ({"keys_file": self.keys_file} if self.keys_file else {}))}

    @property
    def stores_voices(self) -> bool:
        """Whether it says where; one that is not ours is not told."""
        return self.module != "graph" or bool((self._args.get("voices") or {}).get("url"))

    @property
    def keys_file(self) -> str | None:
        """The one that the config names, in either place."""
        return (self._args.get("access") or {}).get("keys_file") or (self._args.get("tracing") or {}).get("keys_file")

    @property
    def _args(self) -> dict:
        return self.config["applications"][0].get("args") or {}

    @property
    def module(self) -> str:
        return self.config["applications"][0]["import_path"].partition(":")[0]


def _sorted(applications: object, path: Path) -> tuple[dict, dict | None, dict | None]:
    """The graph's application, the web page's and the watchdog's."""
    applications = applications if isinstance(applications, list) else []
    entries = [one for one in applications if isinstance(one, dict)]
    pages, dogs = ([one for one in entries if one.get("import_path") == ours] for ours in (WEB_PAGE, WATCHDOG))
    others = [one for one in entries if one not in pages and one not in dogs]
    if len(others) != 1 or len(pages) > 1 or len(dogs) > 1 or len(entries) != len(applications):
        raise CliError(
            f"{path} must describe exactly one application, and beside it at most the web page "
            f"(import_path: {WEB_PAGE}) and the watchdog ({WATCHDOG})."
        )
    return others[0], pages[0] if pages else None, dogs[0] if dogs else None


def _laid_over(below: Mapping, above: Mapping) -> dict:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _laid_over(merged[key], value) if nested else value
    return merged


class Dashboard:
    """The part of the Ray dashboard's REST API that concerns Serve. `logs` is where error messages send people."""

    def __init__(self, head: RayHead, logs: Path | None = None) -> None:
        self.head = head
        self.logs = logs or head.logs
        self._http = httpx.Client(base_url=head.dashboard_url, headers=auth_headers(), timeout=60, trust_env=False)

    def deploy(self, application: Application) -> None:
        try:
            answer = self._http.put("/api/serve/applications/", json=application.config)
        except httpx.HTTPError as failure:
            raise CliError(
                f"Ray's dashboard at {self.head.dashboard_url} doesn't answer ({type(failure).__name__}). "
                f"Its logs are in {self.logs}."
            ) from failure
        if answer.status_code != 200:
            raise CliError(f"Serve refused the configuration: {last_error(answer.text)}")

    def applications(self) -> dict:
        """Name -> status, as Serve reports it; empty where it doesn't answer."""
        try:
            answer = self._http.get("/api/serve/applications/")
            return answer.json().get("applications", {}) if answer.status_code == 200 else {}
        except (httpx.HTTPError, ValueError):
            return {}

    def delete(self) -> None:
        """Delete every application and stop Serve; returns when its replicas have ended."""
        try:
            self._http.delete("/api/serve/applications/", timeout=90)
        except httpx.HTTPError:
            pass  # whatever is left ends with Ray

    def wait_until_running(self, name: str, say: Callable[[str], None], within_s: float = READY_WITHIN_S) -> None:
        """Return when every deployment of `name` is healthy, saying so one by one. Problem where one fails."""
        began = spoke = time.monotonic()
        healthy: set[str] = set()
        while True:
            application = self.applications().get(name, {})
            deployments = application.get("deployments", {})
            for service, status in sorted(deployments.items()):
                if status["status"] == "HEALTHY" and service not in healthy:
                    healthy.add(service)
                    spoke = time.monotonic()
                    say(f"  {service} is healthy")
            failure = _failure(application)
            if failure:
                raise CliError(f"{name} can't be deployed. {failure}\nLogs: {self.logs}/serve")
            if application.get("status") == "RUNNING":
                return
            waiting = sorted(deployments.keys() - healthy)
            if time.monotonic() - began > within_s:
                raise CliError(
                    f"{name} was not up within {within_s:.0f} s; still waiting for "
                    f"{', '.join(waiting) or 'Serve itself'}. {_messages(application)}\n"
                    f"Logs: {self.logs}/serve"
                )
            if time.monotonic() - spoke > _STILL_WAITING_EVERY_S:
                spoke = time.monotonic()
                say(f"  still waiting for {', '.join(waiting) or 'Serve'}")
            time.sleep(0.25)


def _failure(application: Mapping) -> str:
    """Why this application will not come up, or an empty string while it still may."""
    if application.get("status") == "DEPLOY_FAILED":
        return _messages(application)
    for service, status in application.get("deployments", {}).items():
        # A constructor that raises will raise again, and Serve tries many times before it calls that a failure.
        message = status.get("message", "")
        if status.get("status") != "HEALTHY" and "failed to start" in message:
            return f"{service}: {last_error(message)}"
    return ""


def _messages(application: Mapping) -> str:
    found = [
        f"{service}: {last_error(status['message'])}"
        for service, status in application.get("deployments", {}).items()
        if status.get("message")
    ]
    if not found and application.get("message"):
        found = [last_error(application["message"])]
    return "\n".join(found)


def last_error(text: str) -> str:
    """The exception at the end of a stack trace; the text itself where there is none.

    >>> last_error('Traceback (most recent call last):\\n  File "a.py", line 1\\nValueError: no\\nsuch file')
    'ValueError: no such file'
    """
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for index in range(len(lines) - 1, -1, -1):
        if re.match(r"(\w+\.)*[A-Z]\w*(Error|Exception|Problem)\b.*:", lines[index]):
            return " ".join(line.strip() for line in lines[index:] if not line.startswith("  "))[:2000]
    return " ".join(lines)[-2000:]


def wait_until_ready(http_url: str, within_s: float = 60.0) -> None:
    """Return when `/ready` answers 200: every stage has a replica that serves. Problem where it doesn't."""
    began = time.monotonic()
    said = "no answer"
    while time.monotonic() - began < within_s:
        ready, said = ask_ready(http_url)
        if ready:
            return
        time.sleep(0.25)
    raise CliError(f"{http_url}/ready did not say ready within {within_s:.0f} s; it said: {said}")


def ask_ready(http_url: str) -> tuple[bool, str]:
    try:
        answer = httpx.get(f"{http_url}/ready", timeout=5, trust_env=False)
        return answer.status_code == 200, f"{answer.status_code} {answer.text[:500]}"
    except httpx.HTTPError as failure:
        return False, type(failure).__name__
