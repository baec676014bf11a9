"""Starts batches on a device and fetches their results, with one copy there, one launch, one copy back, one wait."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from engines.cosyvoice3.capture import Graphs

T = TypeVar("T")


class Pending(Generic[T]):
    """A started batch. It belongs to the thread that started it.

    Args:
        host: its output on the host, valid once `event` has happened.
        event: a CUDA event, or None if the output is there already.
        finish: makes the result from the output.
    """

    def __init__(self, host: Tensor, event: torch.cuda.Event | None, finish: Callable[[Tensor], T]) -> None:
        self._host, self._event, self._finish = host, event, finish

    def done(self) -> bool:
        """True as soon as `result` will not wait."""
        return self._event is None or self._event.query()

    def result(self) -> T:
        """Wait for the device and return the result."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._finish(self._host)


class Launcher:
    """A runner of fixed-shape functions on batches that are gathered on the host.

    Args:
        device: the device that runs them. On a CPU they are called directly.
        graphs: captures them; None makes one for the device.
        bucketed: True fills batches up to a few shapes (`flow_batches.bucket`), because each shape is a graph of its
            own. None does so everywhere but on a CPU, where a padded row would only cost time.
        tf32: True lets the GPU round the factors of float32 products to 10 bits of fraction, for speed. Torch's own
            default is to do so in convolutions and not in matrix products. Here it is both or neither, and neither by
            default, because the official weights are float32. To measure its effect on a sound, compute it both ways:
            10 * log10(sum(difference ** 2) / sum(sound ** 2)) is the noise in dB.
    """

    def __init__(
        self,
        device: torch.device,
        graphs: Graphs | None = None,
        bucketed: bool | None = None,
        tf32: bool = False,
    ) -> None:
        self.device = device
        self.tf32 = tf32
        self.graphs = Graphs(device) if graphs is None else graphs
        self.bucketed = device.type != "cpu" if bucketed is None else bucketed

    def synchronize(self) -> None:
        """Wait until the device has done all work and copies, on any stream."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Make zeros on the host for a batch's input, in pinned memory if the device fetches them."""
        return torch.zeros(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def launch(
        self,
        key: Hashable,
        function: Callable[..., Any],
        inputs: list[Tensor],
        finish: Callable[[Tensor], T],
        again: Callable[[Any], None] | None = None,
        times: int = 0,
    ) -> Pending[T]:
        """Start `function(*inputs)`.

        Args:
            key: names the function and every Python value in it.
            function: see `Graphs`. It returns a tensor, or tensors of which the first is the output.
            inputs: made with `buffer`, and not written to any more.
            finish: makes the result from the output, on the host.
            again, times: see `Graphs`.
        """
        if self.device.type != "cuda":
            made = _first(self.graphs(key, function, *inputs, again=again, times=times))
            return Pending(made.clone() if self.graphs.enabled else made, None, finish)
        # These settings belong to the process, so each launch sets them again; a recording keeps those of its time.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32
        # Not `graphs.on()`: the caller's stream, and all later work on it, would wait for this batch.
        with torch.cuda.stream(self.graphs.stream):
            made = _first(self.graphs(key, function, *inputs, again=again, times=times))
            host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True).copy_(made, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        return Pending(host, event, finish)


def _first(made: Any) -> Tensor:
    return made if isinstance(made, Tensor) else made[0]
