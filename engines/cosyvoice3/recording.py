"""Records all shapes that batches may take when a model is loaded, so that no request waits for a recording.

A replica is ready only after that, because until then its first sounds would come late. Afterwards nothing is recorded
(`Graphs.close`). A shape that is not among them, because it is very long or time or memory ran out, is called directly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import torch

from engines.cosyvoice3.capture import Graphs

SECONDS = 120.0  #: the longest time for it, if no other is given
_FREE = 0.1  #: the share of the device's memory that is left free for others
_EVERY_S = 10.0  #: time between two lines of the log
_log = logging.getLogger(__name__)


def record(
    what: str,
    graphs: Sequence[Graphs],
    works: Iterable[Callable[[], object]],
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Do the works one after the other, each of which records a shape or some; then record no more.

    It stops early when the time is up, or when less than a tenth of the device's memory is free. The log says how far
    it has come, and what is left.

    Args:
        what: the name of the model, for the log.
        graphs: that the works record into. They are closed.
        works: the likeliest shapes first.
        seconds: the longest time; a work that has begun is finished.
        clock: monotonic seconds.

    Returns:
        The seconds that are left.
    """
    works = list(works)
    start = said = clock()
    done, why = 0, ""
    for work in works:
        now = clock()
        if now - start >= seconds:
            why = f"{seconds:.0f} s are over"
            break
        if _is_full(graphs):
            why = f"less than {_FREE:.0%} of the device's memory is free"
            break
        if now - said >= _EVERY_S:
            said = now
            _log.info("%s: recorded %d of %d shapes in %.0f s", what, done, len(works), now - start)
        work()
        done += 1
    for each in graphs:
        each.close()
    took = clock() - start
    if why:
        _log.warning(
            "%s: recorded %d of %d shapes in %.0f s, because %s. Batches of the other shapes are slower.",
            what, done, len(works), took, why,
        )  # fmt: skip
    elif works:
        _log.info("%s: recorded all %d shapes in %.0f s", what, len(works), took)
    return max(0.0, seconds - took)


def _is_full(graphs: Sequence[Graphs]) -> bool:
    if not graphs or graphs[0].device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(graphs[0].device)
    return free < _FREE * total
