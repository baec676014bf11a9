"""The README's requests, as they stand there, against the running graph: each line of curl, each `cluster say`."""

import subprocess
import sys

import httpx
import pytest
import soundfile

from cluster.ray_head import ROOT
from tests.helpers.documented import commands
from tests.helpers.serving import tone

READMES = sorted(ROOT.glob("README*.md"))
SHOWN_AT, VOICE = "http://127.0.0.1:8000", "anna"


@pytest.mark.parametrize("readme", READMES, ids=lambda file: file.name)
def test_the_requests_of_the_readme_are_answered(readme, fast, tmp_path):
    for name in ("voice.wav", "me.wav", "my.wav"):
        (tmp_path / name).write_bytes(tone(hz=190))
    own = f"readme-{len(readme.name)}"  # the graph's voices belong to all tests
    shown = [one for one in commands(readme) if one.startswith("curl ") or " -m cluster say " in one]
    assert len(shown) >= 5
    try:
        for command in shown:
            sent = command.replace(SHOWN_AT, fast.url).replace(VOICE, own)
            sent = sent.replace("curl ", "curl --silent --show-error --fail-with-body --noproxy '*' ", 1)
            if " -m cluster say " in sent:
                program, _, arguments = sent.partition(" -m ")
                sent = f"cd {ROOT} && {sys.executable} -m {arguments} --url {fast.url}"
                sent = sent.replace(" me.wav", f" {tmp_path}/me.wav").replace(" out.", f" {tmp_path}/out.")
            done = subprocess.run(
                sent, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}"
            for file in tmp_path.glob("out.*"):
                assert soundfile.info(file).frames > 0, command
                file.unlink()
    finally:
        httpx.delete(f"{fast.url}/v1/audio/voices/{own}", timeout=60, trust_env=False)
