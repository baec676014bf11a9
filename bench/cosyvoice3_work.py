"""Does the work that `bench.cosyvoice3` measures, with the engine's schedulers and networks in this process alone.

Random weights end at random, so every request has a fixed number of tokens: its sampler picks no control token before
that many, and its row ends with them. 250 tokens are 10 s of audio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from engines.cosyvoice3 import flow, hift, noise, speech_lm
from engines.cosyvoice3.chunks import ChunkPlan
from engines.cosyvoice3.decoder import Decoder, Job, Row
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.flow import FlowRow
from engines.cosyvoice3.flow_batches import FlowBatcher, Limits, batches
from engines.cosyvoice3.sampling import Sampler

TOKENS_PER_SECOND, SAMPLE_RATE = 25, 24_000
TEXT_TOKENS = 60  #: tokens of transcript, prefix and text together, about those of 10 s of Mandarin


@dataclass(frozen=True)
class Size:
    """The sizes of a request."""

    tokens: int  #: speech tokens that it says
    prompt: int  #: speech tokens of its reference clip

    @property
    def seconds(self) -> float:
        return self.tokens / TOKENS_PER_SECOND


class Networks:
    """A checkpoint's three networks on one device, and requests for them.

    Args:
        dtype: of language model and flow; the vocoder is float32.
    """

    def __init__(self, directory: ModelDirectory, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype, self.numbers = device, dtype, directory.numbers
        self.lm = speech_lm.load(directory, device, dtype)
        self.flow = flow.load(directory, device, dtype)
        self.hift = hift.load(directory, device)
        self.excitation = noise.Excitation(directory.numbers)

    def job(self, size: Size, seed: int) -> Job:
        """Make a request of a fixed length: control tokens are not picked before its end, and there it ends."""
        random = np.random.default_rng(seed)
        sampler = Sampler(self.numbers.llm.sampling, self.lm.speech_tokens, seed, least=size.tokens)
        return Job(
            random.integers(0, 250, TEXT_TOKENS).tolist(),
            self._sounds(random, size.prompt).tolist(),
            sampler,
            most=size.tokens,
        )

    def row(self, tokens: list[int], size: Size, seed: int) -> FlowRow:
        random = np.random.default_rng(seed)
        return FlowRow(
            torch.tensor(tokens),
            torch.from_numpy(self._sounds(random, size.prompt)),
            torch.from_numpy(random.standard_normal((2 * size.prompt, 80)).astype(np.float32)),
            torch.from_numpy(random.standard_normal(192).astype(np.float32)),
        )

    def decoder(self, size: Size, rows: int) -> Decoder:
        return Decoder(self.lm, rows, positions=self.job(size, 0).positions)

    def batcher(self) -> FlowBatcher[FlowRow]:
        """Make the engine's default batcher: on a CPU rows are computed one by one."""
        return FlowBatcher(Limits(rows=1) if self.device == "cpu" else Limits())

    def now(self) -> float:
        """Return the time in seconds as soon as the device has done all launched work."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def _sounds(self, random: np.random.Generator, count: int) -> np.ndarray:
        return random.integers(0, self.lm.speech_tokens, count)


def lm_decode(networks: Networks, size: Size, in_flight: int) -> dict:
    """Measure the decoding of `in_flight` requests that begin together, with and without reading their prompts."""
    decoder = networks.decoder(size, in_flight)
    _decoded(networks, decoder, Size(2, size.prompt), in_flight)
    start = networks.now()
    rows = [decoder.submit(networks.job(size, seed)) for seed in range(in_flight)]
    decoder.step()
    read = networks.now()
    decoder.run()
    end = networks.now()
    said = sum(len(row.job.sampler.picked) for row in rows)
    return {
        "tokens_per_second": said / (end - start),
        "requests_per_second": in_flight / (end - start),
        "step_ms": 1000 * (end - read) / (size.tokens - 1),
        "read_ms": 1000 * (read - start),
        "cache_mib": decoder.cache.bytes / 2**20,
    }


def generate_mel(networks: Networks, size: Size, in_flight: int) -> dict:
    """Measure language model and flow for `in_flight` requests that begin together."""
    decoder = networks.decoder(size, in_flight)
    _decoded(networks, decoder, Size(2, size.prompt), in_flight)
    networks.flow([networks.row([1, 2, 3, 4], size, 0)])
    start = networks.now()
    rows = _decoded(networks, decoder, size, in_flight)
    decoded = networks.now()
    mels(networks, [networks.row(row.tokens, size, seed) for seed, row in enumerate(rows)])
    end = networks.now()
    return {
        "requests_per_second": in_flight / (end - start),
        "lm_ms": 1000 * (decoded - start),
        "flow_ms": 1000 * (end - decoded),
        "rtf": (end - start) / (in_flight * size.seconds),
    }


def mels(networks: Networks, rows: list[FlowRow]) -> None:
    """Compute mels in the batches that the engine makes."""
    for members in batches([networks.flow.frames(row) for row in rows]):
        networks.flow([rows[member] for member in members])


def vocode(networks: Networks, size: Size, in_flight: int) -> dict:
    """Measure the vocoder on mels of equal length; on a CPU one by one, as in the engine, on a GPU together."""
    frames = networks.numbers.token_mel_ratio * size.tokens
    several = [torch.randn(80, frames, generator=torch.Generator().manual_seed(seed)) for seed in range(in_flight)]
    at_once = 1 if networks.device == "cpu" else in_flight
    networks.hift(several[:at_once], networks.excitation)
    start = networks.now()
    for first in range(0, in_flight, at_once):
        networks.hift(several[first : first + at_once], networks.excitation)
    seconds = networks.now() - start
    return {"requests_per_second": in_flight / seconds, "rtf": seconds / (in_flight * size.seconds)}


def whole(networks: Networks, size: Size, in_flight: int, requests_each: int = 4) -> dict:
    """Measure a closed loop, from text tokens to audio, in one thread: a finished request makes room for the next.

    Decoding is continuous; decoded rows wait for others in the flow as they do in the engine. Requests count if they
    end after the first round, in which all begin together, and before the last request has begun.
    """
    decoder = networks.decoder(size, in_flight)
    batcher: FlowBatcher[Any] = FlowBatcher()
    begun: dict[Row, tuple[float, int]] = {}
    ended: list[tuple[float, float, float]] = []  # when, seconds it took, seconds of audio
    seeds = iter(range(in_flight * (requests_each + 1)))
    # Lengths up to a quarter apart: equal ones would stay in step for ever, and no flow would run beside decoding.
    shares = np.linspace(1.0, 0.75, in_flight)
    last_began = 0.0

    def begin() -> None:
        nonlocal last_began
        if (seed := next(seeds, None)) is not None:
            last_began = networks.now()
            tokens = round(size.tokens * shares[seed % in_flight])
            begun[decoder.submit(networks.job(Size(tokens, size.prompt), seed))] = last_began, seed

    for _ in range(in_flight):
        begin()
    while begun:
        for row in decoder.step():
            batcher.add(row, 2 * (size.prompt + len(row.tokens)))
        while taken := batcher.take(idle=decoder.active == decoder.waiting == 0):
            made = networks.flow([networks.row(row.tokens, size, begun[row][1]) for row in taken])
            for audio in networks.hift(made, networks.excitation):
                audio.cpu()
            for row in taken:
                since, seed = begun.pop(row)
                now = networks.now()
                if seed == 0:
                    settled = now
                ended.append((now, now - since, len(row.tokens) / TOKENS_PER_SECOND))
                begin()
    counted = [(took, audio) for when, took, audio in ended if settled < when <= last_began]
    took = [took for took, _ in counted]
    return {
        "requests_per_second": len(counted) / (last_began - settled),
        "p50_ms": 1000 * statistics.median(took),
        "max_ms": 1000 * max(took),
        "rtf": statistics.median(took / audio for took, audio in counted),
    }


def first_chunk(networks: Networks, size: Size, in_flight: int) -> dict:
    """Measure the time to each stream's first chunk of audio, all submitted together, in the second round.

    Chunks that are due together share the flow as they do in the engine, and all rows go on decoding. A request that is
    shorter than a chunk is one whole chunk.
    """
    for _ in range(2):
        decoder, batcher, start = networks.decoder(size, in_flight), networks.batcher(), networks.now()
        silent = {decoder.submit(networks.job(size, seed)): seed for seed in range(in_flight)}
        wanted = ChunkPlan(size.prompt, networks.flow.look_ahead).wanted
        took: list[float] = []
        while len(took) < in_flight:
            decoder.step()
            for row in [row for row in silent if row.done or len(row.tokens) >= wanted]:
                flow_row = networks.row(row.tokens[:wanted], size, silent.pop(row))
                flow_row = replace(flow_row, chunked=True, final=len(row.tokens) < wanted)
                batcher.add(flow_row, networks.flow.frames(flow_row), first=True)
            taken = batcher.take()
            mels = networks.flow(taken) if taken else []
            for flow_row, mel in zip(taken, mels, strict=True):
                networks.hift([mel], networks.excitation, flow_row.final)[0].cpu()
                took.append(networks.now() - start)
    return {"p50_ms": 1000 * statistics.median(took), "max_ms": 1000 * max(took)}


def _decoded(networks: Networks, decoder: Decoder, size: Size, count: int) -> list[Row]:
    rows = [decoder.submit(networks.job(size, seed)) for seed in range(count)]
    decoder.run()
    return rows


#: name in the table -> function that measures it
PARTS: dict[str, Callable[[Networks, Size, int], dict]] = {
    "LM_DECODE": lm_decode,
    "GENERATE_MEL": generate_mel,
    "VOCODE_WAV": vocode,
    "WHOLE": whole,
    "FIRST_CHUNK": first_chunk,
}
