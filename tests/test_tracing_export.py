"""Export that survives: spool, retry, circuit, split batches, adoption; and a submit that never waits."""

import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from tracing import Exporter, ExportSettings, Tracer
from tracing import vocabulary as words
from tracing.sender import Counters, Queue, Sender
from tracing.spool import Spool
from tracing.transport import FileTransport, Rejected, Unavailable, join

ROOT = Path(__file__).parents[1]


def trace(number: int, spans: int = 1) -> bytes:
    return json.dumps([{"traceId": f"{number:032x}", "id": f"{i + 1:016x}"} for i in range(spans)]).encode()


def real_trace() -> list[dict]:
    root = Tracer(words.INGRESS).server("POST /api/generate", parent=None)
    stage = Tracer(words.TTS).server(words.GENERATE_MEL, parent=root.carrier(2**62))
    return stage.finish() + root.finish()


class Receiver:
    """A transport whose answers the test chooses. `bad` spans are refused wherever they are found."""

    name = "fake"

    def __init__(self) -> None:
        self.traces: list[bytes] = []
        self.batches: list[int] = []
        self.trouble: Exception | None = None
        self.bad: set[tuple[str, str]] = set()
        self.poison: set[str] = set()
        self.closed = False

    def send(self, traces) -> None:
        self.batches.append(len(traces))
        if self.trouble:
            raise self.trouble
        spans = json.loads(join(traces))
        if any(span["traceId"] in self.poison for span in spans):
            raise Unavailable("HTTP 500", answered=True)
        if any((span["traceId"], span["id"]) in self.bad for span in spans):
            raise Rejected("HTTP 400")
        self.traces += traces

    def close(self) -> None:
        self.closed = True

    def numbers(self) -> list[int]:
        return [int(json.loads(t)[0]["traceId"], 16) for t in self.traces]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sender(store, receiver, clock=None, **settings):
    counters = Counters()
    return Sender([store], receiver, ExportSettings(**settings), counters, clock=clock or Clock(),
                  chance=lambda: 1.0), counters


def settle(step, clock: Clock, until: float = 1e6) -> None:
    """Steps until nothing waits, letting the clock run through the pauses."""
    for _ in range(10_000):
        pause = step()
        if pause == math.inf or clock.now > until:
            return
        clock.now += pause
    raise AssertionError("never came to rest")


def test_batches_are_bounded_and_in_order():
    queue, receiver = Queue(1000), Receiver()
    for n in range(1, 251):
        queue.append(trace(n))
    sending, counters = sender(queue, receiver, batch_traces=100)
    assert [sending.step() for _ in range(4)] == [0, 0, 0, math.inf]
    assert receiver.batches == [100, 100, 50]
    assert receiver.numbers() == list(range(1, 251))
    assert counters.read() == {"sent": 250}


def test_a_dead_receiver_costs_growing_pauses_and_nothing_else(caplog):
    queue, receiver, clock = Queue(1000), Receiver(), Clock()
    for n in range(1, 11):
        queue.append(trace(n))
    sending, counters = sender(queue, receiver, clock, retry_first_s=1, retry_most_s=8)
    receiver.trouble = Unavailable("ConnectError")
    pauses = []
    for _ in range(6):
        pauses.append(sending.step())
        assert sending.step() == pauses[-1], "within the pause nothing is tried"
        clock.now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 8, 8]
    assert receiver.batches == [10, 1, 1, 1, 1, 1], "while it fails, one trace probes"
    receiver.trouble = None
    settle(sending.step, clock)
    assert receiver.numbers() == list(range(1, 11))
    assert counters.read()["retries"] == 6
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == [
        "traces can't be sent", "traces are sent again after 6 failed attempts"]


def test_a_receiver_that_fails_on_and_off_is_in_the_log_once_a_minute(caplog):
    queue, receiver, clock = Queue(1000), Receiver(), Clock()
    sending, _ = sender(queue, receiver, clock, retry_first_s=1)
    for n in range(1, 40):
        queue.append(trace(n))
        receiver.trouble = Unavailable("HTTP 503")
        clock.now += sending.step()
        receiver.trouble = None
        settle(sending.step, clock)
        clock.now += 1
    assert len(receiver.numbers()) == 39 and clock.now > 170
    assert len([r for r in caplog.records if "can't be sent" in r.getMessage()]) == 2


