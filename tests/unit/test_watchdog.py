"""The watchdog's policy: checks in, decisions out; replicas in, losses out. No Ray, no clock."""

from __future__ import annotations

import asyncio
import io
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from speech.errors import DeadlineExceeded, StageUnavailable, internal_error
from tracing.vocabulary import FALLBACK, PRIMARY
from watchdog import deployment, serve_view
from watchdog.budget import Budget
from watchdog.canary import CanaryResult, Outcome, classify
from watchdog.canary_request import Canary
from watchdog.deployment import Watchdog
from watchdog.nodes import DRAIN_IDLE, DRAIN_PREEMPTED, EXPECTED_TERMINATION, Node, Nodes
from watchdog.policy import CheckFailed, Policy, Restart, RestartWithheld, Switch
from watchdog.replicas import Replica, Replicas, Service, deploying
from watchdog.settings import WatchdogSettings

INGRESS = "cosyvoice3-api"
SERVICES = (INGRESS, "audio-service", "embedding-service", "tts-service", "vocoder-service")


def checked(outcome: Outcome, service: str | None = None, at: int = 0) -> CanaryResult:
    return CanaryResult(outcome, at, at + 1, service)


class Case:
    """A policy and its clock; each `observe` is a minute later than the one before."""

    def __init__(self, fallback: bool = False, **settings) -> None:
        self.now = 0.0
        found = WatchdogSettings(**settings)
        self.policy = Policy(
            Budget(found.restarts_at_most, found.restarts_within_s, found.backoff_s, chance=lambda: 0.5),
            failures=found.failures,
            successes=found.successes,
            may_restart=found.on_failure == "restart",
            fallback_ready=fallback,
        )

    def observe(self, *outcomes: Outcome, service: str | None = None, suspect: str | None = None, settled: bool = True):
        decided = []
        for outcome in outcomes:
            self.now += 60
            decided.append(self.policy.observe(checked(outcome, service, int(self.now)), suspect, settled, self.now))
        return decided


FAILED, OK = Outcome.FAILED, Outcome.OK


def test_one_failure_is_told_and_nothing_is_done():
    case = Case()
    [decisions] = case.observe(FAILED)
    assert [type(one) for one in decisions] == [CheckFailed] and decisions[0].failures == 1
    assert case.policy.suspicious
    assert case.observe(OK) == [[]] and not case.policy.suspicious


def test_failures_in_a_row_restart_who_is_at_fault_and_a_good_one_between_them_starts_anew():
    case = Case()
    case.observe(FAILED, FAILED, OK)
    *_, third = case.observe(FAILED, FAILED, FAILED, service="tts-service")
    told, restart = third
    assert restart == Restart("tts-service", "canary_failed", 3, since_ns=240) and told.failures == 3


@pytest.mark.parametrize(
    ("service", "suspect", "restarted"),
    [("tts-service", "audio-service", "tts-service"), (None, "audio-service", "audio-service")],
)
def test_whose_fault_it_is(service, suspect, restarted):
    *_, third = Case().observe(*[Outcome.SILENT] * 3, service=service, suspect=suspect)
    assert third[1].service == restarted and third[1].cause == "canary_silent"


def test_a_graph_that_is_slow_as_a_whole_is_not_restarted():
    assert all(len(decisions) == 1 for decisions in Case().observe(*[Outcome.SLOW] * 9))


def test_what_says_nothing_of_the_stages_counts_neither_way():
    case = Case()
    case.observe(FAILED, FAILED, Outcome.BUSY, Outcome.REFUSED)
    [third] = case.observe(FAILED, service="tts-service")
    assert isinstance(third[1], Restart)


def test_nobody_is_restarted_while_serve_is_at_work_on_it_or_where_the_watchdog_may_only_watch():
    assert all(len(decisions) == 1 for decisions in Case().observe(*[FAILED] * 3, suspect=INGRESS, settled=False))
    watching = Case(on_failure="watch").observe(*[FAILED] * 3, suspect=INGRESS)
    assert all(len(decisions) == 1 for decisions in watching)


