"""Where the Zipkin started here keeps its traces: memory, a MySQL or MariaDB, an Elasticsearch or OpenSearch.

    Storage.of("mysql", "mysql://zipkin@db.example:3306/zipkin", environ)

Somebody else's server is only connected to and never stopped. `mysql` without an address starts a MariaDB of our own
(`storage_mariadb`). A password comes from the environment alone: command lines are seen by everybody on a machine,
and the state file and logs are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cluster import storage_elasticsearch, storage_mariadb, storage_mysql, zipkin_jar
from cluster.cli_error import CliError
from cluster.storage_mariadb import MariaDb

KINDS = ("mem", "mysql", "elasticsearch")
PASSWORD = "ZIPKIN_STORAGE_PASSWORD"


@dataclass(frozen=True)
class Storage:
    """A storage as it was asked for. `url` never holds a password."""

    kind: str = "mem"
    url: str | None = None
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, kind: str, url: str | None = None, env: MutableMapping[str, str] = os.environ) -> Storage:
        """Check what was asked for. Problem with the option to correct.

        Takes the password *out* of `env`, so that nothing else that is started from here inherits it.
        """
        password = env.pop(PASSWORD, "")
        if kind == "mem" and url:
            raise CliError(
                "--zipkin-storage-url names a server, but memory needs none. Add --zipkin-storage mysql or "
                "--zipkin-storage elasticsearch."
            )
        if kind == "elasticsearch" and not url:
            raise CliError(
                "--zipkin-storage elasticsearch needs the server's address, for example "
                "--zipkin-storage-url http://127.0.0.1:9200 (Elasticsearch or OpenSearch)."
            )
        if url and urlsplit(url).password is not None:
            raise CliError(
                "--zipkin-storage-url has a password in it, which everybody on this machine could read. "
                f"Leave it out of the address and set it in the environment: {PASSWORD}=…"
            )
        if url and kind == "mysql":
            storage_mysql.Address.of(url)
        if url and kind == "elasticsearch":
            storage_elasticsearch.check_url(url)
        return cls(kind, url, password)

    @property
    def named(self) -> str:
        """For people and for the state file."""
        return f"{self.kind} {self.url}" if self.url else self.kind


def prepare(
    storage: Storage,
    run_dir: Path,
    say: Callable[[str], None],
    remember: Callable[[MariaDb], None] = lambda server: None,
) -> dict[str, str]:
    """Zipkin's settings for this storage, which answers and has what Zipkin needs in it; none for memory.

    Starts a MariaDB where one is wanted and none named; `remember` gets it as soon as it runs. Raises Problem with
    cause and remedy for everything that is not as it should be.
    """
    if storage.kind == "mysql":
        schema = zipkin_jar.mysql_schema(zipkin_jar.obtain(say))
        if storage.url:
            address = storage_mysql.Address.of(storage.url)
            password = storage.password
        else:
            address, password = storage_mariadb.start(
                run_dir / "mariadb", run_dir / "logs" / "mariadb.log", say, remember
            )
        say(storage_mysql.ensure_schema(address, password, schema, run_dir))
        return storage_mysql.settings(address, password)
    if storage.kind == "elasticsearch":
        server = storage_elasticsearch.Server.of(storage.url, storage.password)
        say(f"{server.ask()} answers at {server.url}")
        say("  Zipkin's dependency page shows a day once `python -m cluster links` has computed it")
        return server.settings()
    return {}
