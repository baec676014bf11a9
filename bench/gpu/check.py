"""Checks before any timing that a small model gives the same captured, called directly, and on the CPU."""

from __future__ import annotations

import copy

import torch

from bench.gpu.networks import Networks
from bench.gpu.report import Report
from bench.gpu.requests import Lengths
from engines.cosyvoice3.decoder import Decoder
from engines.cosyvoice3.flow import FlowRow
from engines.cosyvoice3.noise import Excitation
from engines.cosyvoice3.speech_lm import SpeechLm

_ROWS = 6


def check(report: Report, device: str) -> None:
    """Report the differences between device and CPU in float32: rows for tokens, mel and audio."""
    lengths = Lengths(20, 40, 60)
    cpu = Networks(full=False, device="cpu", dtype=torch.float32)
    networks = {"cpu": copy.deepcopy((cpu.lm, cpu.flow, cpu.hift))}
    copies = copy.deepcopy((cpu.lm, cpu.flow, cpu.hift))
    networks["device"] = (copies[0].to(device), copies[1].to(device), copies[2].to(device))
    planner = cpu.planner(lengths)

    said = {
        "cpu": _said(networks["cpu"][0], planner, lengths, True),
        "eager": _said(networks["device"][0], planner, lengths, False),
        "captured": _said(networks["device"][0], planner, lengths, True),
    }
    report.add(
        "check",
        what="rows that say the same",
        rows=_ROWS,
        captured_as_eager=_same(said["captured"], said["eager"]),
        captured_as_cpu=_same(said["captured"], said["cpu"]),
        tokens=len(said["cpu"][0]),
    )
    rows = []
    for seed in range(3):
        arrays = planner.voice(seed).arrays
        rows.append(
            FlowRow(
                torch.tensor(said["cpu"][seed]),
                torch.tensor(arrays["speech_tokens"]),
                torch.tensor(arrays["prompt_mel"]),
                torch.tensor(arrays["embedding"]),
                chunked=seed == 1,
            )
        )
    mels = {name: each[1](rows) for name, each in networks.items()}
    report.add("check", what="mel", distance=_apart(mels["device"], mels["cpu"]))
    excitation = Excitation(cpu.numbers)
    sounds = {name: each[2](mels["cpu"], excitation) for name, each in networks.items()}
    report.add("check", what="audio of the same mel", distance=_apart(sounds["device"], sounds["cpu"]))


def check_captured(report: Report, networks: Networks, lengths: Lengths) -> None:
    """Check that the full model, in the measured dtype, says the same replayed and called directly."""
    planner = networks.planner(lengths)
    short = Lengths(lengths.text, lengths.clip, min(40, lengths.speech))
    planner = networks.planner(short)
    eager, captured = (_said(networks.lm, planner, lengths, enabled, 4) for enabled in (False, True))
    report.add(
        "check", what=f"rows of the measured model in {networks.dtype} that say the same", rows=4,
        captured_as_eager=_same(captured, eager),
    )  # fmt: skip


def _said(lm: SpeechLm, planner, lengths: Lengths, captured: bool, count: int = _ROWS) -> list[list[int]]:
    decoder = Decoder(lm, count - 2, lengths.positions)
    decoder.graphs.enabled &= captured
    rows = [decoder.submit(planner.job(seed)) for seed in range(count)]
    decoder.run()
    return [row.tokens for row in rows]


def _same(one: list[list[int]], other: list[list[int]]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def _apart(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(float((a.cpu() - b.cpu()).abs().max()) for a, b in zip(one, other, strict=True))
