"""Measure speech for text that is still being written, on a graph of its own: `python -m bench.live`.

A private Ray head runs `cluster/serve.cpu.yaml` with the embedded engine; one client has one session. The figures:

- **first audio**: a clause of five words is sent in one message, its comma and the space behind it last, and no other
  text for now. The time is from there to the first frame of audio, by the client's clock. Every clause is another one.
- **with words**: the same in a session that asks for the times of its words.
- **typed**: texts of four sentences are typed at 20 characters a second, character by character.
- **fast**: other texts come at 80 characters a second, four in a message, as a language model writes its tokens.

A listener plays what comes from the first frame on. A gap is counted where the audio of text that was written came too
late. Where the listener has heard everything that could be spoken so far, the writer is late, and no gap is counted.

The results are in bench/results/live.json. About eight minutes.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from websockets.sync.client import ClientConnection, connect

from bench import results
from bench.measuring import texts
from bench.measuring.load import percentile
from bench.measuring.private_graph import private_graph
from config.routes import LIVE
from speech.incremental import IncrementalSplitter
from speech.sentences import Border

CLAUSES, TEXTS = 60, 8
WORDS = 5
PACES = {"typed": (20.0, 1), "fast": (80.0, 4)}  #: characters a second, and in a message
WARM_UP = 6
BYTES_PER_S = 2 * 24_000
AIM_MS = 350.0


def clause(chance: random.Random) -> str:
    """Return a clause of five words that is complete."""
    words = texts.sentence(chance).rstrip(".").split()[:WORDS]
    return f"{' '.join(words)}, "


def text(chance: random.Random) -> str:
    """Return four sentences with clauses."""
    sentences = []
    for _ in range(4):
        words = texts.sentence(chance).rstrip(".").split()
        half = len(words) // 2
        sentences.append(f"{' '.join(words[:half])}, {' '.join(words[half:])}.")
    return " ".join(sentences)


def send(ws: ClientConnection, kind: str, **fields: Any) -> None:
    """Send a message."""
    ws.send(json.dumps({"type": kind, **fields}))


def configure(ws: ClientConnection, config: Mapping[str, Any]) -> None:
    """Configure the session. Raises RuntimeError if it is refused."""
    send(ws, "session.config", **config)
    if (answer := json.loads(ws.recv(timeout=60)))["type"] != "session.configured":
        raise RuntimeError(answer["message"])


def first_audio(ws: ClientConnection, chance: random.Random, count: int) -> list[tuple[float, float]]:
    """Return for each clause the milliseconds to its first audio: by the client, and as the server says."""
    found = []
    for _ in range(count):
        began = time.monotonic()
        send(ws, "input.text", text=clause(chance))
        first = None
        while first is None:
            message = ws.recv(timeout=60)
            if isinstance(message, bytes) or json.loads(message)["type"] == "audio.chunk":  # with words: inside of JSON
                first = time.monotonic() - began
        send(ws, "input.done")
        while True:
            message = ws.recv(timeout=60)
            if isinstance(message, str) and (event := json.loads(message))["type"] == "session.done":
                break
        found.append((first * 1000, event["first_audio_ms"]))
    return found


@dataclass
class Typed:
    """A text that was typed, as its listener heard it.

    Attributes:
        known: when each piece of text was complete, and the text of it.
        frames: when each frame of audio came, its seconds, and the number of its piece.
    """

    known: list[float] = field(default_factory=list)
    frames: list[tuple[float, float, int]] = field(default_factory=list)

    def first_audio_s(self) -> float:
        """Return the seconds from the first piece's last character to the first audio."""
        return self.frames[0][0] - self.known[0]

    def gaps(self) -> list[tuple[int, float]]:
        """Return the piece before which each gap lies, from 0, and its seconds.

        In a gap a listener waited for audio of text that was there when it ran dry.
        """
        found, dry_at = [], None
        for at, seconds, piece in self.frames:
            if dry_at is not None and at > dry_at:
                waits_from = max(dry_at, self.known[piece])
                if waits_from == dry_at:
                    found.append((piece, at - dry_at))
            dry_at = max(dry_at or at, at) + seconds
        return found

    def waits(self) -> list[float]:
        """Return the seconds from each piece's last character to its audio, where the listener waited for it."""
        found, dry_at = [], None
        for at, seconds, piece in self.frames:
            if dry_at is not None and at > dry_at and self.known[piece] > dry_at:
                found.append(at - self.known[piece])
            dry_at = max(dry_at or at, at) + seconds
        return found


