"""`python -m cluster` as a shell runs it: any Python, any pipe, any run folder; and what it tells people to type."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cluster import cli, options, output, processes, signals, stack, status
from cluster.ray_head import ROOT, RayHead
from cluster.state import State, StateFile, boot_id
from cluster.zipkin import Zipkin
from config import version
from deployments.ingress.app import build
from speech.audio import decode
from speech.errors import InvalidInput
from speech.text import check_text
from tests.helpers.serving import tone


def run(python: str | Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(python), "-m", "cluster", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A Python without a single package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


class TestAnotherPython:
    def test_it_hands_the_command_over_to_the_venv(self, bare, tmp_path):
        if not (ROOT / ".venv" / "bin" / "python").exists():
            pytest.skip("the tests run without .venv")
        done = run(bare, "status", "--run-dir", str(tmp_path))
        assert (done.returncode, done.stderr) == (1, "") and "nothing runs here" in done.stdout

    def test_without_a_venv_it_says_in_one_line_what_to_type(self, bare, tmp_path):
        (tmp_path / "cluster").mkdir()
        for name in ("__init__.py", "__main__.py"):
            (tmp_path / "cluster" / name).write_text((ROOT / "cluster" / name).read_text())
        done = run(bare, "status", cwd=tmp_path)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and "it has no httpx" in done.stderr and "`make setup`" in done.stderr


class TestVersion:
    def test_one_version_is_told_everywhere(self):
        done = run(sys.executable, "--version")
        assert (done.returncode, done.stdout) == (0, f"cosygraph {version.VERSION}\n")
        app = build(None)
        assert app.version == app.openapi()["info"]["version"] == version.VERSION != version.UNKNOWN
        assert TestClient(app).get("/health").json() == {"status": "ok", "version": version.VERSION}

    def test_code_that_was_copied_alone_has_none(self, tmp_path):
        assert version.read(tmp_path / "pyproject.toml") == version.UNKNOWN


class TestAPipeThatIsClosed:
    def test_the_command_goes_on_and_keeps_its_exit_status(self, tmp_path):
        """Far more than a pipe holds, and the reader leaves after one line."""
        code = (
            "import sys\nfrom cluster import output\n"
            "with output.outliving_its_reader():\n"
            "    for number in range(100_000):\n        print(number, flush=number % 1000 == 0)\n"
            "print('done', file=sys.stderr)\nsys.exit(3)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "0\n"
            process.stdout.close()
            assert process.stderr.read() == "done\n"
            assert process.wait(30) == 3

    def test_the_launcher_does_so(self, tmp_path):
        pipe, end = os.pipe()
        os.close(pipe)
        done = subprocess.run(
            [sys.executable, "-m", "cluster", "status", "--run-dir", str(tmp_path)],
            cwd=ROOT,
            stdout=end,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(end)
        assert (done.returncode, done.stderr) == (1, "")

    def test_what_was_printed_before_arrives(self, capfd):
        with output.outliving_its_reader():
            print("text")
        assert capfd.readouterr().out == "text\n"


class TestTheMachine:
    """Faults of the machine have a cause and a remedy, and no traceback."""

    @pytest.mark.parametrize("command", [["up"], ["key", "alice"], ["status"], ["down"]])
    def test_a_run_folder_that_can_not_be_used(self, command, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert cli.main([*command, "--run-dir", str(tmp_path / "file" / "run")]) == 1
        said = capsys.readouterr().err
        assert "Not a directory" in said and "nother f" in said and "Remove" not in said

    def test_a_full_disk(self, tmp_path, capsys, monkeypatch):
        def full(self, *_args):
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

        monkeypatch.setattr(StateFile, "load", full)
        assert cli.main(["status", "--run-dir", str(tmp_path)]) == 1
        assert f"{tmp_path}: No space left on device. Free some space" in capsys.readouterr().err

    def test_an_error_that_no_remedy_is_known_for_keeps_its_traceback(self, tmp_path, monkeypatch):
        def gone(self, *_args):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        monkeypatch.setattr(StateFile, "load", gone)
        with pytest.raises(BrokenPipeError):  # `output` ends the command quietly
            cli.main(["status", "--run-dir", str(tmp_path)])

    def test_logs_that_can_not_be_kept_do_not_keep_anything_running(self, tmp_path, monkeypatch):
        said: list[str] = []
        running = [
            processes.start(name, [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
            for name in ("ray", "zipkin")
        ]
        folder = tmp_path / "ray"
        (folder / "session_latest" / "logs").mkdir(parents=True)
        (folder / "session_latest" / "logs" / "gcs.out").touch()

        def full(*_args, **_more):
            raise shutil.Error([("from", "to", "[Errno 28] No space left on device: 'to'")])

        monkeypatch.setattr(shutil, "copytree", full)
        here = stack.Stack(tmp_path / "run", said.append)
        here.stop(
            State(
                "now",
                boot_id(),
                8000,
                ray=RayHead(running[0], 1, 1, str(folder)),
                zipkin=Zipkin("http://127.0.0.1:1", running[1]),
            ),
            drain=False,
        )
        assert not any(one.alive for one in running) and not folder.exists()
        assert any("logs could be kept" in line and "No space left" in line for line in said)


def test_a_process_whose_start_is_interrupted_does_not_run_on(tmp_path, monkeypatch):
    made: list[subprocess.Popen] = []
    popen = subprocess.Popen

    def interrupted(*arguments, **options) -> subprocess.Popen:
        made.append(popen(*arguments, **options))
        os.kill(os.getpid(), signal.SIGINT)
        return made[0]

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    try:
        interruptions = signals.Interruptions().install()
        with pytest.raises(signals.Interrupted):
            processes.start("ray", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ended = made[0].poll() is not None
    made[0].kill()
    made[0].wait()
    assert ended and interruptions.count == 1


@pytest.mark.parametrize("leftover", [None, ""])
def test_a_secret_is_made_whole_and_an_empty_one_anew(tmp_path, leftover, monkeypatch):
    path = tmp_path / "secret"
    if leftover is not None:
        path.write_text(leftover)

    def full(_bytes: int) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(stack.secrets, "token_hex", full)
        stack.secret_file(tmp_path)
    assert not path.exists() or path.read_text() == leftover
    assert stack.secret_file(tmp_path) == path and len(made := path.read_text()) == 65
    assert path.stat().st_mode & 0o777 == 0o600 and stack.secret_file(tmp_path).read_text() == made


class TestWhatToType:
    def test_the_command_names_the_stack_it_is_about(self, tmp_path):
        assert options.command("down", options.RUN_DIR) == "make down"
        other = tmp_path / "with space"
        assert options.command("down", other) == f"python -m cluster down --run-dir '{other}'"

    def test_status_names_the_stack_that_does_not_run(self, tmp_path):
        text, ready = status.report(None, tmp_path)
        assert not ready and f"python -m cluster up --run-dir {tmp_path}" in text

    def test_a_message_names_the_remedy(self):
        with pytest.raises(InvalidInput) as refusal:
            check_text("a" * 201)
        assert "`long_form`" in refusal.value.message and "--long" in refusal.value.message
        with pytest.raises(InvalidInput) as refusal:
            decode(tone(rate=8000))
        assert refusal.value.message.startswith("Audio sample rate 8000Hz, minimum required 16000Hz")
        assert "at 16000Hz or more" in refusal.value.message