def test_restarts_are_withheld_beyond_the_budget_and_that_is_told_once():
    case = Case(restarts_at_most=2, restarts_within_s=3600, backoff_s=0)
    kinds = [type(decisions[-1]) for decisions in case.observe(*[FAILED] * 15, service="tts-service")][2::3]
    assert kinds == [Restart, Restart, RestartWithheld, CheckFailed, CheckFailed]
    case.now += 3600
    *_, later = case.observe(*[FAILED] * 3, service="tts-service")
    assert isinstance(later[-1], Restart)


def test_a_pause_after_each_restart_doubles():
    budget = Budget(10, 10_000, backoff_s=30, chance=lambda: 0.5)
    for at, pause in ((0, 30), (30, 60), (90, 120)):
        assert budget.allows("tts-service", at)
        budget.spend("tts-service", at)
        assert not budget.allows("tts-service", at + pause - 1) and budget.allows("tts-service", at + pause)
    assert budget.allows("audio-service", 91), "each service has its own"
    lucky, unlucky = (Budget(10, 10_000, 100, chance=lambda share=share: share) for share in (0.0, 1.0))
    for one, earliest in ((lucky, 80), (unlucky, 120)):
        one.spend("x", 0)
        assert not one.allows("x", earliest - 1) and one.allows("x", earliest)


def test_traffic_goes_to_the_other_engine_first_and_back_after_good_checks_on_the_first_one():
    case = Case(fallback=True, successes=2)
    *_, third = case.observe(*[FAILED] * 3, service="tts-service")
    assert third[1] == Switch(FALLBACK, "canary_failed", 3, since_ns=60)
    *_, sixth = case.observe(*[FAILED] * 3, service="tts-service")
    assert isinstance(sixth[1], Restart), "the first engine is to be healed meanwhile"
    assert case.policy.suspicious
    assert case.observe(OK, FAILED, OK)[-1] == [] and case.policy.engine == FALLBACK
    [back] = case.observe(OK)
    assert back == [Switch(PRIMARY, "recovered", 0, since_ns=181)] and case.policy.engine == PRIMARY
    assert not case.policy.suspicious


ERRORS = (
    internal_error("tts-service"),
    internal_error(),
    StageUnavailable("audio-service is spoken of here", service="embedding-service"),
    DeadlineExceeded("tts-service and vocoder-service are spoken of here", service="vocoder-service"),
    StageUnavailable("The ingress was lost.", service=INGRESS),
)


def wav(level: float = 0.3, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, level * np.sin(np.arange(int(seconds * 24_000)) / 20), 24_000, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize(
    ("status", "body", "error_type", "service", "outcome", "at_fault"),
    [
        (200, wav(), "", None, OK, None),
        (200, wav(level=0.001), "", None, Outcome.WRONG, None),
        (200, wav(seconds=0.05), "", None, Outcome.WRONG, None),
        (200, b"", "", None, Outcome.WRONG, None),
        (500, b"", "internal", "tts-service", FAILED, "tts-service"),
        (503, b"", "stage_unavailable", "audio-service", FAILED, "audio-service"),
        (504, b"", "deadline_exceeded", "vocoder-service", FAILED, "vocoder-service"),
        (500, b"", "internal", None, FAILED, None),
        (500, b"", "internal", "somebody-elses-service", FAILED, None),
        (503, b"", "overloaded", None, Outcome.BUSY, None),
        (503, b"", "overloaded", INGRESS, Outcome.BUSY, None),
        (429, b"", "rate_limited", None, Outcome.BUSY, None),
        (401, b"", "not_authorized", None, Outcome.REFUSED, None),
        (422, b"", "unsupported_dialect", "tts-service", Outcome.REFUSED, None),
        (502, b"<html>", "", None, FAILED, None),
    ],
)
def test_what_an_answer_means(status, body, error_type, service, outcome, at_fault):
    headers = httpx.Headers({} if service is None else {"x-error-service": service})
    assert classify(status, headers, body, error_type, SERVICES) == (outcome, at_fault)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.type}-{error.service}")
