"""`doctor --apply batch`, without a Serve: what is put back, who is asked, and what is refused."""

from __future__ import annotations

import copy
import sys

import pytest

from cluster import cli
from cluster.cli_error import CliError
from cluster.doctor import apply
from cluster.doctor.finding import Change, Finding
from cluster.doctor.serve_reader import ServeReader
from tracing import vocabulary as words

CHANGE = Change("tts-service", {"max_batch_size": 8, "batch_wait_ms": 200})
PROPOSES = [Finding("batching", "act", "small batches", change=CHANGE)]
REPLICAS = [{"replica_id": "a", "pid": 7, "state": "RUNNING"}]
DETAILS = {
    "proxy_location": "HeadOnly",
    "http_options": {"host": "127.0.0.1", "port": 8000},
    "grpc_options": {"port": 9000},
    "target_capacity": None,
    "applications": {
        "cosygraph": {
            "status": "RUNNING",
            "deployments": {
                words.INGRESS: {"status": "HEALTHY"},
                "tts-service": {
                    "status": "HEALTHY",
                    "replicas": REPLICAS,
                    "deployment_config": {"user_config": {"max_batch_size": 1, "batch_wait_ms": 0}},
                },
            },
            "deployed_app_config": {
                "name": "cosygraph",
                "import_path": "graph:build",
                "args": {"engine": "simulated"},
                "deployments": [
                    {"name": "tts-service", "num_replicas": 1, "user_config": {"max_batch_size": 1, "batch_wait_ms": 0}}
                ],
            },
        },
        "webui": {
            "status": "RUNNING",
            "deployments": {},
            "deployed_app_config": {"name": "webui", "import_path": "w:b"},
        },
    },
}


class StandInServe(ServeReader):
    """Takes a config as Serve does; `replaces`: with a new process, as it must not."""

    def __init__(self, replaces: bool = False) -> None:
        self.url, self.state = "http://dashboard", copy.deepcopy(DETAILS)
        self.put_config, self._replaces = None, replaces

    def details(self) -> dict:
        return copy.deepcopy(self.state)

    def put(self, config: dict) -> None:
        self.put_config = config
        entry = next(one for one in config["applications"] if one["name"] == "cosygraph")["deployments"][0]
        tts = self.state["applications"]["cosygraph"]["deployments"]["tts-service"]
        tts["deployment_config"]["user_config"] = entry["user_config"]
        if self._replaces:
            tts["replicas"] = [{"replica_id": "b", "pid": 8, "state": "RUNNING"}]


@pytest.fixture
def serve(monkeypatch) -> StandInServe:
    server = StandInServe()
    monkeypatch.setattr(apply, "ServeReader", lambda url: server)
    monkeypatch.setattr(apply, "SETTLED_S", 0)
    return server


def test_one_value_changes_and_all_else_is_put_back(serve):
    said = []
    apply.batch(PROPOSES, "http://dashboard", yes=True, say=said.append)
    put = serve.put_config
    assert [one["name"] for one in put["applications"]] == ["cosygraph", "webui"]
    expected = copy.deepcopy(DETAILS["applications"]["cosygraph"]["deployed_app_config"])
    expected["deployments"][0]["user_config"] = CHANGE.user_config
    assert put["applications"][0] == expected
    assert put["http_options"] == DETAILS["http_options"] and "target_capacity" not in put
    assert "Undo" in said[-1] and '"max_batch_size": 1' in said[-1] and "same processes" in said[-2]


@pytest.mark.parametrize("answer, changes", [("y", True), ("YES", True), ("n", False), ("", False), ("maybe", False)])
def test_it_asks_first(serve, monkeypatch, answer, changes):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    if changes:
        apply.batch(PROPOSES, "http://dashboard", yes=False, say=lambda text: None, ask=lambda text: answer)
    else:
        with pytest.raises(CliError, match="Nothing was changed"):
            apply.batch(PROPOSES, "http://dashboard", yes=False, say=lambda text: None, ask=lambda text: answer)
    assert (serve.put_config is not None) == changes


def test_without_a_terminal_it_refuses(serve, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(CliError, match="--yes"):
        apply.batch(PROPOSES, "http://dashboard", yes=False, say=lambda text: None)
    assert serve.put_config is None


def test_a_deployment_that_the_config_leaves_to_its_defaults_gets_an_entry(serve):
    serve.state["applications"]["cosygraph"]["deployed_app_config"]["deployments"] = []
    apply.batch(PROPOSES, "http://dashboard", yes=True, say=lambda text: None)
    assert serve.put_config["applications"][0]["deployments"] == [
        {"name": "tts-service", "user_config": CHANGE.user_config}
    ]


def test_a_replica_that_was_replaced_is_told(serve):
    serve._replaces = True
    with pytest.raises(CliError, match="1 of 1 replicas of tts-service were replaced"):
        apply.batch(PROPOSES, "http://dashboard", yes=True, say=lambda text: None)


def test_what_somebody_else_deployed_while_it_asked_is_not_undone(serve, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)

    def meanwhile(question: str) -> str:
        serve.state["applications"]["webui"]["deployed_app_config"]["args"] = {"api_url": "http://127.0.0.1:8001"}
        return "y"

    with pytest.raises(CliError, match="Somebody else"):
        apply.batch(PROPOSES, serve.url, yes=False, say=print, ask=meanwhile)
    assert serve.put_config is None


def test_what_was_not_deployed_by_a_config_is_not_risked(serve):
    serve.state["applications"]["webui"]["deployed_app_config"] = None
    with pytest.raises(CliError, match="webui was not deployed from a config"):
        apply.batch(PROPOSES, "http://dashboard", yes=True, say=lambda text: None)
    assert serve.put_config is None


def test_another_cluster_is_said_to_be_another(serve):
    del serve.state["applications"]["cosygraph"]
    with pytest.raises(CliError, match="--dashboard-url"):
        apply.batch(PROPOSES, "http://dashboard", yes=True, say=lambda text: None)


def test_nothing_to_change_and_nowhere_to_change_it():
    with pytest.raises(CliError, match="no batch setting to change"):
        apply.batch([], "http://dashboard", yes=True, say=lambda text: None)
    with pytest.raises(CliError, match="--dashboard-url"):
        apply.batch(PROPOSES, None, yes=True, say=lambda text: None)


class TestCommandLine:
    def test_without_a_stack_it_says_what_to_name(self, tmp_path, capsys):
        assert cli.main(["doctor", "--run-dir", str(tmp_path)]) == 1
        assert "--zipkin-url" in capsys.readouterr().err

    @pytest.mark.parametrize("wrong", [["--since", "soon"], ["--since", "8d"], ["--apply", "everything"]])
    def test_nonsense_is_refused(self, wrong, capsys):
        with pytest.raises(SystemExit):
            cli.main(["doctor", *wrong])
        assert wrong[0] in capsys.readouterr().err

    def test_help_says_the_exit_statuses(self, capsys):
        with pytest.raises(SystemExit):
            cli.main(["doctor", "--help"])
        assert "3 something to act on" in " ".join(capsys.readouterr().out.split())