def test_an_outage_that_begins_within_the_quiet_minute_is_said_after_it(caplog):
    queue, receiver, clock = Queue(10), Receiver(), Clock()
    sending, _ = sender(queue, receiver, clock, retry_first_s=1, retry_most_s=8)
    for n in (1, 2):  # fails, recovers, fails for good
        queue.append(trace(n))
        receiver.trouble = Unavailable("HTTP 503")
        clock.now += sending.step()
        if n == 1:
            receiver.trouble = None
            settle(sending.step, clock)
    assert len([r for r in caplog.records if "can't be sent" in r.getMessage()]) == 1
    while clock.now < 170:
        clock.now += sending.step()
    assert len([r for r in caplog.records if "can't be sent" in r.getMessage()]) == 2


def test_pauses_are_jittered_to_between_half_and_all():
    queue, receiver = Queue(10), Receiver()
    queue.append(trace(1))
    receiver.trouble = Unavailable("ConnectError")
    pauses = [Sender([queue], receiver, ExportSettings(retry_first_s=4), Counters(), clock=Clock(),
                     chance=lambda c=c: c).step() for c in (0.0, 0.5, 0.999)]
    assert pauses == [2, 3, pytest.approx(4, abs=0.01)]


@pytest.mark.parametrize("bad_at", [1, 37, 64])
def test_one_bad_span_costs_neither_its_batch_nor_its_trace(bad_at, caplog):
    queue, receiver, clock = Queue(100), Receiver(), Clock()
    for n in range(1, 65):
        queue.append(trace(n, spans=3))
    receiver.bad = {(f"{bad_at:032x}", f"{2:016x}")}
    sending, counters = sender(queue, receiver, clock)
    settle(sending.step, clock)
    arrived = {(s["traceId"], s["id"]) for t in receiver.traces for s in json.loads(t)}
    assert len(arrived) == 64 * 3 - 1 and receiver.bad.isdisjoint(arrived)
    assert counters.read()["dropped_spans_rejected"] == 1
    assert "0" * 16 not in caplog.text, "no ids or bodies in the log"


def test_a_trace_that_makes_the_receiver_fail_is_found_by_its_neighbour():
    queue, receiver, clock = Queue(100), Receiver(), Clock()
    for n in range(1, 21):
        queue.append(trace(n))
    receiver.poison = {f"{5:032x}"}
    sending, counters = sender(queue, receiver, clock)
    settle(sending.step, clock)
    assert sorted(receiver.numbers()) == [n for n in range(1, 21) if n != 5]
    assert counters.read()["dropped_poison"] == 1 and counters.read()["sent"] == 19


@pytest.mark.parametrize("heals_after", range(1, 12))
def test_a_receiver_that_recovers_between_two_attempts_costs_no_trace(heals_after):
    queue, receiver, clock = Queue(100), Receiver(), Clock()
    for n in range(1, 6):
        queue.append(trace(n))
    send = receiver.send

    def fails_at_first(traces):
        receiver.trouble = Unavailable("HTTP 500", answered=True) if len(receiver.batches) < heals_after else None
        send(traces)
    receiver.send = fails_at_first
    sending, counters = sender(queue, receiver, clock)
    settle(sending.step, clock)
    assert sorted(set(receiver.numbers())) == [1, 2, 3, 4, 5] and counters.read().get("dropped_poison", 0) == 0


def test_a_receiver_that_fails_on_everything_loses_nothing():
    queue, receiver, clock = Queue(100), Receiver(), Clock()
    for n in range(1, 21):
        queue.append(trace(n))
    receiver.trouble = Unavailable("HTTP 500", answered=True)
    sending, counters = sender(queue, receiver, clock)
    for _ in range(50):
        clock.now += sending.step()
    assert len(queue) == 20
    receiver.trouble = None
    settle(sending.step, clock)
    assert sorted(receiver.numbers()) == list(range(1, 21))


