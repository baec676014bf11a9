"""Measures a decoding step, called directly and replayed, by rows, and the share of sampling in it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bench.gpu.networks import Networks
from bench.gpu.report import Report
from bench.gpu.requests import Lengths
from engines.cosyvoice3.capture import Graphs
from engines.cosyvoice3.decoder import Decoder


def measure(report: Report, networks: Networks, lengths: Lengths, levels: list[int], repeats: int) -> None:
    """Report a row for each level: ms a step in the middle of requests of the mean length."""
    for rows in levels:
        decoder = _filled(networks, lengths, rows)
        at = max(row._position for row in decoder._active)
        figures: dict[str, float | int] = {"rows": rows, "position": at}
        steps = min(repeats, (lengths.speech * 4 // 5 - 8) // 4)
        if decoder.graphs.enabled:
            decoder.graphs.enabled = False
            figures["eager_ms"] = _by_host(networks, decoder.step, max(2, steps // 4))
            decoder.graphs.enabled = True
        figures["captured_ms"] = _by_host(networks, decoder.step, steps)
        n, span = decoder._padded(rows), decoder._span(at + steps)
        batch, graphs = decoder._batch, Graphs(networks.device)
        hidden = torch.randn(n, networks.lm.body.size.hidden, device=networks.device).to(networks.dtype)
        likely = torch.randn(n, networks.lm.ids, device=networks.device).log_softmax(-1)
        at_all = torch.full((n,), at, device=networks.device)
        parts: dict[str, tuple[Callable, tuple]] = {
            "body_ms": (lambda x: networks.lm.body.step(x.clone(), at_all, span, batch.cache), (hidden,)),  # noqa: B023
            "head_ms": (networks.lm.log_probabilities, (hidden,)),
            "sampler_ms": (
                lambda x: batch.sampler(  # noqa: B023
                    x,
                    batch.uniforms[:n],  # noqa: B023
                    batch.state[:n, 2] >= 0,  # noqa: B023
                    batch.state[:n, 6:],  # noqa: B023
                    batch.top_p[:n],  # noqa: B023
                    batch.state[:n, 4],  # noqa: B023
                    batch.state[:n, 5],  # noqa: B023
                ),
                (likely,),
            ),
        }
        for name, (function, inputs) in parts.items():
            with torch.inference_mode():
                figures[name] = _by_device(networks, lambda: graphs(name, function, *inputs), steps)  # noqa: B023
        if decoder.graphs.failed:
            figures["not_captured"] = len(decoder.graphs.failed)
        report.add("step", **figures)
        for row in list(decoder._active):
            decoder.cancel(row)


def read(report: Report, networks: Networks, lengths: Lengths, repeats: int) -> None:
    """Measure a prompt of the mean length, read alone, from its submission until its first token is known."""
    decoder = Decoder(networks.lm, rows=1, positions=lengths.positions)
    planner = networks.planner(lengths)
    took = []
    for seed in range(repeats + 1):
        start = time.perf_counter()
        row = decoder.submit(planner.job(seed))
        while not row.tokens:
            decoder.step()
        took.append(1000 * (time.perf_counter() - start))
        decoder.cancel(row)
    report.add("read", ids=2 + lengths.text + lengths.clip, first_token_ms=sorted(took[1:])[repeats // 2])


def _filled(networks: Networks, lengths: Lengths, rows: int) -> Decoder:
    """Make a decoder with so many rows half-way through."""
    decoder = Decoder(networks.lm, rows, positions=lengths.positions)
    planner = networks.planner(lengths)
    taken = [decoder.submit(planner.job(seed)) for seed in range(rows)]
    while min(row._launched for row in taken) < lengths.speech * 2 // 5:
        decoder.step()
    return decoder


def _by_host(networks: Networks, step: Callable[[], object], steps: int) -> float:
    """Measure ms for each call, the host's work included, of calls one after the other."""
    for _ in range(3):
        step()
    _settle(networks)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _settle(networks)
    return 1000 * (time.perf_counter() - start) / steps


def _by_device(networks: Networks, work: Callable[[], object], steps: int) -> float:
    """Measure ms for each call on the device alone, if it has such a clock, else by the host's clock."""
    return _by_host(networks, work, steps)


def _settle(networks: Networks) -> None:
    if networks.device.startswith("cuda"):
        torch.cuda.synchronize()
