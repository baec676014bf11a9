"""Read from Serve, through the dashboard's REST API: settings in force, replicas, how far they may scale."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from cluster.cli_error import CliError
from cluster.ray_head import auth_headers
from tracing import vocabulary

STAGES = frozenset(vocabulary.STAGE_SERVICE.values())


@dataclass(frozen=True)
class Deployment:
    """One deployment of an application."""

    name: str
    application: str
    user_config: dict  #: in force; values that it lacks are the service's defaults
    replicas: tuple[tuple[str, int], ...]  #: (replica id, pid) of those that run
    most_replicas: int | None  #: how far it may scale; None where Serve doesn't say

    @property
    def max_batch_size(self) -> int | None:
        return self.user_config.get("max_batch_size")


class ServeReader:
    """Reads from the dashboard at `url`.

    Raises:
        CliError: It doesn't answer as a dashboard does.
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url, headers=auth_headers(), timeout=60, trust_env=False, transport=transport
        )

    def details(self) -> dict:
        """Return all that the API tells of Serve."""
        try:
            answer = self._http.get("/api/serve/applications/")
            if answer.status_code == 200 and isinstance(answer.json(), dict):
                return answer.json()
            problem = f"answers {answer.status_code}"
        except (httpx.HTTPError, ValueError) as failure:
            problem = f"doesn't answer ({type(failure).__name__})"
        raise CliError(
            f"Ray's dashboard at {self.url} {problem}. Name the one of the graph with --dashboard-url; "
            "`python -m cluster status` shows it."
        )

    def deployments(self, details: dict | None = None) -> dict[str, Deployment]:
        """Return the deployments, by name, of the (first) application that has the ingress."""
        applications = (details or self.details()).get("applications") or {}
        for name, application in sorted(applications.items()):
            found = application.get("deployments") or {}
            if vocabulary.INGRESS in found:
                return {service: _deployment(service, name, found[service]) for service in found}
        return {}

    def put(self, config: dict) -> None:
        """Deploy `config`.

        Raises:
            CliError: Serve refuses it, or the connection broke.
        """
        try:
            answer = self._http.put("/api/serve/applications/", json=config)
        except httpx.HTTPError as failure:
            raise CliError(
                f"Ray's dashboard at {self.url} broke off ({type(failure).__name__}); whether the change was "
                "made is not known. Ask the doctor again."
            ) from failure
        if answer.status_code != 200:
            raise CliError(f"Serve refused the change ({answer.status_code}): {answer.text[-500:]}")


def _deployment(service: str, application: str, status: dict) -> Deployment:
    config = status.get("deployment_config") or {}
    scaling = config.get("autoscaling_config") or {}
    fixed = config.get("num_replicas")
    return Deployment(
        service,
        application,
        config.get("user_config") or {},
        tuple(
            sorted(
                (replica["replica_id"], replica.get("pid") or 0)
                for replica in status.get("replicas") or ()
                if replica.get("state") == "RUNNING"
            )
        ),
        scaling.get("max_replicas") or (fixed if isinstance(fixed, int) else None),
    )
