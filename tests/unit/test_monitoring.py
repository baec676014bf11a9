"""Prometheus's and Alertmanager's files, by their own tools; what the launcher makes of them; dashboards as code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster import monitoring
from cluster.cli_error import CliError
from cluster.grafana import FOLDER, boards, queries
from cluster.monitoring import CONFIGS, Thresholds
from cluster.processes import Started
from cluster.state import State, StateFile
from cluster.wecom import Application, Robot, Wecom
from deployments.ingress import metrics
from tests.helpers.fake_wecom import AGENT, CORP, KEY, SECRET
from watchdog import reporter

ZIPKIN = "http://127.0.0.1:19411"


def tool(name: str) -> str:
    return shutil.which(name) or pytest.skip(
        f"no {name}; on Debian and Ubuntu: apt-get install --no-install-recommends prometheus prometheus-alertmanager"
    )


def run(*command) -> None:
    answer = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_rule_is_silent_before_and_fires_after():
    folder = CONFIGS / "prometheus"
    tests = yaml.safe_load((folder / "rules_test.yml").read_text())["tests"]
    rules = {
        rule["alert"]
        for group in yaml.safe_load((folder / "rules.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    for fires in (False, True):
        tested = {
            case["alertname"] for test in tests for case in test["alert_rule_test"] if bool(case["exp_alerts"]) == fires
        }
        assert tested == rules
    run(tool("promtool"), "test", "rules", folder / "rules_test.yml")


def test_each_rule_says_stage_value_and_traces_and_is_in_the_runbook():
    runbook = (CONFIGS.parent / "docs" / "runbook.md").read_text()
    for group in yaml.safe_load(monitoring.rules())["groups"]:
        for rule in group["rules"]:
            assert {"summary", "stage", "value", "traces"} == set(rule["annotations"]), rule["alert"]
            assert f"## {rule['alert']}" in runbook


def test_other_thresholds_change_every_place():
    text = monitoring.rules(Thresholds(window_s=30, hold_s=5, slow_s=0.1))
    assert "5m" not in text and "[30s]" in text and "five" not in text
    slow = next(rule for rule in yaml.safe_load(text)["groups"][0]["rules"] if rule["alert"] == "RequestsSlow")
    assert slow["for"] == "5s" and "> 0.1\n" in slow["expr"] and "minDuration=100000&" in slow["annotations"]["traces"]
    assert "millis=35000&" in slow["annotations"]["traces"]


def test_its_threshold_is_an_edge_of_the_histogram():
    assert Thresholds().slow_s in metrics.REQUEST_S


def test_how_often_prometheus_looks_is_the_files_or_what_is_asked_for(tmp_path):
    written = yaml.safe_load((monitoring.CONFIGS / "prometheus" / "prometheus.yml").read_text())["global"]
    assert monitoring.prometheus_config(tmp_path, None, 1)["global"] == written
    quicker = monitoring.prometheus_config(tmp_path, None, 1, every_s=5)["global"]
    assert quicker == written | {"scrape_interval": "5s", "evaluation_interval": "5s"}
    source = yaml.safe_load((monitoring.CONFIGS / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["jsonData"]["timeInterval"] == written["scrape_interval"]


def test_links_go_to_the_address_at_which_people_open_zipkin(tmp_path):
    def labels(*where) -> dict:
        return monitoring.prometheus_config(tmp_path, ZIPKIN, 1, 30, *where)["global"]["external_labels"]

    assert labels() == {"zipkin": ZIPKIN} and labels("https://traces.example") == {"zipkin": "https://traces.example"}
    for rule in yaml.safe_load(monitoring.rules())["groups"][0]["rules"]:
        assert rule["annotations"]["traces"].startswith("{{ $externalLabels.zipkin }}/zipkin/?")


def test_the_default_thresholds_change_nothing():
    assert (
        monitoring.rules()
        == (CONFIGS / "prometheus" / "rules.yml").read_text()
        == monitoring.rules(Thresholds(every_s=5))
    )


def test_the_filled_in_files_are_valid(tmp_path):
    (tmp_path / "rules.yml").write_text(monitoring.rules(Thresholds(30, 5, 0.1)))
    wecom = Wecom(Application(CORP, AGENT, SECRET), Robot(KEY))
    for name, config in (
        ("prometheus", monitoring.prometheus_config(tmp_path / "targets.json", ZIPKIN, 19093)),
        ("alone", monitoring.prometheus_config(tmp_path / "targets.json", None, 19093)),
        ("alertmanager", monitoring.alertmanager_config(wecom, "http://127.0.0.1:1")),
        ("page", monitoring.alertmanager_config(Wecom(), None)),
    ):
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(config))
    for name in ("prometheus", "alone"):
        run(tool("promtool"), "check", "config", tmp_path / f"{name}.yml")
    for name in ("alertmanager", "page"):
        run(tool("amtool"), "check-config", tmp_path / f"{name}.yml")
    zipkin = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"][1]
    assert zipkin["static_configs"] == [{"targets": ["127.0.0.1:19411"]}] and zipkin["scheme"] == "http"


def test_a_missing_program_is_a_problem_that_names_the_package():
    with pytest.raises(CliError, match="apt-get install --no-install-recommends prometheus prometheus-alertmanager"):
        monitoring.find("prometheus", env={"PATH": "/nowhere"})


def test_the_state_file_knows_the_servers(tmp_path):
    servers = {
        name: monitoring.Server(Started(name, 1, 2, "mark", "log"), port)
        for port, name in enumerate(("prometheus", "alertmanager", "wecom"))
    }
    state = State("2030-01-01T00:00:00+00:00", "boot", 8000, **servers)
    StateFile(tmp_path).save(state)
    assert StateFile(tmp_path).load() == state
    assert [process.name for process in state.started] == list(servers)


def test_grafanas_files_are_what_the_code_makes():
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == {
        f"{board.uid}.json": board.json() for board in boards.BOARDS
    }, "run: python -m cluster.grafana"
    sources = yaml.safe_load((FOLDER.parent / "provisioning" / "datasources" / "prometheus.yml").read_text())
    assert {
        target["datasource"]["uid"]
        for board in boards.BOARDS
        for panel in json.loads(board.json())["panels"]
        for target in panel["targets"]
    } == {sources["datasources"][0]["uid"]}


def test_every_panel_can_be_narrowed_to_one_node_but_for_what_only_one_process_tells():
    for _, panel, query in queries():
        told_by_one = ("zipkin_collector_", "ray_serve_deployment_replica_healthy", "ray_cosygraph_watchdog_")
        assert any(word in query for word in told_by_one) or query.count("{") == query.count('node=~"$node"'), (
            panel.title
        )
    for board in boards.BOARDS:
        names = [variable["name"] for variable in json.loads(board.json())["templating"]["list"]]
        assert names == ["application", "node"]


def test_every_metric_is_in_the_table_and_no_panel_asks_for_another():
    table = (Path(CONFIGS).parent / "docs" / "metrics.md").read_text()
    names = set()

    class Kinds:
        def __init__(self, suffix=""):
            self._suffix = suffix

        def __getattr__(self, kind):
            return lambda name, *args: names.add(f"ray_{name}{'_total' if kind == 'Counter' else ''}")

    metrics.Metrics(metrics.Registry(), Kinds())
    reporter.Metrics(Kinds())
    for name in names:
        assert f"`{name}`" in table, name
    for _, panel, query in queries():
        for word in re.split(r"[(){\s]", query):
            if word.startswith("ray_cosygraph_"):
                assert word.removesuffix("_bucket").removesuffix("_count") in names, (panel.title, word)
