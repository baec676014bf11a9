"""Every file of examples/ runs against the running graph, as its docstring or comment says."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import soundfile

from speech import verification
from tests.helpers.browser import chromium
from tests.helpers.serving import tone

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TESTED = {
    *("generate.sh", "store_voice.sh", "openai_client.py", "stream.py", "page.html", "README.md"),
    *("live.py", "live.html"),
}


@pytest.fixture
def run(fast, tmp_path):
    """Run an example in an empty folder; returns what it printed."""
    (tmp_path / "voice.wav").write_bytes(tone(hz=180))

    def run(*command: str, ok: bool = True) -> str:
        environment = {**os.environ, "COSYGRAPH_URL": fast.url, "NO_PROXY": "*"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return done.stdout if ok else done.stderr

    return run


@pytest.fixture
def stored(fast):
    """A stored voice, gone after the test."""
    answer = httpx.post(
        f"{fast.url}/v1/audio/voices",
        data={"name": "example", "dialect": "en-GB", "consent": "I agree to this test."},
        files={"audio_sample": ("voice.wav", tone(hz=230))},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text
    yield "example"
    httpx.delete(f"{fast.url}/v1/audio/voices/example", timeout=60, trust_env=False).raise_for_status()


def test_there_is_no_example_that_no_test_runs():
    assert {file.name for file in EXAMPLES.iterdir() if file.is_file()} == TESTED


def test_curl_generates(run, fast, tmp_path):
    said = run(str(EXAMPLES / "generate.sh"), "voice.wav", "Good morning; a test.", "en-US", "out.wav")
    assert soundfile.info(tmp_path / "out.wav").samplerate == 24_000
    assert fast.trace(said.split()[-1], spans=5)


def test_curl_shows_an_error_and_its_trace(run, tmp_path):
    said = run(str(EXAMPLES / "generate.sh"), "voice.wav", "Good morning.", "xx-XX", "out.wav", ok=False)
    assert "HTTP 422" in said or "HTTP 400" in said
    assert '"type":' in said and not (tmp_path / "out.wav").exists()


def test_curl_stores_a_voice_speaks_and_deletes_it(run, tmp_path):
    said = run(str(EXAMPLES / "store_voice.sh"), "voice.wav", "from-curl", "en-US", "out.mp3")
    assert '"deleted":true' in said.replace(" ", "")
    assert soundfile.info(tmp_path / "out.mp3").frames > 0


@pytest.mark.parametrize("script", ["openai_client.py", "stream.py"])
def test_python_speaks_with_a_stored_voice(run, stored, tmp_path, script):
    said = run(sys.executable, str(EXAMPLES / script), stored, "One sentence. And another one.", "out.wav")
    content = (tmp_path / "out.wav").read_bytes()
    sound, rate = soundfile.read(io.BytesIO(content))
    assert rate == 24_000 and len(sound) > rate / 2 and "trace" in said
    mark = verification.read(content).mark
    assert mark is not None and mark.trace_id and mark.trace_id in said, "the file says that it is synthetic"


@pytest.mark.parametrize("script", ["openai_client.py", "stream.py"])
def test_python_shows_an_error(run, script):
    assert "HTTP 404" in run(sys.executable, str(EXAMPLES / script), "nobody", "Hello.", "out.wav", ok=False)


def test_python_speaks_what_comes_in(fast, stored, tmp_path):
    environment = {**os.environ, "COSYGRAPH_URL": fast.url, "NO_PROXY": "*"}
    command = [sys.executable, str(EXAMPLES / "live.py"), stored, "out.wav"]
    text = "One sentence, with a clause in it. Und noch einer für Ümläute."
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, input=text, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "with a clause in it." in done.stdout and "trace" in done.stdout
    assert soundfile.info(tmp_path / "out.wav").frames > 24_000
    command[2] = "nobody"
    refused = subprocess.run(command, cwd=tmp_path, env=environment, input=text, capture_output=True, text=True)
    assert refused.returncode != 0 and "voice_unknown" in refused.stderr


def test_a_page_speaks_while_one_types(fast, stored):
    """The page comes from the API's own origin: the handshake of another one would be refused.

    It takes the place of a page that the server really sent: from one that the browser made up, Chromium opens no
    WebSocket to this machine.
    """
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{fast.url}/health?api={fast.url}")
        page.set_content((EXAMPLES / "live.html").read_text(encoding="utf-8"))
        page.fill("#voice", stored)
        page.click("#connect")
        page.wait_for_function("document.querySelector('output').textContent", timeout=20_000)
        said = page.locator("output").inner_text()
        assert said.startswith("connected"), said
        page.locator("#text").press_sequentially("Good morning to you, dear listeners. ")
        page.locator("output", has_text="Good morning to you,").wait_for(timeout=20_000)
        page.locator("#text").press("Enter")
        page.locator("output[data-trace]").wait_for(timeout=20_000, state="attached")
        page.locator("#text").press_sequentially("And be quiet now, ")
        page.click("#cancel")


def test_the_page_generates_in_a_browser(fast, tmp_path):
    """The page comes from the API's own origin here: the browser's request for it is answered with the file."""
    (tmp_path / "voice.wav").write_bytes(tone(hz=180))
    with chromium() as browser:
        page = browser.new_page()
        page.route(
            re.compile(r"/example\b"),
            lambda route: route.fulfill(path=EXAMPLES / "page.html", content_type="text/html"),
        )
        page.goto(f"{fast.url}/example?api={fast.url}")
        page.set_input_files("#clip", tmp_path / "voice.wav")
        page.locator("#dialect option").nth(1).wait_for(state="attached")
        page.select_option("#dialect", "en-US")
        page.fill("#text", "Good morning.")
        page.click("button")
        page.locator("audio").wait_for(state="visible", timeout=60_000)
        assert page.locator("output").inner_text().startswith("trace ")