def test_the_service_at_fault_is_the_errors_own_whatever_its_message_says(error):
    """From `SpeechError.service` by its header to the canary: the words of the message decide nothing."""
    answer = httpx.Response(error.status, json=error.body(), headers=error.headers())
    [result] = Graph(status_code=answer.status_code, content=answer.content, headers=answer.headers).ask()
    assert (result.outcome, result.service) == (FAILED, error.service)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"error": 7}', b'{"error": {"type": 7}}', b"<html>"])
def test_an_error_body_that_is_not_ours_is_a_failure_that_names_nothing(body):
    [result] = Graph(status_code=500, content=body, headers={}).ask()
    assert (result.outcome, result.service) == (FAILED, None)


def service(*states: str, status: str = "HEALTHY", target: int | None = None) -> Service:
    """Replicas as `a:RUNNING`."""
    replicas = tuple(Replica(*one.split(":")) for one in states)
    return Service(status, len(replicas) if target is None else target, replicas)


def looks(*seen: Service) -> list[tuple[list, list]]:
    """(ids lost, (lost, successor) replaced) of each look, ten seconds apart."""
    replicas, found = Replicas(), []
    for number, one in enumerate(seen):
        lost, replaced = replicas.observe({"tts-service": one}, number * 10.0)
        found.append(
            (
                [one.replica.id for one in lost],
                [(one.lost.replica.id, one.successor, one.at_s - one.lost.seen_s) for one in replaced],
            )
        )
    return found


def test_a_replica_that_died_is_lost_and_then_replaced():
    assert looks(
        service("a:RUNNING", "b:RUNNING"),
        service("b:RUNNING", "c:STARTING"),
        service("b:RUNNING", "c:STARTING"),
        service("b:RUNNING", "c:RUNNING"),
    ) == [([], []), (["a"], []), ([], []), ([], [("a", "c", 30.0)])]


def test_a_replica_that_serve_stops_because_it_is_ill_is_lost():
    assert looks(
        service("a:RUNNING"), service("a:STOPPING", "b:STARTING", status="UNHEALTHY", target=1), service("b:RUNNING")
    ) == [([], []), (["a"], []), ([], [("a", "b", 20.0)])]


def test_a_lost_replica_that_is_wanted_no_more_has_no_successor_however_much_later_one_starts():
    assert looks(
        service("a:RUNNING", "b:RUNNING"),
        service("b:RUNNING", "c:STARTING"),
        service("b:RUNNING", target=1),
        service("b:RUNNING", "d:STARTING"),
        service("b:RUNNING", "d:RUNNING"),
    ) == [([], []), (["a"], []), ([], []), ([], []), ([], [])]


def test_one_cause_that_is_not_told_in_time_costs_the_others_nothing(monkeypatch, caplog):
    monkeypatch.setattr(deployment, "LOOK_WITHIN_S", 0.3)
    monkeypatch.setattr(serve_view, "end_of", lambda replica: time.sleep(float(replica.id)) or "died")
    watchdog = object.__new__(Watchdog)
    watchdog._death_causes = {}
    asyncio.run(watchdog._find_causes([Replica("0.0", "STOPPING"), Replica("1.0", "STOPPING")]))
    assert watchdog._death_causes == {"0.0": "died"} and "1 of 2 replicas" in caplog.text
    asyncio.run(watchdog._find_causes([]))


