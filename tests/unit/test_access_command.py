"""`python -m cluster key`, and what `up` says about keys before it starts anything."""

import json
import os
import re
import socket
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from access.authentication import Authenticator
from access.key_editor import KeyEditor
from cluster import cli, demo, ports, serving, stack
from cluster.cli_error import CliError
from cluster.ray_head import ROOT
from cluster.state import State, boot_id

REMOTE = "192.0.2.7"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "etc" / "keys.yaml"


@pytest.fixture
def key(path, capsys):
    """The command, on one file; returns what it prints on standard output."""

    def run(*arguments: str, code: int = 0) -> str:
        assert cli.main(["key", *arguments, "--file", str(path)]) == code
        printed = capsys.readouterr()
        return (printed.out if code == 0 else printed.err).strip()

    return run


def name_of(path: Path, key: str) -> str | None:
    return Authenticator(str(path)).identify({"x-api-key": key}, REMOTE).key


def test_a_key_is_shown_once_and_its_hash_is_kept(key, path):
    made = key("alice")
    assert made.startswith("cosygraph_") and len(made) > 50 and "\n" not in made
    assert name_of(path, made) == "alice" and made not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key("bob") != made and name_of(path, made) == "alice"
    assert [one.name for one in path.parent.iterdir()] == ["keys.yaml"], "nothing else is left there"


def test_all_fields_can_be_given(key, path):
    made = key(
        "web",
        "--role",
        "voices",
        "--role",
        "synthesize",
        "--owner",
        "Alice's shop",
        "--dialect",
        "zh-CN",
        "--requests-per-minute",
        "60",
        "--burst",
        "5",
        "--concurrent",
        "4",
        "--expires",
        "2999-01-31",
        "--untrusted",
    )
    found = Authenticator(str(path)).identify({"x-api-key": made}, REMOTE)
    assert (found.key, found.user, found.trusted, found.dialect) == ("web", "Alice's shop", False, "zh-CN")
    assert found.roles == {"voices", "synthesize"}
    assert found.limits.model_dump() == {"requests_per_minute": 60, "burst": 5, "concurrent": 4}
    assert re.split(" {2,}", key("--list")) == [
        "web",
        "synthesize,voices",
        "owner Alice's shop",
        "dialect zh-CN",
        "requests_per_minute 60",
        "burst 5",
        "concurrent 4",
        "expires 2999-01-31",
        "untrusted",
    ]


def test_a_rotation_has_two_keys_and_ends_with_one(key, path):
    first, second, third = key("alice"), key("--rotate", "alice"), key("--rotate", "alice")
    assert [name_of(path, one) for one in (first, second, third)] == [None, "alice", "alice"]
    assert "2 keys work" in key("--list")
    assert key("--retire", "alice") == "alice: 1 older keys stop working"
    assert [name_of(path, one) for one in (second, third)] == [None, "alice"]
    assert "of" not in key("--retire", "alice") and name_of(path, third) == "alice"
    assert key("--revoke", "alice") and name_of(path, third) is None
    assert "has no keys" in key("--list")


def test_what_people_wrote_into_an_entry_stays_and_the_file_stays_whose_it_was(key, path):
    path.parent.mkdir()
    path.write_text(f"keys:\n- name: old\n  sha256: {'ab' * 32}\n  owner: 爱丽丝\n  expires: 2999-01-31\n")
    os.chmod(path, 0o644)
    before = yaml.safe_load(path.read_text())["keys"][0]
    key("new")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["keys"][0] == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "its group may go on reading it, nobody else"