def typed(ws: ClientConnection, written: str, per_s: float, at_once: int = 1) -> Typed:
    """Type a text at so many characters a second, so many of them in a message, and listen."""
    heard, splitter = Typed(), IncrementalSplitter("en", Border.CLAUSE)

    def write() -> None:
        began = time.monotonic()
        for start in range(0, len(written), at_once):
            part = written[start : start + at_once]
            time.sleep(max(0.0, began + start / per_s - time.monotonic()))
            send(ws, "input.text", text=part)
            heard.known += [time.monotonic()] * len(splitter.add(part))
        send(ws, "input.done")
        heard.known += [time.monotonic()] * len(splitter.finish())

    writer = threading.Thread(target=write)
    writer.start()
    piece = 0
    while True:
        message = ws.recv(timeout=60)
        if isinstance(message, bytes):
            heard.frames.append((time.monotonic(), len(message) / BYTES_PER_S, piece))
            continue
        event = json.loads(message)
        if event["type"] == "audio.start":
            piece = event["sentence_index"]
        elif event["type"] == "error":
            raise RuntimeError(event["message"])
        elif event["type"] == "session.done":
            writer.join()
            return heard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clauses", type=int, default=CLAUSES)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--seed", type=int, default=20261129)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    clip = f"data:audio/wav;base64,{base64.b64encode(texts.clip(chance)).decode()}"
    config = {
        "ref_audio": clip,
        "dialect": "en-US",
        "response_format": "pcm",
        "split_granularity": "clause",
        "stream_audio": True,
    }
    with (
        private_graph({}, num_cpus=8) as graph,
        connect(f"ws://127.0.0.1:{graph.port}{LIVE}", proxy=None) as ws,
    ):
        configure(ws, config)
        first_audio(ws, chance, WARM_UP)
        firsts = first_audio(ws, chance, options.clauses)
        configure(ws, {**config, "word_timestamps": True})
        with_words = first_audio(ws, chance, options.clauses // 2)
        configure(ws, config)
        heard = {name: [typed(ws, text(chance), *pace) for _ in range(options.texts)] for name, pace in PACES.items()}
    client, server = ([pair[side] for pair in firsts] for side in (0, 1))
    figures: dict[str, Any] = {
        "clauses": len(firsts),
        "first_audio_p50_ms": round(percentile(client, 50), 1),
        "first_audio_p95_ms": round(percentile(client, 95), 1),
        "server_p50_ms": round(percentile(server, 50), 1),
        "with_words": {
            "clauses": len(with_words),
            "first_audio_p50_ms": round(percentile([ms for ms, _ in with_words], 50), 1),
            "first_audio_p95_ms": round(percentile([ms for ms, _ in with_words], 95), 1),
        },
        "within_aim": round(sum(ms <= AIM_MS for ms in client) / len(client), 4),
    }
    raw: dict[str, Any] = {"first_audio_ms": firsts, "first_audio_with_words_ms": with_words}
    for name, texts_heard in heard.items():
        gaps = [one.gaps() for one in texts_heard]
        every = [gap for of_text in gaps for _, gap in of_text]
        waits = [wait for one in texts_heard for wait in one.waits()]
        firsts_ms = [one.first_audio_s() * 1000 for one in texts_heard]
        figures[name] = {
            "per_s": PACES[name][0],
            "in_a_message": PACES[name][1],
            "texts": len(texts_heard),
            "pieces": sum(len(one.known) for one in texts_heard),
            "first_audio_p50_ms": round(percentile(firsts_ms, 50), 1) if firsts_ms else None,
            "gaps": len(every),
            "gaps_before_piece": sorted(piece + 1 for of_text in gaps for piece, _ in of_text),
            "longest_gap_s": round(max(every, default=0.0), 3),
            "listener_waited_for_the_writer": len(waits),
            "audio_after_the_writer_p95_ms": round(percentile(waits, 95) * 1000, 1) if waits else None,
        }
        raw[name] = {"gaps_s": every, "waits_s": waits}
    results.write("live", figures, raw)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
