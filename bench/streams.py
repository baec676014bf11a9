"""Measure how many listeners can have a stream at once without a gap: `python -m bench.streams`.

A private Ray head runs `cluster/serve.cpu.yaml`, once with the embedded engine and once with the simulated one set up
as a GPU (GPU): a batch of eight takes little longer than one member, and a longer text makes longer speech. A level is
a number of listeners. Each sends a request for a stream, plays what comes from its first byte on, and asks for the next
one when it has heard the end. Texts are two to four sentences, none like another. So are clips. No voice is cached.

A stream is continuous if its audio never came too late for its listener. The client measures that by itself, with
`deployments/ingress/continuity.py` on the bytes that arrive, and compares it with the server's traces. A level is held
if 95 % or more of its streams were continuous. Levels go up until one is not held.

`--rule off` sets `limits.first_audio_hold_s` to 0: pieces then go through the graph in the order of their requests, and
a stream is heard as soon as it can be. The results are in bench/results/streams.json, with the figures of earlier runs
for what a run leaves out, and drawn in docs/streams_embedded.svg and docs/streams_simulated.svg. Five minutes for each
engine and rule.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench import results
from bench.measuring import plot, texts
from bench.measuring.load import multipart, percentile
from bench.measuring.plot import Line, Panel
from bench.measuring.private_graph import PrivateGraph, private_graph
from cluster.doctor.figures import wilson
from cluster.ray_head import ROOT
from deployments.ingress.continuity import Continuity
from tracing import vocabulary

ENGINES = ("embedded", "simulated")
RULES = {"on": 1.0, "off": 0.0}  #: `limits.first_audio_hold_s`
LEVELS = {"embedded": (1, 2, 3, 4, 6, 8), "simulated": (8, 16, 24, 32, 40, 48)}
LEVEL_S = {"embedded": 60.0, "simulated": 40.0}
HELD = 0.95
GPU = {
    "prepare_ms": 5,
    "encode_ms": 10,
    "generate_ms": 100,
    "character_ms": 4,
    "vocode_ms": 20,
    "batch_slope": 0.2,
    "seconds": 5,
    "character_s": 0.06,
}
GPU_BATCHES = {"max_batch_size": 8, "batch_wait_ms": 50}
SENTENCES, LONGEST = (2, 4), 90
BYTES_PER_S = 2 * 24_000  #: of pcm, from both engines
WARM_UP_S = 8.0  #: at the lowest level, before the first one
ROUNDING_MS = 20.0  #: by which the client's and the server's figures of a stream may differ and still agree


@dataclass(frozen=True)
class Heard:
    """One stream as its listener heard it."""

    trace_id: str
    first_audio_s: float
    seconds: float
    underrun_s: float
    continuous: bool


class Requests(Protocol):
    """Whatever makes requests for streams."""

    def request(self, host: str) -> bytes: ...


class Texts:
    """Random texts and clips; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def request(self, host: str) -> bytes:
        """Return a request for a stream of a new text in a new voice."""
        count = self._chance.randint(*SENTENCES)
        text = " ".join(texts.text(self._chance, longest=LONGEST).capitalize() for _ in range(count))
        fields = {
            "text": text,
            "dialect": "en-US",
            "long_form": "true",
            "stream_format": "audio",
            "response_format": "pcm",
        }
        return multipart(host, fields, texts.clip(self._chance))


async def hear(port: int, request: bytes, to_end: bool = True) -> Heard:
    """Ask for a stream and play it to its end, in real time, or only until all of it is here.

    Raises:
        RuntimeError: The answer is not 200.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        sent = time.monotonic()
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if head[0].split()[1] != "200":
            raise RuntimeError(f"a stream was refused: {head[0]}")
        continuity, first = Continuity(), 0.0
        while size := int((await reader.readline()).strip() or b"0", 16):
            await reader.readexactly(size)
            await reader.readline()
            first = first or time.monotonic()
            with continuity.sending(size / BYTES_PER_S):
                pass
        if to_end:
            await asyncio.sleep(continuity.margin_s)
    finally:
        writer.close()
    return Heard(
        headers.get("x-trace-id", ""), first - sent, continuity.seconds, continuity.underrun_s, continuity.continuous
    )


async def listen(port: int, listeners: int, seconds: float, source: Requests) -> list[Heard]:
    """Let so many listeners hear streams, one after the other each, for so long; they begin at different moments."""
    end = time.monotonic() + seconds
    heard: list[Heard] = []

    async def listener(number: int) -> None:
        await asyncio.sleep(number * min(5.0, seconds / 4) / listeners)
        while time.monotonic() < end:
            heard.append(await hear(port, source.request(f"127.0.0.1:{port}")))

    await asyncio.gather(*(listener(number) for number in range(listeners)))
    return heard


def row(listeners: int, heard: Sequence[Heard], told: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Sum up a level.

    Args:
        listeners: the level's.
        heard: its streams.
        told: the tags of their root spans, by trace id.
    """
    good = sum(one.continuous for one in heard)
    tags = [(one, told[one.trace_id]) for one in heard if one.trace_id in told]
    agree = sum(
        abs(one.underrun_s * 1000 - float(tag[vocabulary.STREAM_UNDERRUN_MS])) <= ROUNDING_MS for one, tag in tags
    )
    low, high = wilson(good, len(heard))
    firsts = [one.first_audio_s for one in heard]
    return {
        "listeners": listeners,
        "streams": len(heard),
        "continuous": round(good / len(heard), 4),
        "interval": [round(low, 3), round(high, 3)],
        "first_audio_p50_s": round(percentile(firsts, 50), 3),
        "first_audio_p95_s": round(percentile(firsts, 95), 3),
        "underrun_p95_s": round(percentile([one.underrun_s for one in heard], 95), 3),
        "speech_s": round(sum(one.seconds for one in heard), 1),
        "held_back": sum(vocabulary.STREAM_HOLD_MS in tag for _, tag in tags),
        "server_agrees": round(agree / len(tags), 4) if tags else None,
    }