def test_a_look_that_takes_long_because_much_is_lost_does_not_cost_the_watchdog_itself(monkeypatch):
    """Replaced in the middle, it would forget that traffic is on the fallback."""
    monkeypatch.setattr(serve_view, "end_of", lambda replica: time.sleep(0.2) or f"ended-{replica.id}")
    watchdog = object.__new__(Watchdog)
    watchdog.settings, watchdog._death_causes = WatchdogSettings(check_every_s=1, canary_every_s=1), {}
    lost = [Replica(str(number), "STOPPING") for number in range(10)]

    async def scenario() -> float:
        began = time.monotonic()
        await watchdog._find_causes(lost)
        return time.monotonic() - began

    assert asyncio.run(scenario()) < 1.0, "asked one after the other they take two seconds"
    assert watchdog._death_causes == {one.id: f"ended-{one.id}" for one in lost}
    watchdog._tasks = [object()]
    watchdog._looked_at = time.monotonic() - 3 * deployment.LOOK_WITHIN_S
    asyncio.run(watchdog.check_health())
    watchdog._looked_at -= 2 * deployment.LOOK_WITHIN_S
    with pytest.raises(RuntimeError, match="stopped looking"):
        asyncio.run(watchdog.check_health())


def test_lost_and_replaced_between_two_looks():
    assert looks(service("a:RUNNING"), service("b:RUNNING")) == [([], []), (["a"], [("a", "b", 10.0)])]


@pytest.mark.parametrize(
    "second",
    [
        service("a:RUNNING", target=1),
        service("a:RUNNING", "b:STOPPING", status="DOWNSCALING", target=1),
        service("a:RUNNING", "c:STARTING", status="UPDATING", target=2),
    ],
)
def test_what_is_meant_is_no_loss(second):
    assert looks(service("a:RUNNING", "b:RUNNING"), second)[1] == ([], [])


def test_scaling_up_replaces_nobody_and_a_silent_serve_says_nothing():
    replicas = Replicas()
    replicas.observe({"x": service("a:RUNNING")}, 0)
    assert replicas.observe({"x": service("a:RUNNING", "b:RUNNING")}, 5) == ([], [])
    assert replicas.observe({}, 10) == ([], [])
    lost, replaced = replicas.observe({"x": service("a:RUNNING", "c:RUNNING")}, 15)
    assert [one.replica.id for one in lost] == ["b"] and [one.successor for one in replaced] == ["c"]
    assert replicas.observe({"y": service("d:RUNNING")}, 20) == ([], []), "an application that is gone is nobody's loss"


def test_settled_is_a_service_that_serve_has_nothing_to_do_with():
    assert service("a:RUNNING", "b:RUNNING").settled
    assert not service("a:RUNNING", "b:STARTING").settled and not service("a:RUNNING", target=2).settled
    assert not service("a:STOPPING", "b:RUNNING", target=1).settled


def test_what_serve_says_is_read_and_what_can_not_be_read_is_left_out():
    healthy = SimpleNamespace(value="HEALTHY")
    found = serve_view.parse(
        {
            "deployments": {
                "tts-service": {
                    "status": healthy,
                    "target_num_replicas": 1,
                    "replicas": [
                        {
                            "replica_id": "a",
                            "state": SimpleNamespace(value="RUNNING"),
                            "actor_name": "n",
                            "actor_id": "i",
                            "node_id": "o",
                        }
                    ],
                },
                "odd": {"status": healthy},
            }
        }
    )
    assert found == {"tts-service": Service("HEALTHY", 1, (Replica("a", "RUNNING", "n", "i", "o"),))}
    assert serve_view.parse({}) == {}


UNEXPECTED = 2  #: Ray's NodeDeathInfo.UNEXPECTED_TERMINATION


def node(name: str, reason: int | None = None, message: str = "") -> Node:
    """A node; alive without a reason."""
    return Node(name, f"10.0.0.{ord(name)}", reason is None, reason or 0, message)


