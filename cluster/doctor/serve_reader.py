"""What Serve says of itself, through the dashboard's REST API: settings in force, replicas, how far they may scale."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from cluster.cli_error import CliError
from cluster.ray_head import auth_headers
from tracing import vocabulary as words

STAGES = frozenset(words.STAGE_SERVICE.values())


@dataclass(frozen=True)
class Deployment:
    """One deployment of an application's."""

    name: str
    application: str
    user_config: dict  #: as it is in force; what it leaves out is the service's own default
    replicas: tuple[tuple[str, int], ...]  #: (replica id, pid) of those that run
    most_replicas: int | None  #: how far it may scale; None where nobody says

    @property
    def max_batch_size(self) -> int | None:
        return self.user_config.get("max_batch_size")


class ServeReader:
    """`url` is the dashboard's. Problem where it doesn't answer as one."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url, headers=auth_headers(), timeout=60, trust_env=False, transport=transport
        )

    def details(self) -> dict:
        """Everything, as the API has it."""
        try:
            answer = self._http.get("/api/serve/applications/")
            if answer.status_code == 200 and isinstance(answer.json(), dict):
                return answer.json()
            said = f"answers {answer.status_code}"
        except (httpx.HTTPError, ValueError) as failure:
            said = f"doesn't answer ({type(failure).__name__})"
        raise CliError(
            f"Ray's dashboard at {self.url} {said}. Name the one of the graph with --dashboard-url; "
            "`python -m cluster status` shows it."
        )

    def deployments(self, details: dict | None = None) -> dict[str, Deployment]:
        """The graph's, by name: those of the application that has the ingress. Of several such, the first by name."""
        applications = (details or self.details()).get("applications") or {}
        for name, application in sorted(applications.items()):
            found = application.get("deployments") or {}
            if words.INGRESS in found:
                return {service: _deployment(service, name, found[service]) for service in found}
        return {}

    def put(self, config: dict) -> None:
        """Deploy. Problem where Serve refuses."""
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
