"""The exporter: a submit that never waits, a process that is killed, a disk that refuses, what close leaves behind."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.helpers.export import Receiver, drain, real_trace, trace, wait_for
from tracing import Exporter, ExportSettings, vocabulary
from tracing.spool import Spool
from tracing.storage_checked_transport import StorageCheckedTransport
from tracing.transport import FileTransport, Unavailable

ROOT = Path(__file__).parents[2]


def test_a_process_killed_right_after_submit_loses_nothing(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tracing import Exporter, ExportSettings, Tracer, encode\n"
        "exporter = Exporter(ExportSettings(zipkin_url='http://127.0.0.1:1', spool_dir=Path(sys.argv[1])))\n"
        "for i in range(1, 21):\n"
        "    span = Tracer('tts-service').server('GENERATE_MEL', parent=None, trace_id=f'{i:032x}')\n"
        "    exporter.submit(encode(span.end()))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, timeout=60)
    assert killed.returncode == -9
    receiver = Receiver()
    heir = Exporter(ExportSettings(spool_dir=tmp_path), transport=receiver)
    wait_for(lambda: len(receiver.traces) >= 20)
    heir.close(5)
    assert sorted(receiver.numbers()) == list(range(1, 21))
    assert heir.counters()["adopted"] == 20
    assert list(tmp_path.iterdir()) == []


class SlowReceiver(Receiver):
    def send(self, traces) -> None:
        time.sleep(0.5)
        super().send(traces)


@pytest.mark.parametrize("receiver", [Receiver(), SlowReceiver()], ids=["down", "slow"])
def test_submit_never_waits_for_the_receiver(tmp_path, receiver):
    receiver.trouble = Unavailable("ConnectError") if type(receiver) is Receiver else None
    exporter = Exporter(ExportSettings(spool_dir=tmp_path, linger_s=0), transport=receiver)
    spans = real_trace()
    begin = time.perf_counter()
    for _ in range(200):
        exporter.submit(spans)
    took = time.perf_counter() - begin
    exporter.close(0.01)
    assert took < 0.4, f"200 traces took {took:.3f} s beside a receiver that is no help"


def test_close_sends_what_waits_even_within_a_pause(tmp_path):
    receiver = Receiver()
    receiver.trouble = Unavailable("ConnectError")
    exporter = Exporter(
        ExportSettings(spool_dir=tmp_path, linger_s=0, retry_first_s=60, retry_most_s=60), transport=receiver
    )
    exporter.submit(real_trace())
    wait_for(lambda: exporter.counters()["retries"] == 1)
    receiver.trouble = None
    exporter.close(5)
    assert len(receiver.traces) == 1 and receiver.closed
    assert list(tmp_path.iterdir()) == []
    exporter.submit(real_trace())
    assert exporter.counters()["dropped_closed"] == 1


def test_what_close_cannot_send_stays_for_the_next(tmp_path):
    receiver = Receiver()
    receiver.trouble = Unavailable("ConnectError")
    exporter = Exporter(ExportSettings(spool_dir=tmp_path), transport=receiver)
    exporter.submit(real_trace())
    exporter.close(2)
    assert len(list(tmp_path.glob("*.spool"))) == 1
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 1


def test_what_waits_in_memory_goes_to_the_spool_at_the_end_or_is_counted_as_lost(tmp_path, monkeypatch, caplog):
    def refuse(line):
        raise OSError(28, "No space left on device")

    for folder, lost in ((tmp_path, 0), (None, 3)):
        receiver = Receiver()
        receiver.trouble = Unavailable("ConnectError")
        exporter = Exporter(ExportSettings(spool_dir=folder), transport=receiver)
        [destination] = exporter._destinations
        with monkeypatch.context() as patch:
            if destination._spool is not None:
                patch.setattr(destination._spool, "append", refuse)
            for _ in range(3):
                exporter.submit(real_trace())
        exporter.close(0.5)
        counts = exporter.counters()
        assert counts.get("dropped_closed", 0) == counts["dropped"] == lost
        assert ("3 traces that waited in memory" in caplog.text) == bool(lost)
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 3
    heir.close()


def test_what_a_receiver_took_before_it_hung_is_not_forgotten_by_close(tmp_path):
    class Hanging(Receiver):
        def __init__(self) -> None:
            super().__init__()
            self.entered, self.end = threading.Event(), threading.Event()

        def send(self, traces) -> None:
            if self.traces:
                self.entered.set()
                self.end.wait(20)
            super().send(traces)

    receiver = Hanging()
    exporter = Exporter(
        ExportSettings(spool_dir=tmp_path, linger_s=0),
        transport=StorageCheckedTransport(receiver, "http://127.0.0.1:1", 1),
    )
    exporter.submit(real_trace())
    wait_for(lambda: exporter.counters()["sent"] == 1)
    exporter.submit(real_trace())
    assert receiver.entered.wait(5)
    exporter.close(0.1)
    assert exporter.counters()["returned"] == 1
    receiver.end.set()
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 2
    heir.close()


def test_a_refusing_disk_falls_back_to_memory(tmp_path, monkeypatch):
    receiver = Receiver()
    receiver.trouble = Unavailable("ConnectError")
    exporter = Exporter(ExportSettings(spool_dir=tmp_path, queue_limit=3), transport=receiver)

    def refuse(line):
        raise OSError(28, "No space left on device")

    [destination] = exporter._destinations
    monkeypatch.setattr(destination._spool, "append", refuse)
    for _ in range(5):
        exporter.submit(real_trace())
    counts = exporter.counters()
    assert counts["spool_refused"] == 5 and counts["waiting"] == 3
    assert counts["dropped_queue_full"] == counts["dropped"] == 2
    receiver.trouble = None
    exporter.close(5)
    assert len(receiver.traces) == 3


def test_a_full_disk_leaves_no_half_line(tmp_path):
    limited = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from tracing.spool import Spool\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "spool = Spool(Path(sys.argv[1]), 2**20)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "refused = 0\n"
        "for n in range(100):\n"
        "    try:\n"
        "        spool.append(b'x' * 90)\n"
        "    except OSError:\n"
        "        refused += 1\n"
        "print(refused, len(spool))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert out.split() == ["90", "10"]
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 10 and drain(heir) == [b"x" * 90] * 10


def test_an_unusable_spool_folder_is_said_once_and_memory_serves(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    receiver = Receiver()
    exporter = Exporter(ExportSettings(spool_dir=tmp_path / "file" / "spool"), transport=receiver)
    exporter.submit(real_trace())
    exporter.close(5)
    assert len(receiver.traces) == 1
    assert "spool folder can't be used (Not a directory)" in caplog.text


def test_without_a_destination_traces_are_counted_and_forgotten():
    exporter = Exporter(ExportSettings())
    exporter.submit(real_trace())
    assert exporter.counters()["dropped_no_destination"] == 1
    exporter.close()


def test_redaction_comes_before_the_disk(tmp_path):
    receiver = Receiver()
    receiver.trouble = Unavailable("ConnectError")
    exporter = Exporter(ExportSettings(spool_dir=tmp_path), transport=receiver)
    spans = real_trace()
    spans[0]["tags"] = {"text": "canary7secret", "error": "canary7secret"}
    exporter.submit(spans)
    wait_for(lambda: exporter.counters()["retries"] >= 1)
    exporter.close(1)
    on_disk = b"".join(f.read_bytes() for f in tmp_path.iterdir())
    assert b"canary7secret" not in on_disk and vocabulary.GENERATE_MEL.encode() in on_disk
    assert exporter.counters()["redacted"] == 2


def test_garbage_given_to_submit_raises_nothing(tmp_path):
    exporter = Exporter(ExportSettings(spool_dir=tmp_path), transport=Receiver())
    exporter.submit([])
    exporter.submit([{"x": object()}, None])
    assert exporter.counters()["dropped_empty"] == 2
    exporter.close(1)


def test_a_defect_in_a_transport_does_not_end_export(tmp_path, caplog):
    receiver = Receiver()
    receiver.trouble = KeyError("canary7secret")
    exporter = Exporter(ExportSettings(spool_dir=tmp_path, linger_s=0, retry_most_s=0.01), transport=receiver)
    exporter.submit(real_trace())
    wait_for(lambda: exporter.counters().get("export_defects", 0) >= 2)
    receiver.trouble = None
    wait_for(lambda: receiver.traces)
    exporter.close(1)
    assert "KeyError" in caplog.text and "canary7secret" not in caplog.text


def test_spans_go_to_a_file_that_zipkin_would_take(tmp_path):
    path = tmp_path / "deep" / "spans.jsonl"
    first, second = (Exporter(ExportSettings(file=path, spool_dir=tmp_path / "spool")) for _ in range(2))
    for exporter in (first, second):
        exporter.submit(real_trace())
        exporter.close(5)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [len(line) for line in lines] == [2, 2]


def test_the_file_is_rotated(tmp_path):
    transport = FileTransport(tmp_path / "spans.jsonl", limit_bytes=100)
    for n in range(5):
        transport.send([trace(n)])
    assert (tmp_path / "spans.jsonl.1").exists()
    assert (tmp_path / "spans.jsonl").stat().st_size < 300


def test_two_processes_that_find_the_file_full_rename_it_once(tmp_path, monkeypatch):
    path = tmp_path / "spans.jsonl"
    one, other = (FileTransport(path, limit_bytes=100) for _ in range(2))
    full = b"".join(trace(n) + b"\n" for n in range(3))
    path.write_bytes(full)
    beside = threading.Thread(target=other.send, args=([trace(8)],))
    rename = os.replace

    def slowly(*names):
        if not beside.ident:  # the first of them is about to rename it: the other one comes now
            beside.start()
            beside.join(0.3)
        rename(*names)

    monkeypatch.setattr(os, "replace", slowly)
    one.send([trace(9)])
    beside.join()
    assert (tmp_path / "spans.jsonl.1").read_bytes() == full
    assert sorted(path.read_bytes().splitlines()) == sorted([trace(8), trace(9)])


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"zipkin_url": "localhost:9411"}, "must begin with http"),
        ({"zipkin_url": "http://localhost:9411/api/v2/spans"}, "without /api/v2/spans"),
        ({"zipkin": "http://localhost:9411"}, "did you mean"),
        ({"queue_limit": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_say_what_is_wrong(wrong, says):
    with pytest.raises(ValidationError, match=says):
        ExportSettings(**wrong)


def test_nothing_is_inherited_by_a_child_process(tmp_path):
    """A child that outlives the ingress must not keep its spool locked."""
    exporter = Exporter(ExportSettings(spool_dir=tmp_path), transport=Receiver())
    [destination] = exporter._destinations
    destination._spool.append(trace(1))
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        open_there = {os.readlink(f) for f in Path(f"/proc/{child.pid}/fd").iterdir()}
        assert not any(str(tmp_path) in target for target in open_there)
    finally:
        child.communicate(timeout=10)
        exporter.close(1)