def test_a_link_stays_a_link(key, path, tmp_path):
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere.yaml")
    made = key("alice")
    assert path.is_symlink() and name_of(path, made) == "alice"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["Alice"], "no key name"),
        (["a b"], "no key name"),
        (["x" * 41], "no key name"),
        (["old"], "--rotate gives it"),
        (["new", "--burst", "3"], "burst has no effect"),
        (["new", "--concurrent", "0"], "concurrent"),
        (["--rotate", "new"], "key --list"),
        (["--revoke", "new"], "key --list"),
        (["--retire", "new"], "key --list"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(key, path, arguments, says):
    key("old")
    before = path.read_bytes()
    assert says in key(*arguments, code=1)
    assert path.read_bytes() == before and [one.name for one in path.parent.iterdir()] == ["keys.yaml"]


def test_a_damaged_file_is_never_written_over(key, path):
    path.parent.mkdir()
    path.write_text("keys: [{name: alice, sha256: cut of")
    assert "is no key file" in key("bob", code=1) and "is no key file" in key("--list", code=1)
    assert path.read_text() == "keys: [{name: alice, sha256: cut of"


def test_keys_made_at_the_same_time_are_all_there(path):
    makers = [threading.Thread(target=KeyEditor(path).add, args=(f"k{number}",)) for number in range(12)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert {one.name for one in KeyEditor(path).entries().keys} == {f"k{number}" for number in range(12)}


def test_without_a_file_it_is_the_run_folders(tmp_path, capsys):
    assert cli.main(["key", "alice", "--run-dir", str(tmp_path / "run")]) == 0
    assert name_of(tmp_path / "run" / "keys.yaml", capsys.readouterr().out.strip()) == "alice"


class TestUp:
    """Refused before anything starts."""

    def test_open_to_the_network_without_keys(self, tmp_path, capsys):
        for host in ("0.0.0.0", "192.0.2.1"):
            assert cli.main(["up", "--host", host, "--run-dir", str(tmp_path / "run")]) == 1
            said = capsys.readouterr().err
            assert f"listens on {host}, which is open to the network, and there are no keys" in said
            assert "python -m cluster key NAME" in said and not (tmp_path / "run" / "state.json").exists()

    @pytest.mark.parametrize("text", [None, "keys: [", "keys: []"])
    def test_a_key_file_that_has_none(self, text, tmp_path, capsys):
        path = tmp_path / "keys.yaml"
        if text is not None:
            path.write_text(text)
        assert cli.main(["up", "--host", "0.0.0.0", "--keys-file", str(path), "--run-dir", str(tmp_path)]) == 1
        assert "The access settings are wrong" in capsys.readouterr().err

    @pytest.mark.parametrize("host", ["::", "example.org", "1.2.3", ""])
    def test_a_host_that_is_no_address(self, host, capsys):
        with pytest.raises(SystemExit):
            cli.main(["up", "--host", host])
        assert "is no IPv4 address" in capsys.readouterr().err

    def test_an_address_of_another_machine(self):
        with pytest.raises(CliError, match="192.0.2.1 is no address of this machine"):
            ports.require_free(ports.any_free(), "the API", "--http-port", host="192.0.2.1")


class TestApplication:
    def read(self, tmp_path, args: str = "{}", host: str = "127.0.0.1", **over) -> serving.Application:
        path = tmp_path / "serve.yaml"
        path.write_text(f"applications: [{{name: a, import_path: 'graph:build', args: {args}}}]")
        return serving.Application.read(path, 8080, over, host=host)

    def checked(self, application: serving.Application) -> str:
        said = []
        application.check_access(said.append)
        return "".join(said)

    @pytest.mark.parametrize("section", ["tracing", "access", "limits", "voices"])
    def test_a_section_with_nothing_below_it_is_empty_and_one_that_holds_no_settings_is_said(self, tmp_path, section):
        path = tmp_path / "serve.yaml"
        text = (ROOT / "cluster" / "serve.cpu.yaml").read_text()
        config = yaml.safe_load(text) | {"http_options": None}
        for wrong in (None, [1]):
            config["applications"][0]["args"] = {"engine": "simulated", section: wrong}
            path.write_text(yaml.safe_dump(config))
            if wrong is None:
                application = serving.Application.read(path, 8080, {}, web_page=True, watchdog=True)
                assert application.proxy_environment() and not application.stores_voices
            else:
                with pytest.raises(CliError, match=f"`{section}` must hold settings"):
                    serving.Application.read(path, 8080, {}, web_page=True, watchdog=True)

    @pytest.mark.parametrize(
        "text, says",
        [
            (b"applications: [{name: a}]", "import_path"),
            (b"applications: [{import_path: 'graph:build', args: [1]}]", "`args` must hold settings"),
            (b"applications: \xff", "is no Serve config"),
            (b"http_options: [1]\napplications: [{import_path: 'graph:build'}]", "`http_options` must hold settings"),
        ],
    )
    def test_what_is_no_config_is_said(self, tmp_path, text, says):
        path = tmp_path / "serve.yaml"
        path.write_bytes(text)
        with pytest.raises(CliError, match=says):
            serving.Application.read(path, 8080, {}, web_page=True, watchdog=True)

    def test_loopback_asks_for_none(self, tmp_path):
        assert self.checked(self.read(tmp_path)) == ""

    def test_the_network_is_said_when_keys_are_required_and_when_not(self, tmp_path, path):
        KeyEditor(path).add("alice")
        with_keys = self.read(tmp_path, f"{{tracing: {{keys_file: {path}}}}}", "0.0.0.0")
        assert self.checked(with_keys) == "API keys are required (1 known)"
        assert "WARNING: 0.0.0.0 is open" in self.checked(self.read(tmp_path, "{access: {required: false}}", "0.0.0.0"))

    def test_somebody_elses_application_is_not_known(self, tmp_path):
        application = self.read(tmp_path, host="0.0.0.0")
        application.config["applications"][0]["import_path"] = "other:app"
        assert "WARNING" in self.checked(application)

    def test_the_proxy_knows_the_key_file_too(self, tmp_path):
        for args in ("{access: {keys_file: k}}", "{tracing: {keys_file: k}}"):
            environment = self.read(tmp_path, args).proxy_environment()
            assert json.loads(environment["COSYGRAPH_TRACING"]) == {"keys_file": "k"}
        assert json.loads(self.read(tmp_path).proxy_environment()["COSYGRAPH_TRACING"]) == {}

    def test_the_run_folders_keys_are_taken_where_the_config_names_none(self, tmp_path):
        def keys_file(**options) -> str | None:
            return stack.Stack(tmp_path, print)._application(stack.Options(run_dir=tmp_path, **options)).keys_file

        assert keys_file() is None
        KeyEditor(tmp_path / "keys.yaml").add("alice")
        assert keys_file() == str(tmp_path / "keys.yaml")
        assert keys_file(keys_file=tmp_path / "other.yaml") == str(tmp_path / "other.yaml")
        config = tmp_path / "serve.yaml"
        config.write_text("applications: [{import_path: 'graph:build', args: {tracing: {keys_file: named}}}]")
        assert keys_file(config=config) == "named"
        KeyEditor(tmp_path / "other.yaml").add("bob")
        options = stack.Options(run_dir=tmp_path, config=config, keys_file=tmp_path / "other.yaml", host="0.0.0.0")
        application = stack.Stack(tmp_path, print)._application(options, tracing={"spans_file": "s"})
        assert self.checked(application) == "API keys are required (1 known)", (
            "and the config's other file is not in it"
        )
        assert json.loads(application.proxy_environment()["COSYGRAPH_TRACING"])["spans_file"] == "s"


def test_the_one_port_that_is_meant_to_be_open_is_no_warning():
    with socket.socket() as server, socket.socket() as other:
        for one in (server, other):
            one.bind(("0.0.0.0", 0))
            one.listen()
        meant, beside = server.getsockname()[1], other.getsockname()[1]
        [found] = ports.open_to_the_network({os.getpid()}, meant=("0.0.0.0", meant))
        assert f":{beside} " in found
        assert len(ports.open_to_the_network({os.getpid()}, meant=("192.0.2.1", meant))) == 2


def test_the_demo_shows_its_key_to_the_graph_and_to_nothing_it_starts(monkeypatch, tmp_path, capsys):
    seen = []

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(401)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running = State("now", boot_id(), server.server_port)
        for request in (demo.Request(key="cosygraph_k"), demo.Request()):
            demo._post(running, request)
            assert "cosygraph_k" not in repr(request) and "cosygraph_k" not in str(request.form())
        server.shutdown()
    assert seen == ["Bearer cosygraph_k", None]
    monkeypatch.setenv("COSYGRAPH_KEY", "cosygraph_k")
    cli.main(["status", "--run-dir", str(tmp_path)])
    assert "COSYGRAPH_KEY" not in os.environ


def test_the_projects_configs_ask_for_no_keys_by_themselves():
    for config in (ROOT / "cluster").glob("serve.*.yaml"):
        keys_file = serving.Application.read(config, 8000, {}).keys_file
        assert keys_file == ("/etc/cosygraph/keys.yaml" if "cluster" in config.name else None), config.name
