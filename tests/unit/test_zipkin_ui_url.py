"""Links to traces lead where people open Zipkin: ZIPKIN_UI_URL, where it is not the address that spans are sent to."""

from __future__ import annotations

import pytest

from cluster import cli, stack
from cluster.cli_error import CliError
from cluster.options import Options
from cluster.state import State, StateFile
from cluster.zipkin import Zipkin, page_address

INSIDE, OUTSIDE = "http://zipkin:9411", "https://traces.example"


def options(monkeypatch, url: str | None, *arguments: str) -> Options:
    monkeypatch.delenv("ZIPKIN_UI_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("ZIPKIN_UI_URL", url)
    return Options.of(cli.parser().parse_args(["up", *arguments]))


def state(url: str | None, zipkin: Zipkin | None) -> State:
    return State("2030-01-01T00:00:00+00:00", "boot", 8000, zipkin=zipkin, zipkin_ui_url=url)


def test_the_graph_sends_spans_to_one_address_and_links_to_the_other(monkeypatch, tmp_path):
    wanted = options(monkeypatch, OUTSIDE)
    tracing = stack.Stack(tmp_path, print)._tracing(wanted, state(wanted.zipkin_ui_url, Zipkin(INSIDE)))
    assert (tracing["zipkin_url"], tracing["zipkin_ui_url"]) == (INSIDE, OUTSIDE)


def test_without_it_they_are_one(monkeypatch, tmp_path):
    wanted = options(monkeypatch, None)
    tracing = stack.Stack(tmp_path, print)._tracing(wanted, state(wanted.zipkin_ui_url, Zipkin(INSIDE)))
    assert tracing["zipkin_url"] == tracing["zipkin_ui_url"] == INSIDE


def test_without_a_zipkin_nothing_links_there():
    assert state(OUTSIDE, None).traces_url is None


def test_another_command_finds_it_in_the_state_file(tmp_path):
    file = StateFile(tmp_path)
    file.save(state(OUTSIDE, Zipkin(INSIDE)))
    found = file.load()
    assert found is not None and found.traces_url == OUTSIDE


@pytest.mark.parametrize("given", [OUTSIDE, f"{OUTSIDE}/", f"{OUTSIDE}/zipkin", f" {OUTSIDE}/zipkin/ "])
def test_what_stands_behind_the_address_is_left_out(monkeypatch, given):
    assert options(monkeypatch, given).zipkin_ui_url == OUTSIDE


def test_a_path_of_a_proxy_stays():
    assert page_address("https://tools.example/team/zipkin/", "x") == "https://tools.example/team"


@pytest.mark.parametrize("given", ["traces.example", "zipkin:9411", "ftp://a", "http://", "http://a:0", "http://a/?b"])
def test_an_address_that_no_browser_opens_is_refused_with_its_remedy(monkeypatch, capsys, tmp_path, given):
    monkeypatch.setenv("ZIPKIN_UI_URL", given)
    assert cli.main(["up", "--run-dir", str(tmp_path)]) == 1
    assert f"ZIPKIN_UI_URL is {given!r}" in (told := capsys.readouterr().err) and "https://traces.example" in told


def test_a_gate_has_an_address_of_its_own(monkeypatch):
    with pytest.raises(CliError, match="--gate-url is its address. Unset ZIPKIN_UI_URL"):
        options(monkeypatch, OUTSIDE, "--with-gate")
