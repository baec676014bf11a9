"""Measure the size of a kept span in each of Zipkin's storages, and the speed of storing it.

    python -m bench.storage mem mysql [--traces 10000]
    python -m bench.storage elasticsearch --elasticsearch http://127.0.0.1:9200

Each storage gets the same traces (bench/measuring/traces.py: about 5 spans a request, with all our tags) through a
Zipkin that is started for it. MariaDB: the size of its table files. Elasticsearch or OpenSearch: the primaries' size
after a flush, before and after merging to one segment, and how long `cluster.links` takes over them, its start
included; the indices, `zipkin-bench-*`, are removed afterwards. Memory: live bytes after a full garbage collection
(needs a JDK's `jcmd`).
Writes bench/results/storage.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx

from bench import results
from bench.measuring import traces
from cluster import links, ports, storage_mariadb, zipkin
from cluster.cli_error import CliError
from cluster.storage import Storage, prepare
from cluster.storage_elasticsearch import Server

BATCH_TRACES = 100
#: If more than this is sent but not yet stored, a Zipkin with a storage slower than the sender could drop some.
MOST_UNDER_WAY = 5_000
INDEX = "zipkin-bench"


class Feeder:
    """A sender of traces that is no faster than Zipkin stores them."""

    def __init__(self, url: str, stored: Callable[[], int]) -> None:
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self.stored = stored
        self.spans = self.json_bytes = 0

    def feed(self, count: int) -> float:
        """Send `count` traces; returns the seconds until they are stored."""
        began = time.monotonic()
        start = time.time_ns() - 3_600 * 10**9
        for first in range(0, count, BATCH_TRACES):
            batch = [
                span
                for number in range(first, min(first + BATCH_TRACES, count))
                for span in traces.request(number, start_ns=start + number * 10**7)
            ]
            self.spans += len(batch)
            body = json.dumps(batch, separators=(",", ":")).encode()
            self.json_bytes += len(body)
            self.client.post(
                "/api/v2/spans", content=body, headers={"Content-Type": "application/json"}
            ).raise_for_status()
            self._wait(self.spans - MOST_UNDER_WAY)
        self._wait(self.spans)
        return time.monotonic() - began

    def _wait(self, wanted: int) -> None:
        until = time.monotonic() + 60
        while (found := self.stored()) < wanted:
            if time.monotonic() > until:
                raise CliError(f"Zipkin has stored {found} of {wanted} spans, and no more for a minute.")
            time.sleep(0.2)


def measure(kind: str, count: int, elasticsearch: str | None, folder: Path) -> dict:
    """Measure the figures of a storage. Raises Problem if it is not available."""
    storage = Storage.of(kind, elasticsearch if kind == "elasticsearch" else None)
    databases: list[storage_mariadb.MariaDb] = []
    servers: list[zipkin.Zipkin] = []
    more = {"MEM_MAX_SPANS": "10000000", "ES_INDEX": INDEX}
    env = {name: value for name, value in os.environ.items() if name != "ZIPKIN_URL"}
    try:
        server, missing = zipkin.find_or_start(
            ports.any_free(),
            folder / "zipkin.log",
            print,
            env,
            remember=servers.append,
            storage=lambda: prepare(storage, folder, print, databases.append) | more,
        )
        if server is None:
            raise CliError("; ".join(missing))
        meters: dict[str, type[Memory] | type[Tables] | type[Indices]]
        meters = {"mem": Memory, "mysql": Tables, "elasticsearch": Indices}
        meter = meters[kind](server, storage, databases)
        feeder = Feeder(server.url, meter.stored)
        feeder.feed(BATCH_TRACES)  # classes are loaded, caches and indices made
        sent, size = feeder.spans, meter.size()
        took = feeder.feed(count)
        spans = feeder.spans - sent
        grown = {name: value - size[name] for name, value in meter.size().items()}
        return {
            "spans": spans,
            "json_bytes_a_span": round(feeder.json_bytes / feeder.spans),
            **{f"{name}_a_span": round(value / spans) for name, value in grown.items()},
            "spans_a_second": round(spans / took),
            **meter.about(),
        }
    finally:
        for started in servers:
            assert started.process is not None
            zipkin.stop(started.process, started.container)
        for database in databases:
            database.stop()


class Memory:
    """The storage in Zipkin's own heap."""

    def __init__(self, server: zipkin.Zipkin, storage: Storage, databases: list) -> None:
        jcmd = shutil.which("jcmd")
        if jcmd is None:
            raise CliError(
                "Measuring memory needs `jcmd`, which comes with a JDK: apt-get install default-jdk-headless"
            )
        assert server.process is not None, "this measurement starts its own"
        self._jcmd = jcmd
        self._pid = server.process.pid
        self._client = httpx.Client(base_url=server.url, timeout=30, trust_env=False)

    def stored(self) -> int:
        counters = self._client.get("/metrics").json()
        taken, dropped = (
            counters.get(f"counter.zipkin_collector.{name}.http", 0) for name in ("spans", "spans_dropped")
        )
        return round(taken - dropped)

    def size(self) -> dict[str, int]:
        histogram = subprocess.run(
            [self._jcmd, str(self._pid), "GC.class_histogram"], capture_output=True, text=True, timeout=120, check=True
        ).stdout
        [size] = re.findall(r"^Total\s+\d+\s+(\d+)", histogram, re.MULTILINE)
        return {"heap_bytes": int(size)}

    def about(self) -> dict:
        return {}


