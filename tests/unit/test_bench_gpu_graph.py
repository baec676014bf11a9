"""`python -m bench.gpu.graph`: what it asks for, how it sums up, and how it sets up the graph."""

import io

import soundfile

from bench.gpu import graph
from bench.measuring.load import Sample
from bench.streams import Heard
from cluster.application import Application

S = 10**9  #: nanoseconds


def parts(request: bytes) -> tuple[str, float]:
    """The text and the clip's seconds of a request."""
    text = request.split(b'name="text"\r\n\r\n')[1].split(b"\r\n")[0].decode()
    clip = request.split(b"audio/wav\r\n\r\n")[1].rsplit(b"\r\n--", 1)[0].removesuffix(b"\r\n")
    return text, soundfile.info(io.BytesIO(clip)).duration


def test_each_request_has_a_text_and_a_clip_of_another_length():
    source = graph.Requests(1)
    asked = [parts(source.request("127.0.0.1:8000")) for _ in range(12)]
    assert all(70 <= len(text) <= 121 and 7.9 <= seconds <= 12.1 for text, seconds in asked)
    assert len({text for text, _ in asked}) == len({seconds for _, seconds in asked}) == 12
    assert [parts(request) for request in map(graph.Requests(1).request, ["127.0.0.1:8000"])] == asked[:1]


def test_known_voices_come_again_and_streams_say_so():
    source = graph.Requests(2, voices=3, stream=True)
    asked = [source.request("h") for _ in range(12)]
    voices = [parts(request)[1] for request in source.of_each_voice("h")]
    assert len(voices) == 3 and {parts(request)[1] for request in asked} <= set(voices)
    assert 3 < len({parts(request)[0] for request in asked})
    assert all(b'name="stream_format"\r\n\r\naudio' in request for request in asked)
    assert b"stream_format" not in graph.Requests(2).request("h")


def test_a_level_is_timed_from_its_first_answer_and_failures_are_named():
    samples = [Sample(200, "", 0, at * S, 44 + 48_000 * 10) for at in (1, 2, 3)] + [Sample(503, "", 0, S, 90)]
    row = graph.row_of_files(4, samples, [])
    assert row["requests"] == 4 and row["failed"] == [503]
    assert row["req_s"] == 1.0 and row["speech_s_per_s"] == 10.0 and row["p50_ms"] == 2000.0 and row["rtf"] == 0.2
    assert graph.row_of_files(1, [Sample(500, "", 0, S, 9)], []) == {"clients": 1, "requests": 1, "failed": [500]}


def test_streams_are_summed_up():
    heard = [Heard("", 0.1, 8.0, 0.0, True), Heard("", 0.3, 10.0, 0.05, False)]
    row = graph.row_of_streams(2, heard)
    assert row == {
        "listeners": 2, "streams": 2, "first_p50_ms": 100.0, "first_p95_ms": 300.0, "no_gap": 0.5,
        "gaps_p95_ms": 50.0, "speech_s": 9.0,
    }  # fmt: skip


def test_what_is_laid_over_the_config_fits_it(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["bench.gpu.graph", "--tiny", "--device", "cpu", "--out", str(tmp_path / "a.json")])
    options = graph._options()
    assert options.budget > 0
    graph.write_checkpoint(tmp_path / "model", tiny=True)
    application = Application.read(graph.CONFIG, 8000, graph.settings(tmp_path / "model", options))
    application.check_engine()
    args = application.config["applications"][0]["args"]
    assert args["tts"] == {"device": "cpu", "threads": 1} and args["engine_options"]["lm_rows"] == 8


def test_the_multi_process_service_is_started_and_ended_only_if_it_is_wanted(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(graph.subprocess, "run", lambda command, **more: called.append((command, more.get("input"))))
    with graph.multi_process_service(tmp_path, False):
        assert called == []
    with graph.multi_process_service(tmp_path, True):
        assert called == [(["nvidia-cuda-mps-control", "-d"], None)]
        assert graph.os.environ["CUDA_MPS_PIPE_DIRECTORY"] == str(tmp_path / "mps")
    assert called[1] == (["nvidia-cuda-mps-control"], "quit\n")
    assert "CUDA_MPS_PIPE_DIRECTORY" not in graph.os.environ
