"""The adapter between Serve's hook and the scaling policy: what Serve gives is read, and nothing is raised."""

from __future__ import annotations

import importlib
import json
import logging
import statistics
import subprocess
import sys
import time
from unittest import mock

import pytest
import yaml
from ray.serve import autoscaling_policy
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.schema import ServeApplicationSchema

from cluster.application import SCALING, Application
from cluster.cli_error import CliError
from cluster.node_environment import CONFIG
from deployments.scaling import events, serve_policy
from deployments.scaling.policy import Change
from deployments.scaling.serve_policy import ScaleByWait
from deployments.scaling.work_log import WorkLog

PATH = "deployments.scaling.serve_policy:ScaleByWait"
INGRESS = "cosyvoice3-api"


class FakeClock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(serve_policy, "time", clock)
    monkeypatch.setattr(autoscaling_policy, "time", clock)
    return clock


class Deployment:
    """A deployment whose replicas report as `WorkLog` does."""

    def __init__(self, name: str, clock: FakeClock, replicas: int, most: int = 16, least: int = 1) -> None:
        self.id = DeploymentID(name, "app")
        self.clock, self.least, self.most = clock, least, most
        self.target = replicas
        self.logs = {ReplicaID(f"{name}{number}", self.id): WorkLog(clock.time) for number in range(replicas)}
        self.series: dict[str, dict[ReplicaID, list[TimeStampedValue]]] = {}
        self.requests = 0.0
        self.config = AutoscalingConfig(
            min_replicas=least, max_replicas=most, upscale_delay_s=0, downscale_delay_s=0, look_back_period_s=11
        )

    def work(self, count: int, seconds: float, waiting: int = 0) -> None:
        for id, log in self.logs.items():
            for _ in range(count):
                log.arrive()
                log.step(1, seconds)
                log.finish()
            for name, value in log.stats(waiting=waiting, computing=1).items():
                points = self.series.setdefault(name, {}).setdefault(id, [])
                points.append(TimeStampedValue(self.clock.now, value))
                del points[:-10]

    def context(self, **changed) -> AutoscalingContext:
        given = dict(
            deployment_id=self.id,
            deployment_name=self.id.name,
            app_name="app",
            current_num_replicas=len(self.logs),
            target_num_replicas=self.target,
            running_replicas=list(self.logs),
            total_num_requests=lambda: self.requests,
            total_queued_requests=0.0,
            aggregated_metrics=None,
            raw_metrics=lambda: self.series,
            capacity_adjusted_min_replicas=self.least,
            capacity_adjusted_max_replicas=self.most,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=self.clock.now,
            config=self.config,
        )
        return AutoscalingContext(**(given | changed))


def run(policy, clock, deployments, seconds, count, cost_s, waiting=0):
    for _ in range(seconds):
        clock.now += 1.0
        for one in deployments:
            one.work(count, cost_s, waiting)
        decisions, states = policy({one.id: one.context() for one in deployments})
        for one in deployments:
            one.target = int(decisions[one.id])
    return decisions


IN_THE_CONTROLLER = """
import sys
from ray import cloudpickle
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve.config import AutoscalingPolicy
pickled, path = sys.stdin.buffer.read(), sys.argv[1]
policy = _resolve_policy_callable(
    AutoscalingPolicy(_serialized_policy_def=pickled, policy_function=path, policy_kwargs={"wait_s": 0.3})
)
print(type(policy).__name__, policy._policy.settings.wait_s, policy({}), policy.failures)
"""


def test_serve_takes_it_from_the_config_and_another_process_makes_one_of_it():
    given = ServeApplicationSchema(
        import_path="graph:build", autoscaling_policy={"policy_function": PATH, "policy_kwargs": {"wait_s": 0.3}}
    )
    pickled = AutoscalingPolicy(**given.autoscaling_policy).get_serialized_policy_def()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_THE_CONTROLLER, PATH], input=pickled, capture_output=True, timeout=120
    )
    assert done.stdout.decode().split("\n")[0] == "ScaleByWait 0.3 ({}, {}) 0", done.stderr.decode()


def test_reports_become_targets_through_serves_own_wrapper(clock):
    policy = autoscaling_policy._apply_app_level_autoscaling_config(ScaleByWait())
    deployments = [Deployment(INGRESS, clock, 1), Deployment("tts-service", clock, 1)]
    targets = run(policy, clock, deployments, 30, 20, 0.2)
    assert targets[deployments[1].id] >= 20 * 0.2 / 0.95


def test_a_clock_that_is_set_back_does_not_make_the_last_targets_stand(clock):
    policy = ScaleByWait()
    deployments = [Deployment(INGRESS, clock, 1), Deployment("tts-service", clock, 1)]
    run(policy, clock, deployments, 30, 2, 0.1)
    clock.now -= 3000.0
    targets = run(policy, clock, deployments, 30, 20, 0.2)
    assert targets[deployments[1].id] >= 20 * 0.2 / 0.95


def test_a_deployment_that_reports_no_work_is_scaled_as_serve_does(clock):
    policy = ScaleByWait()
    other = Deployment("fallback", clock, 2)
    other.requests = 12.0
    first, _ = policy({other.id: other.context()})
    assert first[other.id] == 2, "it may only be silent, as after a restart of the controller"
    clock.now += serve_policy.GRACE_S
    later, _ = policy({other.id: other.context()})
    assert later[other.id] == 6.0, "twelve requests, two at each replica by Serve's default"