@pytest.mark.parametrize(
    ("reason", "message", "cause"),
    [
        (UNEXPECTED, "the raylet ends, because its agent has failed", "died"),
        (UNEXPECTED, "health check failed due to missing too many heartbeats", "silent"),
        (DRAIN_PREEMPTED, "the cloud takes it back", "preempted"),
        (0, "", "died"),
    ],
)
def test_a_node_that_ray_counts_as_dead_is_lost_once_with_its_cause(reason, message, cause):
    nodes = Nodes()
    assert nodes.observe([node("a"), node("b")], 100) == ()
    [lost] = nodes.observe([node("a"), node("b", reason, message)], 105)
    assert (lost.node.id, lost.node.cause, lost.seen_s) == ("b", cause, 100)
    assert nodes.observe([node("a"), node("b", reason, message)], 110) == ()


@pytest.mark.parametrize("reason", [EXPECTED_TERMINATION, DRAIN_IDLE])
def test_a_node_that_was_told_to_go_is_no_loss(reason):
    nodes = Nodes()
    nodes.observe([node("a"), node("b")], 100)
    assert nodes.observe([node("a"), node("b", reason)], 105) == ()
    assert nodes.restored({"x": service("s:RUNNING")}) == ()


def test_a_new_watchdog_reports_nodes_that_have_just_died_and_no_older_ones():
    """It may have run on the node that died."""
    dead = [node("a"), node("b", UNEXPECTED), node("c", UNEXPECTED), node("d", UNEXPECTED)]
    [lost] = Nodes().observe(dead, 1000, ended_s={"b": 990.0, "c": 100.0})
    assert (lost.node.id, lost.seen_s) == ("b", 990.0)
    assert Nodes().observe(dead, 1000) == ()


def test_a_loss_begins_when_the_node_last_answered_although_ray_counts_it_as_alive_for_longer():
    nodes = Nodes()
    for now, silent in ((100, ()), (105, ()), (110, ("b",)), (115, ("b",))):
        assert nodes.observe([node("a"), node("b")], now, silent) == ()
    [lost] = nodes.observe([node("a"), node("b", UNEXPECTED)], 120)
    assert lost.seen_s == 105
    nodes = Nodes()
    nodes.observe([node("a"), node("b")], 100, ("b",))
    nodes.observe([node("a"), node("b")], 105)
    assert nodes.observe([node("a"), node("b", UNEXPECTED)], 110)[0].seen_s == 105, "it answered again"


def test_a_node_that_takes_no_connection_is_silent():
    async def main() -> set[str]:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            up = Node("up", "127.0.0.1", True, port=port)
            return await serve_view.silent(
                [up, Node("gone", "127.0.0.1", True, port=1), Node("dead", "127.0.0.1", False)]
            )

    assert asyncio.run(main()) == {"gone"}


def test_where_ray_does_not_answer_nothing_is_lost_and_nothing_is_forgotten():
    nodes = Nodes()
    nodes.observe([node("a"), node("b")], 100)
    assert nodes.observe([], 105) == ()
    assert [lost.seen_s for lost in nodes.observe([node("a"), node("b", UNEXPECTED)], 110)] == [100]


def test_a_lost_node_is_made_up_for_when_no_replica_counts_on_it_and_all_that_are_wanted_run():
    def on(*nodes: str, target: int = 2, state: str = "RUNNING") -> dict[str, Service]:
        replicas = tuple(Replica(f"{number}{name}", state, node_id=name) for number, name in enumerate(nodes))
        return {"tts-service": Service("HEALTHY", target, replicas)}

    nodes = Nodes()
    nodes.observe([node("a"), node("b")], 100)
    nodes.observe([node("a"), node("b", UNEXPECTED)], 105)
    assert nodes.restored({}) == (), "Serve does not answer"
    assert nodes.restored(on("a", "b")) == (), "Serve has not noticed yet"
    assert nodes.restored(on("a")) == () and nodes.restored(on("a", "a", state="STARTING")) == ()
    assert [lost.node.id for lost in nodes.restored(on("a", "a"))] == ["b"]
    assert nodes.restored(on("a", "a")) == (), "said once"