class Tables:
    """The storage in the files of a MariaDB that was started for this."""

    def __init__(self, server: zipkin.Zipkin, storage: Storage, databases: list) -> None:
        self._data = Path(databases[0].folder) / "data"

    def _ask(self, sql: str) -> str:
        return subprocess.run(
            [
                storage_mariadb.find("mariadb"),
                f"--socket={self._data / 'mariadb.sock'}",
                "-N",
                "-B",
                "zipkin",
                "-e",
                sql,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    def stored(self) -> int:
        return int(self._ask("SELECT COUNT(*) FROM zipkin_spans"))

    def size(self) -> dict[str, int]:
        files = (self._data / "zipkin").glob("*.ibd")
        return {"disk_bytes": sum(file.stat().st_blocks * 512 for file in files)}

    def about(self) -> dict:
        rows = int(self._ask("SELECT COUNT(*) FROM zipkin_annotations"))
        return {"server": self._ask("SELECT VERSION()").strip(), "rows_a_span": round(rows / self.stored(), 1)}


class Indices:
    """The storage in this measurement's own indices of an existing Elasticsearch or OpenSearch."""

    def __init__(self, server: zipkin.Zipkin, storage: Storage, databases: list) -> None:
        assert storage.url is not None, "Storage refuses Elasticsearch without an address"
        self._server = Server.of(storage.url, storage.password)
        self._client = self._server.client()
        self._unmerged = 0

    def stored(self) -> int:
        self._client.post(f"/{INDEX}-span-*/_refresh")
        return self._client.get(f"/{INDEX}-span-*/_count").json().get("count", 0)

    def _bytes(self) -> int:
        self._client.post(f"/{INDEX}-*/_flush", params={"force": "true"}).raise_for_status()
        return self._client.get(f"/{INDEX}-*/_stats/store").json()["_all"]["primaries"]["store"]["size_in_bytes"]

    def size(self) -> dict[str, int]:
        before = self._bytes()
        self._client.post(f"/{INDEX}-*/_forcemerge", params={"max_num_segments": 1}, timeout=300).raise_for_status()
        time.sleep(2)  # merged-away files are removed a moment later
        return {"disk_bytes_unmerged": before, "disk_bytes": self._bytes()}

    def about(self) -> dict:
        began = time.monotonic()
        linked = links.compute(self._server, datetime.now(UTC).date(), print, INDEX)
        took = time.monotonic() - began
        indices = self._client.get(f"/_cat/indices/{INDEX}-*", params={"format": "json"}).json()
        for index in indices:
            self._client.delete(f"/{index['index']}")
        return {
            "server": self._server.ask(),
            "primary_shards": max(int(index["pri"]) for index in indices),
            "links": {"spans": linked.spans, "seconds": round(took, 1)},
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.storage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=["mem", "mysql"], choices=("mem", "mysql", "elasticsearch"))
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--elasticsearch", metavar="URL")
    args = parser.parse_args()
    saved = results.FOLDER / "storage.json"
    figures = json.loads(saved.read_text())["storages"] if saved.exists() else {}
    for kind in args.kinds:
        with tempfile.TemporaryDirectory(prefix="cosygraph-bench-") as folder:
            try:
                figures[kind] = measure(kind, args.traces, args.elasticsearch, Path(folder))
            except CliError as problem:
                print(problem)
                return 1
        print(f"{kind}: {figures[kind]}", flush=True)
    print(results.write("storage", {"storages": figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