def roots(graph: PrivateGraph) -> dict[str, dict[str, str]]:
    """Return the tags of all streams' root spans so far, by trace id."""
    found = {}
    for line in graph.spans.read_text().splitlines() if graph.spans.exists() else ():
        made = json.loads(line)
        for span in made if isinstance(made, list) else [made]:
            if vocabulary.STREAM_UNDERRUN_MS in (span.get("tags") or {}):
                found[span["traceId"]] = span["tags"]
    return found


def settings(engine: str, rule: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the application's arguments and the deployments' changes for an engine and a rule."""
    args: dict[str, Any] = {"engine": engine, "limits": {"first_audio_hold_s": RULES[rule]}}
    if engine == "embedded":
        return args, {}
    return args | {"engine_options": GPU}, {
        name: {"user_config": GPU_BATCHES} for name in ("embedding-service", "tts-service", "vocoder-service")
    }


def measure(engine: str, rule: str, levels: Sequence[int], seed: int, level_s: float) -> list[dict[str, Any]]:
    """Measure levels upwards until one is not held; that one is the last."""
    args, deployments = settings(engine, rule)
    rows: list[dict[str, Any]] = []
    with private_graph(args, num_cpus=8, deployments=deployments) as graph:
        asyncio.run(listen(graph.port, levels[0], WARM_UP_S, Texts(seed - 1)))
        for listeners in levels:
            heard = asyncio.run(listen(graph.port, listeners, level_s, Texts(seed + listeners)))
            time.sleep(1.0)  # the last traces are on their way to the file
            rows.append(row(listeners, heard, roots(graph)))
            print(engine, rule, rows[-1], flush=True)
            if rows[-1]["continuous"] < HELD:
                break
    return rows


def highest(rows: Sequence[dict[str, Any]]) -> int:
    """Return the highest level that was held; 0 if none was.

    >>> highest([{"listeners": 2, "continuous": 0.99}, {"listeners": 4, "continuous": 0.8}])
    2
    """
    return max((one["listeners"] for one in rows if one["continuous"] >= HELD), default=0)


def table(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Return the table of docs/streams.md."""
    lines = [
        "| engine | rule | listeners | streams | without a gap (95 % interval) | first audio p50, p95 | "
        "gaps of a stream, p95 |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine, rules in found.items():
        for rule, rows in rules.items():
            lines += [
                f"| {engine} | {rule} | {one['listeners']} | {one['streams']} | {one['continuous']:.0%} "
                f"({one['interval'][0]:.0%} to {one['interval'][1]:.0%}) | {one['first_audio_p50_s']:.2f}, "
                f"{one['first_audio_p95_s']:.2f} s | {one['underrun_p95_s']:.2f} s |"
                for one in rows
            ]
    return "\n".join(lines)


def figure(engine: str, rules: dict[str, list[dict[str, Any]]]) -> str:
    """Return an engine's figure of docs/streams.md as SVG."""
    most = max(one["listeners"] for rows in rules.values() for one in rows)
    names = {"on": "with the rule", "off": "without it"}
    share = [Line(f"{HELD:.0%}", [(0, 100 * HELD), (most, 100 * HELD)], plot.GREY, dashed=True)]
    first = []
    for place, (rule, rows) in enumerate(rules.items()):
        share.append(
            Line(names[rule], [(one["listeners"], 100 * one["continuous"]) for one in rows], plot.COLOURS[place])
        )
        for middle, key in (("p50", "first_audio_p50_s"), ("p95", "first_audio_p95_s")):
            points = [(one["listeners"], one[key]) for one in rows]
            first.append(
                Line(f"{middle}, {names[rule]}", points, plot.COLOURS[2 * place + (middle == "p95")], middle == "p50")
            )
    said = ", ".join(f"{names[rule]}: {highest(rows)}" for rule, rows in rules.items())
    return plot.svg(
        f"{engine}: listeners at once with 95 % of the streams without a gap, {said}",
        [
            Panel(f"{engine}: streams without a gap", "listeners at once", "%", share, top=105),
            Panel("First audio", "listeners at once", "s", first),
        ],
    )


def keep(found: dict[str, Any], seed: int) -> None:
    """Write the results and the figures."""
    results.write("streams", {"gpu": GPU, "seed": seed, "held": HELD, "rows": found})
    for engine, rules in found.items():
        (ROOT / "docs" / f"streams_{engine}.svg").write_text(figure(engine, rules))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=ENGINES)
    parser.add_argument("--rule", choices=RULES, help="measure only this one")
    parser.add_argument("--levels", nargs="*", type=int, help="numbers of listeners")
    parser.add_argument("--seconds", type=float, help="length of a level")
    parser.add_argument("--seed", type=int, default=20261129, help="of texts and clips")
    options = parser.parse_args()
    file = results.FOLDER / "streams.json"
    found: dict[str, Any] = json.loads(file.read_text())["rows"] if file.exists() else {}
    for engine in options.engines:
        for rule in [options.rule] if options.rule else RULES:
            rows = measure(
                engine, rule, options.levels or LEVELS[engine], options.seed, options.seconds or LEVEL_S[engine]
            )
            found[engine] = {**found.get(engine, {}), rule: rows}
            found[engine] = {name: found[engine][name] for name in RULES if name in found[engine]}
            keep(found, options.seed)  # at once: the next one takes minutes
    print(table(found))
    for engine, rules in found.items():
        print(engine, {rule: highest(rows) for rule, rows in rules.items()})


if __name__ == "__main__":
    main()
