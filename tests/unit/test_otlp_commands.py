"""A receiver of OTLP, as the launcher, `status`, the doctor and the configs of a cluster know it."""

import argparse
from types import SimpleNamespace

import pytest
import yaml

from cluster import otlp, status
from cluster.application import Application
from cluster.cli_error import CliError
from cluster.doctor import command as doctor
from cluster.kubernetes_command import serve_config
from cluster.options import Options, add_options
from cluster.ray_head import ROOT
from cluster.stack import Stack
from cluster.state import State, boot_id
from deployments.settings import Tracing
from tests.helpers.doctoring import evidence, findings, many, of
from tests.helpers.otlp_receiver import otlp_receiver
from tracing.export_settings import Allow, OtlpDestination


@pytest.fixture
def receiver():
    with otlp_receiver() as server:
        yield server


def test_the_graphs_setting_is_the_exporters():
    tracing = Tracing(otlp={"url": "http://collector:4318/", "headers": {"X-Scope-OrgID": "speech"}})
    assert tracing.export_settings(Allow()).otlp == OtlpDestination(
        url="http://collector:4318", headers={"X-Scope-OrgID": "speech"}
    )
    assert tracing.trace_url("a" * 32) is None, "the page of another tool is not known"


class TestProblem:
    def test_a_receiver_that_takes_traces_has_none(self, receiver):
        assert otlp.problem(OtlpDestination(url=receiver.url)) is None and receiver.spans == []

    @pytest.mark.parametrize(
        "status, says",
        [(401, "it doesn't take them (HTTP 401; the receiver wants credentials"), (400, "it refuses a request")],
    )
    def test_its_answer_is_named(self, receiver, status, says):
        receiver.answers = [(status, {})]
        assert says in otlp.problem(OtlpDestination(url=receiver.url))

    def test_silence_is_named(self):
        assert otlp.problem(OtlpDestination(url="http://127.0.0.1:1"), 1) == "no answer (ConnectError)"

    def test_a_missing_file_is_an_error_with_a_remedy(self, tmp_path):
        with pytest.raises(CliError, match="headers_file .* can't be read .*make it, with a line such as"):
            otlp.problem(OtlpDestination(url="http://127.0.0.1:1", headers_file=tmp_path / "none"))

    def test_wrong_settings_are_an_error_with_a_remedy(self):
        with pytest.raises(CliError, match="tracing.otlp: .*must begin with http:// or https://, for example"):
            otlp.destination({"url": "collector:4318"})


class TestLauncher:
    def options(self, *arguments: str) -> Options:
        parser = argparse.ArgumentParser()
        add_options(parser)
        parser.add_argument("--run-dir", default=ROOT / ".run")
        return Options.of(parser.parse_args(arguments))

    def test_the_option_becomes_the_setting_and_the_watchdogs_too(self, tmp_path):
        options = self.options("--otlp-url", "http://127.0.0.1:4318")
        state = State("now", boot_id(), 8000, spans_file="spans.jsonl")
        tracing = Stack(tmp_path, print)._tracing(options, state)
        assert tracing["otlp"] == {"url": "http://127.0.0.1:4318"}
        application = Application.read(options.config, 8000, {"tracing": tracing}, watchdog=True)
        assert application.otlp == {"url": "http://127.0.0.1:4318"}
        [dog] = [one for one in application.config["applications"] if one["name"] == "watchdog"]
        assert dog["args"]["tracing"]["otlp"] == {"url": "http://127.0.0.1:4318"}
        assert Application.read(options.config, 8000, {}).otlp is None
        assert "otlp" not in Stack(tmp_path, print)._tracing(self.options(), state), "the config's stays"

    def test_it_says_whether_the_receiver_takes_traces_and_goes_on(self, receiver, tmp_path):
        said: list[str] = []
        stack = Stack(tmp_path, said.append)
        state = State("now", boot_id(), 8000)
        application = SimpleNamespace(otlp={"url": receiver.url})
        stack._check_otlp(application, state)
        assert said == [f"traces go to the receiver of OTLP at {receiver.url} too"]
        assert stack.file.load().otlp == {"url": receiver.url}
        receiver.down = True
        stack._check_otlp(application, state)
        assert "takes no traces yet: it doesn't take them (HTTP 503). They wait for it in the spool" in said[-1]
        stack._check_otlp(SimpleNamespace(otlp=None), State("now", boot_id(), 8000))
        assert len(said) == 2

    def test_status_says_it(self, receiver, monkeypatch):
        monkeypatch.setattr(State, "alive", True)
        state = State("now", boot_id(), 8000, otlp={"url": receiver.url}, spans_file="spans.jsonl")
        assert f"OTLP       {receiver.url}   takes traces" in status.report(state)[0]
        receiver.down = True
        assert f"OTLP       {receiver.url}   TAKES NONE: it doesn't take them (HTTP 503)" in status.report(state)[0]


