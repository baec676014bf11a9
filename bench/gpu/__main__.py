"""Runs `python -m bench.gpu`; the package's docstring describes it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

import bench.gpu
from bench.gpu import check, steps, voices
from bench.gpu.load import Loop
from bench.gpu.networks import Networks
from bench.gpu.report import Report
from bench.gpu.requests import Lengths

PHASES = ("check", "step", "whole", "stream", "memory", "voice")


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    report = Report(options.out, options.budget, settings)
    run = _Run(report, options)
    report.run("device", 0, run.device)
    needs = {"check": 15, "step": 15, "whole": 30, "stream": 25, "memory": 0, "voice": 30}
    for phase in options.phases:
        if phase == "check":
            report.run("check", needs[phase], lambda: check.check(report, options.device))
        report.run(phase, needs[phase], getattr(run, phase))
    if options.profile:
        report.run("profile", 10, run.profile)
    print(f"{options.out}: {len(report.errors)} of the phases failed or were left out", flush=True)
    sys.exit(1 if report.errors else 0)


class _Run:
    """The phases of a run. The first phase that needs a shared object makes it."""

    def __init__(self, report: Report, options: argparse.Namespace) -> None:
        self._report, self._options = report, options
        self._lengths = Lengths(12, 20, 30) if options.tiny else Lengths()
        self._made: Networks | None = None
        self._looped: Loop | None = None

    def device(self) -> None:
        options = self._options
        if not options.device.startswith("cuda"):
            self._report.add("device", name="cpu", threads=torch.get_num_threads())
            return
        free, total = torch.cuda.mem_get_info()
        self._report.add(
            "device",
            name=torch.cuda.get_device_name(),
            cuda=torch.version.cuda or "",
            memory_gib=total / 2**30,
            free_gib=free / 2**30,
            matmul_tf32=torch.backends.cuda.matmul.allow_tf32,
            cudnn_tf32=torch.backends.cudnn.allow_tf32,
        )
        bytes_, flops = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_(), 2 * 8192**3
        other = torch.empty_like(bytes_)
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        self._report.add(
            "device",
            copy_tb_s=2 * 2**30 / _seconds(lambda: other.copy_(bytes_)) / 1e12,
            bf16_tflop_s=flops / _seconds(lambda: a @ b) / 1e12,
        )

    def check(self) -> None:
        check.check_captured(self._report, self._networks, self._lengths)

    def step(self) -> None:
        levels = [level for level in (1, 4, 16, 32) if level <= max(self._options.levels)]
        steps.measure(self._report, self._networks, self._lengths, levels, 10 if self._options.tiny else 100)
        steps.read(self._report, self._networks, self._lengths, 5)

    def whole(self) -> None:
        for level in self._options.levels:
            self._row("whole", level, stream=False)

    def stream(self) -> None:
        for level in [level for level in self._options.levels if level <= 16]:
            self._row("stream", level, stream=True)

    def memory(self) -> None:
        if not self._options.device.startswith("cuda"):
            return
        loop = self._looped
        self._report.add(
            "memory",
            allocated_gib=torch.cuda.max_memory_allocated() / 2**30,
            reserved_gib=torch.cuda.max_memory_reserved() / 2**30,
            lm_gib=_bytes(self._networks.lm) / 2**30,
            flow_gib=_bytes(self._networks.flow) / 2**30,
            vocoder_gib=_bytes(self._networks.hift) / 2**30,
            cache_gib=loop.model.decoder.cache.bytes / 2**30 if loop else 0.0,
            lm_graphs=len(loop.model.decoder.graphs) if loop else 0,
        )

    def voice(self) -> None:
        voices.measure(self._report, self._options.device, self._options.tiny)

    def profile(self) -> None:
        loop = self._loop
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._options.device.startswith("cuda"):
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            loop.run(min(16, max(self._options.levels)), 0.5, stream=False)
        profiler.export_chrome_trace(str(self._options.profile))
        print(profiler.key_averages().table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=60))

    @property
    def _networks(self) -> Networks:
        if self._made is None:
            start = time.perf_counter()
            dtype = getattr(torch, self._options.dtype)
            self._made = Networks(not self._options.tiny, self._options.device, dtype)
            self._report.add("weights", dtype=self._options.dtype, made_s=time.perf_counter() - start)
        return self._made

    @property
    def _loop(self) -> Loop:
        if self._looped is None:
            start = time.perf_counter()
            # A server may take longer; here the measurements need their time.
            seconds = min(45.0, self._report.left_s / 5)
            model = self._networks.acoustic(self._lengths, max(self._options.levels), seconds)
            model.record()
            made = time.perf_counter()
            vocoder = self._networks.vocoder(self._lengths, seconds, self._options.tf32)
            self._looped = Loop(model, vocoder, self._options.device)
            self._report.add(
                "warm",
                lm_graphs=len(model.decoder.graphs),
                flow_graphs=sum(len(each.graphs) for each in self._networks.flow.launchers),
                flow_and_lm_s=made - start,
                vocoder_graphs=vocoder.recordings,
                vocoder_s=time.perf_counter() - made,
            )
        return self._looped

    def _row(self, phase: str, level: int, stream: bool) -> None:
        seconds = self._options.seconds
        if self._report.left_s < 2 * seconds + 5:
            raise TimeoutError(f"{self._report.left_s:.0f} s are left, too few for {level} in flight and more")
        loop = self._loop
        before = self._made_and_missed()
        figures = loop.run(level, seconds, stream)
        recorded, missed = (now - then for now, then in zip(self._made_and_missed(), before, strict=True))
        self._report.add(phase, **figures, new_graphs=recorded, direct=missed)

    def _made_and_missed(self) -> tuple[int, int]:
        """Return the number of shapes recorded by now, and of batches whose shape was not, in all three networks."""
        models = self._loop.model, self._loop.vocoder
        return sum(each.recordings for each in models), sum(each.direct for each in models)


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _seconds(work) -> float:
    """Time one call on the device: the mean of ten after three."""
    for _ in range(3):
        work()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(10):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e4


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(bench.gpu.__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default bfloat16; float32 on a CPU"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "gpu.json")
    parser.add_argument(
        "--budget", type=float, default=240.0, help="seconds for all of it; what does not fit is left out"
    )
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--levels", nargs="+", type=int, default=[1, 4, 8, 16, 32], help="requests in flight")
    parser.add_argument("--seconds", type=float, default=6.0, help="that count, for each level")
    parser.add_argument(
        "--profile", type=Path, metavar="TRACE", help="write a trace of half a second with 16 in flight"
    )
    parser.add_argument("--tf32", action="store_true", help="let the vocoder's products round to TF32")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short requests: the rehearsal")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --device cpu --tiny rehearses the run without one")
    options.dtype = options.dtype or ("bfloat16" if options.device.startswith("cuda") else "float32")
    return options


if __name__ == "__main__":
    main()