@pytest.mark.parametrize("broken", ["decide", "metrics", "name"])
def test_what_goes_wrong_leaves_the_last_target_and_is_logged_and_counted(clock, monkeypatch, broken):
    failures = mock.Mock()
    policy = ScaleByWait()
    monkeypatch.setattr(policy._events, "count_failure", failures)
    deployments = [Deployment(INGRESS, clock, 3), Deployment("tts-service", clock, 5)]
    run(policy, clock, deployments, 5, 1, 0.1)
    before = {one.id: one.target for one in deployments}
    contexts = {one.id: one.context() for one in deployments}

    def fail():
        raise RuntimeError("a secret")

    if broken == "decide":
        monkeypatch.setattr(policy._policy, "decide", lambda *_: fail())
    elif broken == "metrics":
        contexts[deployments[0].id] = deployments[0].context(raw_metrics=fail)
    else:
        del contexts[deployments[0].id].deployment_name
    clock.now += 1.0
    monkeypatch.setattr(policy, "_log", mock.Mock())
    targets, states = policy(contexts)
    policy(contexts)
    assert targets == before and states == {}
    assert policy.failures == 2 and failures.call_count == 2
    [said] = policy._log.error.call_args_list  # once: ten times a second would fill the log
    assert "the last targets stand" in said.args[1] and "secret" not in said.args[1]


def test_wrong_settings_scale_nothing_and_say_which(clock, caplog):
    logging.getLogger("ray.serve").propagate = True
    with caplog.at_level(logging.ERROR, "ray.serve"):
        policy = ScaleByWait(wait=0.5)
    deployment = Deployment(INGRESS, clock, 3)
    deployment.work(1, 0.1)
    assert policy({deployment.id: deployment.context()}) == ({deployment.id: 3}, {})
    [said] = {record.getMessage() for record in caplog.records}
    assert "policy_kwargs" in said and "wait_s" in said and "deploy again" in said


def test_a_decision_takes_under_five_milliseconds(clock):
    """Five services with 32 replicas each, ten reports of each: three times what the config of a cluster allows."""
    policy = ScaleByWait()
    names = (INGRESS, "audio-service", "embedding-service", "tts-service", "vocoder-service")
    deployments = [Deployment(name, clock, 32, most=64) for name in names]
    took = []
    for second in range(30):
        clock.now += 1.0
        for one in deployments:
            one.work(1 + 3 * (second > 15), 0.3, waiting=second)
        contexts = {one.id: one.context() for one in deployments}
        began = time.thread_time()
        decisions, _ = policy(contexts)
        took.append(time.thread_time() - began)
        for one in deployments:
            one.target = int(decisions[one.id])
    assert policy.failures == 0 and max(one.target for one in deployments) > 32
    # Of all the least, 1.4 ms with nothing else to do: a neighbour on the same core has more than doubled the median.
    assert min(took) < 0.005, f"at least {min(took) * 1000:.1f} ms, median {statistics.median(took) * 1000:.1f} ms"


CHANGE = Change("tts-service", 2, 5, "arrivals", 100.0, 20.0, 3, 0.4)


def test_changes_are_left_where_another_process_finds_them():
    store: dict[str, bytes] = {}
    written = mock.Mock(side_effect=store.__setitem__)
    kept = events.Events(written)
    kept.keep("app", [CHANGE])
    _until(lambda: written.called)
    assert events.read("app", store.get) == [CHANGE]
    assert events.read("other", store.get) == []


def test_a_store_that_fails_holds_up_and_breaks_nothing(caplog):
    def fail(key, value):
        raise ConnectionError

    logging.getLogger("ray.serve").propagate = True
    with caplog.at_level(logging.WARNING, "ray.serve"):
        events.Events(fail).keep("app", [CHANGE])
        _until(lambda: caplog.records)
    assert "ConnectionError" in caplog.records[0].getMessage()
    assert events.read("app", lambda key: b"{") == []
    assert events.read("app", lambda key: json.dumps([{"service": 1}]).encode()) == []


def _until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_queues_and_the_ingress_report_what_the_policy_reads():
    from deployments.ingress.admission import Admission
    from deployments.scaling.work_log import read
    from deployments.settings import Limits
    from deployments.stages.batching import Batcher

    batcher = Batcher(lambda items: items, max_batch_size=4)
    assert read(batcher.work_stats()).batch == 4
    batcher.close()
    work = read(Admission(Limits(max_in_flight=7)).work_stats())
    assert work.limit == 7 and work.arrived == 0


def test_a_stack_with_wrong_settings_is_not_started(tmp_path):
    file = tmp_path / "config.yaml"
    config = yaml.safe_load(CONFIG.read_text())
    application = config["applications"][0]
    application["autoscaling_policy"] = {"policy_function": SCALING, "policy_kwargs": {"wait_s": 0.3}}
    file.write_text(yaml.safe_dump(config))
    Application.read(file, 8000, {}).check_scaling()
    application["autoscaling_policy"]["policy_kwargs"] = {"wait": 0.3}
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(CliError, match=r"autoscaling_policy.*wait_s.*docs/configuration\.md"):
        Application.read(file, 8000, {}).check_scaling()


def test_the_configs_name_of_the_policy_is_its_place():
    module, _, name = SCALING.partition(":")
    assert getattr(importlib.import_module(module), name) is ScaleByWait
    assert SCALING == PATH and SCALING in CONFIG.read_text()
