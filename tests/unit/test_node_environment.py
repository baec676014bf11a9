"""The environment of a cluster's nodes: what `python -m cluster env` prints, and what the ingress says is missing."""

import json
import logging
import subprocess

import pytest

from cluster import cli, node_environment
from cluster.cli_error import CliError
from cluster.ray_head import ROOT, SETTINGS
from deployments.ingress import environment_check


def test_it_is_the_launchers_less_what_suits_one_machine_alone():
    found = node_environment.variables(node_environment.CONFIG)
    assert set(SETTINGS) - set(found) == node_environment.PRIVATE
    assert all(found[name] == value for name, value in SETTINGS.items() if name in found)
    assert str(ROOT / "cluster" / "loopback") not in found["PYTHONPATH"] and str(ROOT) in found["PYTHONPATH"]


def test_the_proxys_tracing_is_the_configs():
    tracing = json.loads(node_environment.variables(node_environment.CONFIG)["COSYGRAPH_TRACING"])
    assert tracing["zipkin_url"] == "http://zipkin:9411" and tracing["keys_file"] == "/etc/cosygraph/keys.yaml"


def test_the_proxys_deadline_is_the_configs(tmp_path):
    assert node_environment.variables(node_environment.CONFIG)["COSYGRAPH_DEADLINE_S"] == "60"
    config = tmp_path / "serve.yaml"
    for limits, expected in (("{limits: {deadline_s: 7}}", "7"), ("{}", "60.0")):
        config.write_text(f"applications: [{{import_path: 'graph:build', args: {limits}}}]")
        assert node_environment.variables(config)["COSYGRAPH_DEADLINE_S"] == expected


def test_nodes_wait_for_a_head_that_comes_back():
    found = node_environment.variables(node_environment.CONFIG)
    assert int(found["RAY_gcs_rpc_server_reconnect_timeout_s"]) > 60, "Ray's own setting"


def test_a_shell_takes_it(capsys):
    assert cli.main(["env"]) == 0
    script = capsys.readouterr().out + "\nenv"
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    for name, value in node_environment.variables(node_environment.CONFIG).items():
        assert f"{name}={value}" in told


def test_a_config_that_is_none_says_so(tmp_path):
    with pytest.raises(CliError, match="can't be read"):
        node_environment.variables(tmp_path / "none.yaml")


def test_nothing_is_missing_where_it_was_set(caplog, monkeypatch):
    found = node_environment.variables(node_environment.CONFIG)
    assert environment_check.missing(found) == {}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    environment_check.warn()
    assert caplog.records == []


def test_each_missing_variable_is_named_with_its_effect(caplog, monkeypatch):
    for name in environment_check.NEEDED_FOR:
        monkeypatch.delenv(name, raising=False)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        environment_check.warn()
    assert len(caplog.records) == len(environment_check.NEEDED_FOR)
    for record, name in zip(caplog.records, environment_check.NEEDED_FOR, strict=True):
        assert name in record.getMessage() and environment_check.NEEDED_FOR[name] in record.getMessage()
