"""A Zipkin for a measurement: started on a free port, or the one that ZIPKIN_URL names; what was started is stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import ports, zipkin


@contextmanager
def private_zipkin() -> Iterator[str]:
    """Its URL. Raises SystemExit with what is missing where there can be none."""
    with tempfile.TemporaryDirectory() as folder:
        server, missing = zipkin.find_or_start(ports.any_free(), Path(folder) / "zipkin.log", print)
        if server is None:
            raise SystemExit("no Zipkin: " + "; ".join(missing))
        try:
            yield server.url
        finally:
            if server.process is not None:
                zipkin.stop(server.process, server.container)
