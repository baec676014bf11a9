"""Provides a Zipkin for a measurement: that of ZIPKIN_URL, or its own on a free port, which is stopped afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import ports, zipkin


@contextmanager
def private_zipkin() -> Iterator[str]:
    """Yield its URL. Raises SystemExit, naming the missing part, if none can be started."""
    with tempfile.TemporaryDirectory() as folder:
        server, missing = zipkin.find_or_start(ports.any_free(), Path(folder) / "zipkin.log", print)
        if server is None:
            raise SystemExit("no Zipkin: " + "; ".join(missing))
        try:
            yield server.url
        finally:
            if server.process is not None:
                zipkin.stop(server.process, server.container)
