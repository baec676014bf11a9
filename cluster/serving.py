"""Deploy, watch and delete the Serve applications, through the dashboard's API."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from cluster.application import Application
from cluster.cli_error import CliError
from cluster.ray_head import RayHead, auth_headers

READY_WITHIN_S = 300.0
_STILL_WAITING_EVERY_S = 15.0


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
        """Return when every deployment of `name` is healthy, saying so one by one.

        Raises:
            CliError: A deployment fails, or takes too long.
        """
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
    """Return when `/ready` answers 200: every stage has a replica that serves.

    Raises:
        CliError: It does not within `within_s` seconds.
    """
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
