"""The DAG by itself: which stage gets what, in which order, and that the file stays a picture."""

import asyncio
from pathlib import Path

import graph
from speech.utterance import Utterance

UTTERANCE = Utterance("Hello", "en-US")


class Client:
    """In a stage client's place: writes down what it was called with."""

    def __init__(self, name: str, calls: list) -> None:
        self.name, self.calls = name, calls

    def __getattr__(self, method: str):
        async def call(*args):
            self.calls.append((method, *args[:-1]))
            return f"{self.name}'s result"

        return call


def test_each_stage_gets_the_result_of_the_one_before():
    calls: list = []
    dag = graph.Graph(None, None, None, None)
    for name in ("audio", "embedding", "tts", "vocoder"):
        setattr(dag, name, Client(name, calls))

    async def scenario():
        clip, voice = await dag.speaker(b"clip", "what it says", None)
        return clip, await dag.speech(UTTERANCE, voice, None)

    assert asyncio.run(scenario()) == ("audio's result", "vocoder's result")
    assert calls == [
        ("preprocess", b"clip", "what it says"),
        ("extract", "audio's result", False),
        ("generate", UTTERANCE, "embedding's result"),
        ("vocode", "tts's result"),
    ]


def test_the_file_is_short_and_names_the_stages_in_order():
    text = Path(graph.__file__).read_text()
    assert len(text.splitlines()) < 115
    places = [text.index(stage) for stage in ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")]
    assert places == sorted(places)
