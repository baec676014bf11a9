"""Serve's hook: reads what Serve's controller knows, asks the policy, and never raises.

    applications:
      - name: cosygraph
        autoscaling_policy:
          policy_function: deployments.scaling.serve_policy:ScaleByWait
          policy_kwargs: {wait_s: 0.5}

Serve pickles this module into the controller and imports the others there, so keep module-level state out of it. The
controller calls the policy ten times a second, between two looks at the replicas: a call that took long would hold up
all of Serve, and one that raised would end the controller's round for every application.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingContext

from deployments.scaling.events import Events
from deployments.scaling.policy import Change, ScalingPolicy, ServiceView
from deployments.scaling.settings import ScalingSettings
from deployments.scaling.work_log import Work, read
from tracing import vocabulary

EVERY_S = 0.5  #: replicas report once a second at most
#: So long a deployment may be silent before it is taken for one that reports no work. A controller that was restarted
#: knows of no requests at first, and would stop all but `min_replicas` of it.
GRACE_S = 60.0
SAID_EVERY_S = 60.0  #: a fault is logged once in so long


class ScaleByWait:
    """An application-level autoscaling policy of Ray Serve.

    A deployment whose replicas report no work (the fallback engine, fitting-service) is scaled by Serve's default.
    Serve's own delays and factors hold for the rest too: set `upscale_delay_s` and `downscale_delay_s` to 0.

    Args:
        settings: of `ScalingSettings`. With wrong ones nothing is scaled, and the log says why: an exception here would
            stop Serve's controller each time that it starts.
    """

    def __init__(self, **settings: Any) -> None:
        self._log = logging.getLogger("ray.serve")
        self._policy: ScalingPolicy | None = None
        self._events: Events | None = None
        self._decided_s = float("-inf")
        self._targets: dict[Any, float] = {}
        self._last: dict[Any, dict[str, tuple[float, Work]]] = {}  # by deployment and replica
        self._seen_s: dict[Any, float] = {}
        self._said_s: dict[str, float] = {}
        self.failures = 0
        try:
            self._policy = ScalingPolicy(ScalingSettings(**settings), vocabulary.INGRESS)
            self._events = Events()
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))} {one['msg']}".strip() for one in error.errors())
            self._say(
                "settings",
                "policy_kwargs of the application's autoscaling_policy are wrong: nothing is scaled. Correct them and "
                f"deploy again (docs/configuration.md has all): {wrong}",
            )
        except Exception as error:
            self._failed(error)

    def __call__(
        self, contexts: Mapping[Any, AutoscalingContext]
    ) -> tuple[dict[Any, float], dict[Any, dict[str, Any]]]:
        """Return the targets by deployment, and no state: the policy holds its own."""
        try:
            return self._decide(contexts), {}
        except Exception as error:
            self._failed(error)
            return {deployment: context.target_num_replicas for deployment, context in contexts.items()}, {}

    def _decide(self, contexts: Mapping[Any, AutoscalingContext]) -> dict[Any, float]:
        if self._policy is None:
            return {deployment: context.target_num_replicas for deployment, context in contexts.items()}
        now = time.time()
        if 0 <= now - self._decided_s < EVERY_S and contexts.keys() == self._targets.keys():
            return self._targets
        if now < self._decided_s:  # the clock was set back
            self._seen_s.clear()
        views: dict[Any, ServiceView] = {}
        targets: dict[Any, float] = {}
        for deployment, context in contexts.items():
            reports = self._reports(deployment, context)
            if reports or deployment in self._last:  # or else it was stopped, or its replicas are new
                views[deployment] = _view(context, reports)
            elif now - self._seen_s.setdefault(deployment, now) < GRACE_S:
                targets[deployment] = float(context.target_num_replicas)
            else:
                targets[deployment] = float(replica_queue_length_autoscaling_policy(context)[0])
        decision = self._policy.decide(now, list(views.values()))
        for deployment, view in views.items():
            targets[deployment] = float(decision.targets[view.name])
        self._decided_s, self._targets = now, targets
        self._tell(contexts, decision.changes)
        return targets

    def _reports(self, deployment: Any, context: AutoscalingContext) -> dict[str, tuple[float, Work]]:
        """Return the last report of each replica."""
        raw = context.raw_metrics or {}
        before = self._last.get(deployment, {})
        found: dict[str, tuple[float, Work]] = {}
        for replica, series in raw.get("arrived", {}).items():
            if not series:
                continue
            id, at_s = replica.unique_id, series[-1].timestamp
            known = before.get(id)
            if known is not None and known[0] == at_s:
                found[id] = known
            elif (work := _work(raw, replica)) is not None:
                found[id] = at_s, work
        if found or before:
            self._last[deployment] = found
        return found

    def _tell(self, contexts: Mapping[Any, AutoscalingContext], changes: Any) -> None:
        if not changes:
            return
        for change in changes:
            self._log.info("%s", _words(change))
        if self._events is not None:
            app_name = next(iter(contexts.values())).app_name or ""
            self._events.keep(app_name, changes)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        try:
            if self._events is not None:
                self._events.count_failure(type(error).__name__)
        except Exception as uncounted:
            self._say("counter", f"a failure of the scaling policy could not be counted ({type(uncounted).__name__})")
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else "?"
        self._say(
            "failure", f"the scaling policy failed, and the last targets stand: {type(error).__name__} at {where}"
        )

    def _say(self, what: str, message: str) -> None:
        now = time.monotonic()
        if now - self._said_s.get(what, float("-inf")) >= SAID_EVERY_S:
            self._said_s[what] = now
            self._log.error("%s", message)


def _words(change: Change) -> str:
    return (
        f"{change.service}: {change.before} to {change.after} replicas, {change.cause} ({change.rate:g} requests/s, "
        f"{change.queue} wait, predicted wait {change.wait_s:g} s)"
    )


def _view(context: AutoscalingContext, reports: dict[str, tuple[float, Work]]) -> ServiceView:
    return ServiceView(
        context.deployment_name,
        context.current_num_replicas,
        context.target_num_replicas,
        context.capacity_adjusted_min_replicas,
        context.capacity_adjusted_max_replicas,
        reports,
    )


def _work(raw: Mapping[str, Mapping[Any, Any]], replica: Any) -> Work | None:
    """Return a replica's last report; None if it is not whole."""
    try:
        return read({name: raw[name][replica][-1].value for name in Work._fields})
    except (KeyError, IndexError):
        return None
