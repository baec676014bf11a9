"""Runs functions of fixed shapes: directly on a CPU, as recorded CUDA graphs on a GPU.

    graphs = Graphs(device)
    with graphs.on():                                   # on their stream; does nothing on a CPU
        mel = graphs("solve", solve, x, mu, speaker)    # the first call of these shapes records, later ones replay

A replayed graph costs the host one launch, however many kernels it holds. These rules hold for recorded functions:

- The function works on tensors alone. It reads no value from the device (`item`, `cpu`, `nonzero`, a bool mask as
  index) and makes no tensor from host data (`torch.tensor(…, device=…)`). Python values that it uses become part of
  the graph, so they belong in the key. `torch.export` in its strict mode accepts such a function; the tests check it.
- Inputs are copied into the graph's own buffers. Outputs are buffers too: they are valid until the next call of any
  graph of the same `Graphs`. Copy an output that must stay longer. An output is neither an input nor part of the state.
- A function may change tensors that it closes over, in place. Name them in `state`: before the recording the function
  runs once to load the kernels, and those tensors are then restored.
- A loop whose turns are alike is recorded as one turn (`again`) and replayed for each turn. Recording then takes as
  many times less time and memory, and the host launches one graph a turn.

After `close`, nothing is recorded any more, and a shape without a graph is called directly. Recording in the middle of
traffic would stop a batch for longer than a direct call does, and would take memory that others may need by then.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
_recording = threading.Lock()  # one recording at a time over all threads: they share the device's allocator


@dataclass(frozen=True)
class Recorded:
    """A recorded function: `replay` computes `outputs` again from the content of `inputs`."""

    inputs: Sequence[Tensor]
    outputs: Any
    replay: Callable[[], None]


class Recorder(Protocol):
    """Makes a Recorded from a function and its input buffers. It is called on the stream of the graphs."""

    def __call__(self, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Recorded: ...


class Graphs:
    """Runs functions of fixed shapes, with a graph for each key and each shape of the inputs.

    An instance belongs to one thread at a time. Two instances may run side by side, each in its own thread.

    Args:
        device: a torch device; anything but CUDA calls the functions directly.
        priority: priority of the stream; -1 goes before 0 wherever the device can choose.
        most: the most graphs that are kept. Another one replaces the least recently used.
        recorder: records a function; the tests pass a recorder that needs no GPU.

    Attributes:
        enabled: False calls the functions directly on a GPU too, for comparison.
        closed: True: nothing more is recorded; see `close`.
        launches: number of calls so far, of any kind.
        recordings: number of recordings so far.
        direct: number of calls so far of shapes without a graph, since `close`.
        failed: keys whose recording failed, with the error's first line; they are called directly from then on.
    """

    def __init__(
        self, device: torch.device | str, priority: int = 0, most: int = 512, recorder: Recorder | None = None
    ) -> None:
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device, priority=priority) if cuda else None
        self._recorder = recorder or (_CudaRecorder(self.device) if cuda else None)
        self._most = most
        # Keep the functions alive: a graph reads the tensors that its function closes over by their addresses.
        self._kept: OrderedDict[Hashable, tuple[Recorded, Callable[..., Any]]] = OrderedDict()
        self.enabled = self._recorder is not None
        self.closed = False
        self.launches = self.recordings = self.direct = 0
        self.failed: dict[Hashable, str] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        """Record nothing more: a shape that has no graph by now is called directly."""
        self.closed = True

    @contextmanager
    def on(self, wait: bool = True) -> Iterator[None]:
        """Let the block's work run on the graphs' stream.

        Args:
            wait: order the block's work after the current stream's earlier work and before its later work. False if
                the block uses none of that work. The host never waits.
        """
        if self.stream is None:
            yield
            return
        outer = torch.cuda.current_stream(self.device)
        if outer == self.stream:
            yield
            return
        if wait:
            self.stream.wait_stream(outer)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            if wait:
                outer.wait_stream(self.stream)

    @torch.inference_mode()
    def __call__(
        self,
        key: Hashable,
        function: Callable[..., Any],
        *inputs: Tensor,
        state: Sequence[Tensor] = (),
        again: Callable[[Any], None] | None = None,
        times: int = 0,
    ) -> Any:
        """Return `function(*inputs)`. Results of a recorded function are buffers, valid until the next call.

        Args:
            key: names the function and every Python value that it uses. It need not hold shapes and types of `inputs`.
            function: the function; see the rules above.
            inputs: tensors on the device, or in pinned memory of the host.
            state: tensors that the function changes in place.
            again: changes the tensors that the function returned, in place. It is called with them `times` times.
            times: the number of turns of `again`.
        """
        self.launches += 1

        def directly(*inputs: Tensor) -> Any:
            outputs = function(*inputs)
            for _ in range(times if again else 0):
                assert again is not None, "see `times`"
                again(outputs)
            return outputs

        if self._recorder is None:
            return directly(*inputs)
        with self.on():
            key = key, *((tuple(each.shape), each.dtype) for each in inputs)
            kept = self._kept.get(key)
            if kept is not None and self.enabled:
                found, _ = kept
                self._kept.move_to_end(key)
                for buffer, value in zip(found.inputs, inputs, strict=True):
                    buffer.copy_(value, non_blocking=True)
            elif self.closed or not self.enabled or key in self.failed:
                self.direct += self.closed and self.enabled
                return directly(*(each.to(self.device, non_blocking=True) for each in inputs))
            else:
                made = self._record(key, function, inputs, state, again, times)
                if made is None:
                    return directly(*(each.to(self.device, non_blocking=True) for each in inputs))
                found = made
            found.replay()
            return found.outputs

    def _record(
        self,
        key: Hashable,
        function: Callable[..., Any],
        inputs: Sequence[Tensor],
        state: Sequence[Tensor],
        again: Callable[[Any], None] | None,
        times: int,
    ) -> Recorded | None:
        buffers = [
            torch.empty(each.shape, dtype=each.dtype, device=self.device).copy_(each, non_blocking=True)
            for each in inputs
        ]
        assert self._recorder is not None, "see `enabled`"
        self.recordings += 1
        before = [tensor.clone() for tensor in state]
        made = function(*buffers)
        if again is not None:
            again(made)
        del made  # its memory is free for the recording
        found: Recorded | None
        try:
            with _recording:
                found = self._recorder(function, buffers)
                if again is not None:
                    found = self._looped(found, again, times)
        except Exception as error:
            found = None
            self.failed[key] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            _log.error("recording %s failed and it is called directly from now on: %s", key, self.failed[key])
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        if found is None:
            return None
        self._kept[key] = found, function
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return found

    def _looped(self, first: Recorded, again: Callable[[Any], None], times: int) -> Recorded:
        """Record a turn on the outputs of `first`. They stay alive, so a turn's own memory lies beside them."""
        assert self._recorder is not None, "see `enabled`"
        first.replay()  # a recorder that computes finds values that are sound
        turn = self._recorder(lambda: again(first.outputs), ())

        def replay() -> None:
            first.replay()
            for _ in range(times):
                turn.replay()

        return Recorded(first.inputs, first.outputs, replay)


class _CudaRecorder:
    """Records into CUDA graphs that share one pool of memory.

    That is safe: all of them run on one stream, so a graph starts only after the previous one has ended.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool: Any = None
        # cuDNN would plan its attention for each shape, which takes longer than the recording; other kernels do, too.
        torch.backends.cuda.enable_cudnn_sdp(False)

    def __call__(self, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Recorded:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # it might free another graph, which a recording does not allow
        try:
            # Other threads use the device meanwhile, and may allocate.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = function(*inputs)
            finally:
                graph.capture_end()
        finally:
            if collecting:
                gc.enable()
        return Recorded(inputs, outputs, graph.replay)
