"""`python -m cluster` as a shell runs it: any Python, any pipe, any run folder; and what it tells people to type."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cluster import options, output, status
from cluster.ray_head import ROOT
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