class TestKubernetes:
    def test_the_receiver_of_a_config_is_the_watchdogs_too(self, tmp_path):
        config = yaml.safe_load((ROOT / "cluster" / "serve.cpu.yaml").read_text())
        receiver = {"url": "http://collector:4318", "headers_file": "/etc/cosygraph/otlp-headers"}
        config["applications"][0]["args"]["tracing"] = {"otlp": receiver}
        path = tmp_path / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        [graph, dog] = [one["args"]["tracing"] for one in serve_config(path)["applications"]]
        assert graph["otlp"] == dog["otlp"] == receiver
        assert graph["zipkin_url"] == dog["zipkin_url"] == "http://zipkin:9411"


class TestDoctor:
    def addresses(self, state: State | None = None, *arguments: str) -> doctor.Addresses:
        parser = argparse.ArgumentParser()
        doctor.add_command(parser.add_subparsers(), argparse.ArgumentParser(add_help=False))
        given = parser.parse_args(["doctor", "--zipkin-url", "http://127.0.0.1:9411", *arguments])
        return doctor.Addresses.of(given, state)

    def test_the_running_stacks_receiver_is_checked_unless_another_is_named(self, monkeypatch, tmp_path):
        monkeypatch.setattr(State, "alive", True)
        running = State("now", boot_id(), 8000, otlp={"url": "http://127.0.0.1:4318"})
        assert self.addresses(running).otlp == OtlpDestination(url="http://127.0.0.1:4318")
        named = self.addresses(running, "--otlp-url", "http://c:1", "--otlp-headers-file", str(tmp_path / "h")).otlp
        assert named == OtlpDestination(url="http://c:1", headers_file=tmp_path / "h")
        assert self.addresses(None).otlp is None

    @pytest.mark.parametrize(
        "arguments, says",
        [
            (["--otlp-url", "c:1"], "must begin with http"),
            (["--otlp-headers-file", "h"], "is for the receiver that --otlp-url names: give both"),
        ],
    )
    def test_wrong_options_say_what_is_wrong(self, arguments, says):
        with pytest.raises(CliError, match=says):
            self.addresses(None, *arguments)

    def test_one_that_takes_none_is_to_be_acted_on(self):
        found = of("traces", findings(many(20), otlp_url="http://c:4318", otlp_problem="no answer (ConnectError)"))
        [told] = [finding for finding in found if finding.severity == "act"]
        assert told.summary == "the receiver of OTLP at http://c:4318 takes no traces: no answer (ConnectError)"
        assert "docs/otlp.md" in told.advice

    def test_one_that_does_is_fine_and_none_is_no_finding(self):
        summaries = [one.summary for one in of("traces", findings(many(20), otlp_url="http://c:4318"))]
        assert "the receiver of OTLP at http://c:4318 takes traces" in summaries
        assert evidence(many(1)).otlp_url is None
        assert not [one for one in of("traces", findings(many(20))) if "OTLP" in one.summary]
