"""Starts batches on a device and fetches their results: one copy there, one launch, one copy back, one wait."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from engines.cosyvoice3.capture import Graphs

T = TypeVar("T")


class Pending(Generic[T]):
    """A batch that was started. Belongs to the thread that started it.

    Args:
        host: what it gives, on the host; valid once `event` has happened.
        event: a CUDA event, or None where the result is there already.
        finish: makes the result of it.
    """

    def __init__(self, host: Tensor, event: torch.cuda.Event | None, finish: Callable[[Tensor], T]) -> None:
        self._host, self._event, self._finish = host, event, finish

    def done(self) -> bool:
        """True once `result` will not wait."""
        return self._event is None or self._event.query()

    def result(self) -> T:
        """The result; waits for the device until it is there."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._finish(self._host)


class Launcher:
    """Runs functions of fixed shapes on batches that are gathered on the host.

    Args:
        device: where they run. A CPU calls them directly.
        graphs: what captures them; None makes one for the device.
        bucketed: True fills batches up to a few shapes (`flow_batches.bucket`), because each shape is a graph of its
            own. None does so everywhere but on a CPU, where a padded row would only cost time.
    """

    def __init__(self, device: torch.device, graphs: Graphs | None = None, bucketed: bool | None = None) -> None:
        self.device = device
        self.graphs = graphs or Graphs(device)
        self.bucketed = device.type != "cpu" if bucketed is None else bucketed
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # weights and tables are there, whichever stream brought them

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros on the host for a batch's input, pinned where the device fetches them."""
        return torch.zeros(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def launch(
        self, key: Hashable, function: Callable[..., Tensor], inputs: list[Tensor], finish: Callable[[Tensor], T]
    ) -> Pending[T]:
        """Start `function(*inputs)`.

        Args:
            key: names the function and every Python value in it.
            inputs: made with `buffer`, and not written to any more.
            finish: makes the result of what the function gave, on the host.
        """
        if self.device.type != "cuda":
            return Pending(self.graphs(key, function, *inputs), None, finish)
        # Not `graphs.on()`: the caller's stream would wait for this batch, and all that is launched after it.
        with torch.cuda.stream(self.graphs.stream):
            made = self.graphs(key, function, *inputs)
            host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True).copy_(made, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        return Pending(host, event, finish)
