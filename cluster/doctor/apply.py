"""`--apply batch`: one deployment's `user_config`, changed live through Serve, everything else as it is.

Serve gives a new `user_config` to the replicas that run; it restarts none where nothing else changed. So the whole
config is read, one value in it changed, and put back, and afterwards the replicas must be the same processes.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable

from cluster.cli_error import CliError
from cluster.doctor.finding import Change, Finding
from cluster.doctor.serve_reader import Deployment, ServeReader

WITHIN_S = 60.0
SETTLED_S = 2.0  #: Serve's controller looks round every half second


def batch(
    findings: list[Finding],
    dashboard_url: str | None,
    *,
    yes: bool,
    say: Callable[[str], None],
    ask: Callable[[str], str] = input,
) -> None:
    """Problem where there is nothing to change, nobody agrees, or Serve does not do it."""
    changes = [finding.change for finding in findings if finding.kind == "batching" and finding.change]
    if not changes:
        raise CliError(
            "There is no batch setting to change: no `batching` finding proposes one. `python -m cluster "
            "doctor` says what it found."
        )
    if dashboard_url is None:
        raise CliError(
            "Changing a setting goes through Ray's dashboard, and none is known. Name it: --dashboard-url "
            "http://127.0.0.1:8265."
        )
    for change in changes:
        _apply(change, ServeReader(dashboard_url), yes=yes, say=say, ask=ask)


def _apply(
    change: Change, serve: ServeReader, *, yes: bool, say: Callable[[str], None], ask: Callable[[str], str]
) -> None:
    details = serve.details()
    deployment = serve.deployments(details).get(change.deployment)
    if deployment is None:
        raise CliError(
            f"Serve at {serve.url} runs no {change.deployment} of ours. Name the dashboard of the graph "
            "whose traces these are with --dashboard-url."
        )
    config, before = changed(details, deployment, change)
    after = before | change.user_config
    say(
        f"{deployment.name} ({deployment.application}), user_config:\n  now   {json.dumps(before)}\n  then  "
        f"{json.dumps(after)}\nIt changes while it runs; no replica restarts."
    )
    _agree(yes, ask)
    if changed(serve.details(), deployment, change)[0] != config:
        raise CliError(
            "Somebody else has deployed meanwhile, and putting back what was read would undo it. Nothing was "
            "changed: run the doctor again."
        )
    serve.put(config)
    _wait(serve, deployment, after)
    say(
        "Done; the replicas are the same processes as before. It lasts until the graph is deployed again: write it "
        "into the Serve config too."
    )
    say(f"Undo: {_undo(serve.url, deployment, before)}")


def changed(details: dict, deployment: Deployment, change: Change) -> tuple[dict, dict]:
    """(the config to put, the deployment's `user_config` as it was): every application as it was deployed, but for this
    one value. Problem where an application was not deployed by a config, which would be lost."""
    applications = details["applications"]
    foreign = sorted(name for name, one in applications.items() if not one.get("deployed_app_config"))
    if foreign:
        raise CliError(
            f"{', '.join(foreign)} was not deployed from a config, so that Serve's config can't be put back "
            f"whole. Change {deployment.name}'s user_config to {json.dumps(change.user_config)} where it is "
            "deployed."
        )
    config = {"applications": [copy.deepcopy(one["deployed_app_config"]) for _, one in sorted(applications.items())]}
    for name in ("proxy_location", "http_options", "grpc_options", "target_capacity"):
        if details.get(name) is not None:
            config[name] = details[name]
    app = next(one for one in config["applications"] if one.get("name", "default") == deployment.application)
    entries = app.setdefault("deployments", [])
    entry = next((one for one in entries if one["name"] == deployment.name), None)
    if entry is None:
        entry = {"name": deployment.name}
        entries.append(entry)
    before = dict(entry.get("user_config") or deployment.user_config)
    entry["user_config"] = before | change.user_config
    return config, before


def _agree(yes: bool, ask: Callable[[str], str]) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError("Nothing was changed: there is no terminal to ask at. With --yes it is done without asking.")
    try:
        answer = ask("Change it? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise CliError("Nothing was changed.")


def _wait(serve: ServeReader, before: Deployment, wanted: dict) -> None:
    """Until the setting is in force, everything is healthy again, and the replicas are the ones that were there."""
    end = time.monotonic() + WITHIN_S
    time.sleep(SETTLED_S)
    while True:
        details = serve.details()
        application = details["applications"].get(before.application) or {}
        now = serve.deployments(details).get(before.name)
        status = ((application.get("deployments") or {}).get(before.name) or {}).get("status")
        if (
            now is not None
            and application.get("status") == "RUNNING"
            and status == "HEALTHY"
            and all(now.user_config.get(key) == value for key, value in wanted.items())
        ):
            break
        if time.monotonic() > end:
            raise CliError(
                f"Serve took the change, and after {WITHIN_S:.0f} s {before.name} is {status or 'gone'}, "
                f"{before.application} {application.get('status', 'gone')}. `python -m cluster status` and "
                "the logs of Serve's controller say more."
            )
        time.sleep(0.5)
    if gone := set(before.replicas) - set(now.replicas):
        raise CliError(
            f"The setting is in force, but {len(gone)} of {len(before.replicas)} replicas of {before.name} "
            "were replaced meanwhile: it was not a live change for them. Look at their logs."
        )


def _undo(url: str, deployment: Deployment, before: dict) -> str:
    return (
        f"deploy the config you started with, or put {deployment.name}'s user_config back to {json.dumps(before)} "
        f"(GET and PUT {url}/api/serve/applications/)."
    )
