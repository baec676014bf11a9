"""A stand-in for an object store with S3's API: moto's server, in a process of its own.

moto looks for the object and then writes it, so a conditional creation is atomic only if requests come one after the
other. The server therefore has one thread. No package of the registries carries a real S3 server: Debian has Ceph's
gateway, which needs a whole cluster behind it, and SeaweedFS is there as Go source alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from cluster.ports import LOOPBACK, any_free
from cluster.ray_head import ROOT

BUCKET = "cosygraph"
#: As drivers of S3 look for them; moto takes any.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
STARTED_WITHIN_S = 60


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str

    def settings(self, folder: str, **limits: int) -> dict:
        """Return the settings `voices` of a store in a folder of the bucket."""
        url = f"s3://{BUCKET}/{folder}"
        return {"url": url, "protocols": ["s3"], "options": {"endpoint_url": self.endpoint}} | limits


@contextmanager
def s3_server(host: str = LOOPBACK) -> Iterator[S3Server]:
    """Run a server with an empty bucket. Its log lies nowhere: moto logs each request."""
    port = any_free()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.s3_server", host, str(port)],
        cwd=ROOT,
        env={**os.environ, **CREDENTIALS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = S3Server(f"http://{host}:{port}")
        end = time.monotonic() + STARTED_WITHIN_S
        while True:
            try:
                made = httpx.put(f"{server.endpoint}/{BUCKET}", timeout=10, trust_env=False)
                assert made.status_code == 200, made.text
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < end, "moto's server did not come up"
                time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Serve until the process is killed."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = DomainDispatcherApplication(create_backend_app)
    run_simple(sys.argv[1], int(sys.argv[2]), app, threaded=False)


if __name__ == "__main__":
    main()