def test_a_full_queue_drops_the_oldest_also_while_a_batch_is_under_way():
    queue = Queue(3)
    assert [queue.append(trace(n)) for n in range(1, 5)] == [0, 0, 0, 1]
    read = queue.read(2)  # 2 and 3 are being sent …
    queue.append(trace(5))  # … when 2 falls out
    queue.commit(read)
    assert [json.loads(t)[0]["traceId"][-1] for t in queue.read(9).traces] == ["4", "5"]


def test_a_queue_that_overflows_more_than_a_batch_while_it_is_sent():
    queue = Queue(2)
    for n in (1, 2):
        queue.append(trace(n))
    read = queue.read(1)
    for n in (3, 4):
        queue.append(trace(n))
    queue.commit(read)
    assert len(queue) == 2


def drain(spool: Spool, most: int = 100) -> list[bytes]:
    lines = []
    while True:
        read = spool.read(most)
        if not read.traces:
            return lines
        lines += read.traces
        spool.commit(read)


def test_the_spool_gives_back_what_it_was_given_over_many_segments(tmp_path):
    spool = Spool(tmp_path, 2**20, segment_bytes=300)
    given = [trace(n) for n in range(50)]
    for line in given:
        spool.append(line)
    assert len(list(tmp_path.glob("*.spool"))) > 5 and len(spool) == 50
    assert drain(spool, 3) == given and len(spool) == 0
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_the_spool_is_private(tmp_path):
    spool = Spool(tmp_path / "new", 2**20)
    spool.append(trace(1))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert next((tmp_path / "new").glob("*.spool")).stat().st_mode & 0o777 == 0o600


def test_a_full_spool_drops_its_oldest_and_says_how_many(tmp_path):
    spool = Spool(tmp_path, 2000, segment_bytes=500)
    lost = sum(spool.append(trace(n)) for n in range(100))
    left = [int(json.loads(line)[0]["traceId"], 16) for line in drain(spool)]
    assert lost + len(left) == 100 and left == list(range(lost, 100)) and len(left) > 10
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 2000


def test_a_segment_dropped_while_its_traces_are_sent_does_no_harm(tmp_path):
    spool = Spool(tmp_path, 1000, segment_bytes=250)
    for n in range(3):
        spool.append(trace(n))
    read = spool.read(1)
    for n in range(3, 60):
        spool.append(trace(n))
    before = len(spool)
    spool.commit(read)
    assert len(spool) == before == len(drain(spool))


