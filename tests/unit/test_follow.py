"""`say --follow`: its text as it comes, its request, and what it says where something is wrong."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest

from cluster import cli, follow
from cluster.cli_error import CliError
from cluster.say import Order


class Slowly(io.BytesIO):
    """A source that gives out few bytes at a time."""

    def read1(self, size: int = -1) -> bytes:
        return self.read(5)


def test_characters_that_come_in_two_are_put_together():
    text = "Ümläute, 漢字 und 😀."
    parts = list(follow._texts(Slowly(text.encode())))
    assert "".join(parts) == text and len(parts) > 5 and "\ufffd" not in "".join(parts)


def test_the_request_is_that_of_the_command_line(tmp_path):
    clip = tmp_path / "me.wav"
    clip.write_bytes(b"RIFF")
    order = Order("", Path("out.wav"), "http://x", clip=clip, dialect="en-US", style="slowly", speed=1.5)
    config = follow._config(order)
    assert config["ref_audio"].partition(",")[2] == base64.b64encode(b"RIFF").decode()
    assert (config["instructions"], config["speed"], config["dialect"]) == ("slowly", 1.5, "en-US")
    assert "voice" not in config and config["split_granularity"] == "clause"


@pytest.mark.parametrize(
    "order, says",
    [
        (Order("", Path("out.wav"), "http://127.0.0.1:9", voice=None), "Name the voice"),
        (Order("", Path("out.wav"), "http://127.0.0.1:9", voice="a"), "Is the graph up"),
        (Order("", Path("out.xyz"), "http://127.0.0.1:9", voice="a"), "names no audio format"),
        (Order("", Path("nowhere/out.wav"), "http://127.0.0.1:9", voice="a"), "does not exist"),
        (Order("", Path("out.wav"), "http://127.0.0.1:9", clip=Path("nothing.wav")), "can't be read"),
    ],
)
def test_a_step_that_fails_says_why(order, says):
    with pytest.raises(CliError) as failed:
        follow.run(order, io.BytesIO(b"Hello."))
    assert says in str(failed.value)


def test_there_is_a_text_or_a_stream_of_it_and_not_both(capsys):
    for arguments in (["Hello.", "--follow"], []):
        with pytest.raises(SystemExit):
            cli.main(["say", *arguments, "--voice", "a", "-o", "out.wav"])
        assert "follow" in capsys.readouterr().err