def test_what_ray_says_of_nodes_is_read_and_what_can_not_be_read_is_left_out():
    alive = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Alive": True, "DeathReason": 0, "NodeManagerPort": 7}
    dead = alive | {"NodeID": "b", "Alive": False, "DeathReason": 2, "DeathReasonMessage": "gone"}
    assert serve_view.parse_nodes([alive, {"NodeID": "c"}, dead]) == [
        Node("a", "10.0.0.1", True, port=7),
        Node("b", "10.0.0.1", False, 2, "gone", 7),
    ]


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="check_every_s must not be above canary_every_s"):
        WatchdogSettings(check_every_s=60, canary_every_s=10)
    with pytest.raises(ValidationError, match="canary_evry_s"):
        WatchdogSettings(canary_evry_s=10)


class Graph:
    """Answers the canary's requests; `said` is what POST /api/generate answers."""

    def __init__(self, **said) -> None:
        self.said = {"status_code": 200, "content": wav(), "headers": {"x-trace-id": "ab" * 16}} | said
        self.sent: list[httpx.Request] = []
        self.ready = {"stages": {"audio-service": True, "tts-service": True}}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/dialects":
            return httpx.Response(
                200, json={"dialects": [{"code": "ja-JP", "supported": False}, {"code": "zh-CN", "supported": True}]}
            )
        if request.url.path == "/ready":
            return httpx.Response(200, json=self.ready)
        self.sent.append(request)
        if isinstance(self.said.get("error"), Exception):
            raise self.said["error"]
        return httpx.Response(**self.said)

    def ask(self, count: int = 1, **settings) -> list[CanaryResult]:
        async def several():
            async with httpx.AsyncClient(transport=httpx.MockTransport(self), base_url="http://x") as http:
                canary = Canary(WatchdogSettings(**settings), http)
                self.suspect = await canary.unready_service()
                return [await canary.send(SERVICES) for _ in range(count)]

        return asyncio.run(several())


def test_a_canary_is_a_request_for_the_first_engine_in_a_dialect_it_speaks_and_never_the_same_clip():
    graph = Graph()
    one, other = graph.ask(2)
    assert one.ok and one.trace_id == "ab" * 16 and one.began_ns <= one.ended_ns and graph.suspect is None
    first, second = (request.content for request in graph.sent)
    assert b'name="dialect"\r\n\r\nzh-CN' in first and graph.sent[0].headers["x-cosygraph-line"] == "primary"
    assert first.split(b"RIFF")[1] != second.split(b"RIFF")[1], "or the voice cache would skip two stages"


def test_a_canary_brings_the_key_that_it_is_given_and_a_refusal_is_said_once(tmp_path, caplog):
    key = tmp_path / "key"
    key.write_text("secret-key\n")
    graph = Graph(status_code=401, content=b"", headers={})
    assert [one.outcome for one in graph.ask(2, canary_key_file=str(key))] == [Outcome.REFUSED] * 2
    assert graph.sent[0].headers["authorization"] == "Bearer secret-key"
    refusals = [record.getMessage() for record in caplog.records if "is refused with 401" in record.getMessage()]
    assert len(refusals) == 1 and "set canary_key_file" in refusals[0] and "secret-key" not in caplog.text


def test_a_key_file_that_can_not_be_read_is_said(tmp_path, caplog):
    Graph().ask(canary_key_file=str(tmp_path / "none"))
    assert "canary_key_file can't be read (No such file or directory)" in caplog.text


def test_no_connection_no_answer_and_an_answer_that_comes_late():
    [unreachable] = Graph(error=httpx.ConnectError("no")).ask()
    assert (unreachable.outcome, unreachable.service) == (Outcome.UNREACHABLE, None)
    [late] = Graph().ask(canary_slow_s=1e-6)
    assert (late.outcome, late.service) == (Outcome.SLOW, None)

    async def silent():
        async def never(request):
            await asyncio.sleep(60)

        async with httpx.AsyncClient(transport=httpx.MockTransport(never), base_url="http://x") as http:
            return await Canary(WatchdogSettings(canary_within_s=0.05, canary_dialect="en-US"), http).send(SERVICES)

    assert asyncio.run(silent()).outcome is Outcome.SILENT