def test_a_living_owner_is_left_alone_and_a_closed_one_adopted(tmp_path):
    first, second = Spool(tmp_path, 2**20, 300), Spool(tmp_path, 2**20, 300)
    for n in range(10):
        first.append(trace(n))
    read = first.read(4)
    first.commit(read)
    assert second.adopt() == 0 and len(second) == 0
    first.close()
    second.append(trace(99))
    assert second.adopt() == 10 - len(read.traces)
    assert second.adopt() == 0
    found = [int(json.loads(line)[0]["traceId"], 16) for line in drain(second)]
    assert sorted(found) == [*range(len(read.traces), 10), 99]
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_many_adopters_share_one_dead_spool_without_doubling_it(tmp_path):
    dead = Spool(tmp_path, 2**20, 300)
    for n in range(200):
        dead.append(trace(n))
    dead.close()
    heirs = [Spool(tmp_path, 2**20) for _ in range(6)]
    threads = [threading.Thread(target=heir.adopt) for heir in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(line for heir in heirs for line in drain(heir))
    assert found == sorted(trace(n) for n in range(200))


def test_segments_whose_lock_was_deleted_are_adopted_by_one_only(tmp_path):
    dead = Spool(tmp_path, 2**20, 300)
    for n in range(100):
        dead.append(trace(n))
    dead.close()
    next(tmp_path.glob("*.lock")).unlink()
    heirs = [Spool(tmp_path, 2**20) for _ in range(4)]
    threads = [threading.Thread(target=heir.adopt) for heir in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line for heir in heirs for line in drain(heir)) == sorted(trace(n) for n in range(100))


def test_a_closed_spool_takes_nothing_more(tmp_path):
    spool = Spool(tmp_path, 2**20)
    spool.append(trace(1))
    spool.close()
    with pytest.raises(OSError, match="closed"):
        spool.append(trace(2))
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 1


def test_half_a_line_of_a_killed_writer_is_cut_off(tmp_path):
    dead = Spool(tmp_path, 2**20)
    dead.append(trace(1))
    dead.close()
    with open(next(tmp_path.glob("*.spool")), "ab") as file:
        file.write(trace(2)[:30])
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 1
    assert drain(heir) == [trace(1)]


def test_a_damaged_mark_means_sending_again_not_losing(tmp_path):
    dead = Spool(tmp_path, 2**20)
    for n in range(3):
        dead.append(trace(n))
    dead.commit(dead.read(1))
    dead.close()
    next(tmp_path.glob("*.sent")).write_text("")
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 3


def test_a_spool_file_deleted_by_somebody_costs_only_itself(tmp_path):
    spool, receiver, clock = Spool(tmp_path, 2**20, 300), Receiver(), Clock()
    for n in range(30):
        spool.append(trace(n))
    sorted(tmp_path.glob("*.spool"))[0].unlink()
    sending, counters = sender(spool, receiver, clock)
    settle(sending.step, clock)
    assert counters.read()["dropped_spool_damaged"] == 1
    assert receiver.numbers()[-1] == 29 and len(receiver.numbers()) > 20


def wait_for(condition, timeout_s: float = 10.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def test_a_process_killed_right_after_submit_loses_nothing(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tracing import Exporter, ExportSettings, Tracer\n"
        "exporter = Exporter(ExportSettings(zipkin_url='http://127.0.0.1:1', spool_dir=Path(sys.argv[1])))\n"
        "for i in range(1, 21):\n"
        "    span = Tracer('tts-service').server('GENERATE_MEL', parent=None, trace_id=f'{i:032x}')\n"
        "    exporter.submit(span.finish())\n"
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
    exporter = Exporter(ExportSettings(spool_dir=tmp_path, linger_s=0, retry_first_s=60, retry_most_s=60),
                        transport=receiver)
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


def test_a_refusing_disk_falls_back_to_memory(tmp_path, monkeypatch):
    receiver = Receiver()
    receiver.trouble = Unavailable("ConnectError")
    exporter = Exporter(ExportSettings(spool_dir=tmp_path, queue_limit=3), transport=receiver)

    def refuse(line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter._spool, "append", refuse)
    for _ in range(5):
        exporter.submit(real_trace())
    counts = exporter.counters()
    assert counts["spool_refused"] == 5 and counts["waiting"] == 3
    assert counts["dropped_queue_full"] == counts["dropped"] == 2
    receiver.trouble = None
    exporter.close(5)
    assert len(receiver.traces) == 3


def test_a_full_disk_leaves_no_half_line(tmp_path):
    limited = ("import resource, signal, sys\n"
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
               "print(refused, len(spool))\n")
    out = subprocess.run([sys.executable, "-c", limited, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                         check=True, timeout=60).stdout
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
    assert b"canary7secret" not in on_disk and words.GENERATE_MEL.encode() in on_disk
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


@pytest.mark.parametrize("wrong, says", [
    ({"zipkin_url": "localhost:9411"}, "must begin with http"),
    ({"zipkin_url": "http://localhost:9411/api/v2/spans"}, "without /api/v2/spans"),
    ({"zipkin": "http://localhost:9411"}, "Extra inputs"),
    ({"queue_limit": 0}, "greater than or equal to 1"),
])
def test_wrong_settings_say_what_is_wrong(wrong, says):
    with pytest.raises(ValidationError, match=says):
        ExportSettings(**wrong)


def test_nothing_is_inherited_by_a_child_process(tmp_path):
    """A child that outlives the ingress must not keep its spool locked."""
    exporter = Exporter(ExportSettings(spool_dir=tmp_path), transport=Receiver())
    exporter._spool.append(trace(1))
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        open_there = {os.readlink(f) for f in Path(f"/proc/{child.pid}/fd").iterdir()}
        assert not any(str(tmp_path) in target for target in open_there)
    finally:
        child.communicate(timeout=10)
        exporter.close(1)