def test_who_is_not_ready_is_the_suspect_unless_several_are():
    graph = Graph()
    graph.ready = {"stages": {"audio-service": True, "tts-service": False}}
    graph.ask()
    assert graph.suspect == "tts-service"
    graph.ready = {"stages": {"audio-service": False, "tts-service": False}}
    graph.ask()
    assert graph.suspect is None


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json={"error": {"type": "not_authorized"}}),
        httpx.Response(429, text="later"),
        httpx.Response(503, json={"error": {"type": "overloaded"}}),
        httpx.Response(404, text="no such page"),
        httpx.Response(200, json=[]),
    ],
    ids=["key", "limit", "overload", "page", "list"],
)
def test_dialects_that_can_not_be_read_are_nobodys_fault(answer):
    class Odd(Graph):
        def __call__(self, request):
            return answer if request.url.path == "/api/dialects" else super().__call__(request)

    [checked] = Odd().ask()
    assert checked.ok, "the canary's own answer decides"
    [refused] = Odd(status_code=401, content=b"", headers={}).ask()
    assert (refused.outcome, refused.service) == (Outcome.REFUSED, None)


def test_the_first_engines_dialect_is_remembered_while_the_other_ones_are_listed_and_asked_for_anew_once_refused():
    spoken = ["zh-CN", "en-US", "en-US", "ja-JP"]
    asked = []

    class Changing(Graph):
        def __call__(self, request):
            if request.url.path == "/api/dialects":
                asked.append(spoken[len(asked)])
                return httpx.Response(200, json={"dialects": [{"code": asked[-1], "supported": True}]})
            return super().__call__(request)

    graph = Changing()
    graph.ask(3)
    assert asked == ["zh-CN"] and all(b"\r\n\r\nzh-CN" in request.content for request in graph.sent)
    Changing(status_code=422, content=b"", headers={}).ask(2)
    assert asked == ["zh-CN", "en-US", "en-US"]


@pytest.mark.parametrize("content", [b"k\xff", "schlüssel".encode(), b"two\nlines"])
def test_a_key_file_that_holds_no_key_is_said_once_and_blames_nobody(tmp_path, caplog, content):
    (tmp_path / "key").write_bytes(content)
    graph = Graph(status_code=401, content=b"", headers={})
    checked = graph.ask(2, canary_key_file=str(tmp_path / "key"))
    assert [(one.outcome, one.service) for one in checked] == [(Outcome.REFUSED, None)] * 2
    assert caplog.text.count("it holds no API key") == 1 and "authorization" not in graph.sent[0].headers


@pytest.mark.parametrize(
    "answer, suspect",
    [
        (httpx.Response(500, text="Internal Server Error"), INGRESS),
        (httpx.Response(404, text="no"), None),
        (httpx.Response(200, json=[]), None),
        (httpx.ReadTimeout("hangs"), INGRESS),
        (httpx.ConnectError("no"), None),
    ],
    ids=["fails", "elsewhere", "odd", "hangs", "no-proxy"],
)
def test_the_ingress_is_suspected_where_it_hangs_or_fails_and_not_where_nobody_can_be_reached(answer, suspect):
    class Unready(Graph):
        def __call__(self, request):
            if request.url.path != "/ready":
                return super().__call__(request)
            if isinstance(answer, Exception):
                raise answer
            return answer

    graph = Unready()
    graph.ask()
    assert graph.suspect == suspect


def test_a_deploy_of_any_service_is_a_deploy_and_scaling_or_an_ill_replica_is_none():
    def of(status: str) -> dict[str, Service]:
        return {"audio-service": Service("HEALTHY", 1, ()), "tts-service": Service(status, 1, ())}

    assert deploying(of("UPDATING"))
    assert not any(deploying(of(status)) for status in ("HEALTHY", "UNHEALTHY", "UPSCALING", "DOWNSCALING"))
