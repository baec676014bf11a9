"""Run a MariaDB for Zipkin: on loopback, its files in the run folder, so that traces outlive every restart.

Zipkin's user gets a new random password at each start. The password is on disk only while the server starts, in a file
that no other user can read. Look into it as yourself: `mariadb --socket=.run/mariadb/data/mariadb.sock zipkin`.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import private_file, processes
from cluster.cli_error import CliError
from cluster.ports import LOOPBACK, any_free
from cluster.storage_mysql import Address, connected

READY_WITHIN_S = 90.0
#: InnoDB finishes what it has in hand; killed, it would only take longer to start the next time.
STOP_WITHIN_S = 60.0
USER = DATABASE = "zipkin"
_MISSING = (
    "--zipkin-storage mysql starts a MariaDB, but {what} is not on the PATH. On Debian and Ubuntu: apt-get "
    "install --no-install-recommends mariadb-server-core mariadb-client-core (no service comes with them). Or "
    "use a server that runs already: --zipkin-storage-url mysql://user@host:3306/zipkin"
)


@dataclass(frozen=True)
class MariaDb:
    """A server that was started here."""

    process: processes.Started
    port: int
    folder: str

    def stop(self) -> None:
        processes.stop(self.process, grace_s=STOP_WITHIN_S)


def start(
    folder: Path, log: Path, say: Callable[[str], None], remember: Callable[[MariaDb], None] = lambda server: None
) -> tuple[Address, str]:
    """Start a MariaDB, and return its address and the password of Zipkin's user. Its database may be empty.

    Raises:
        CliError: There is no MariaDB on this machine, or it doesn't come up.
    """
    server, installer = find("mariadbd"), find("mariadb-install-db")
    data = folder / "data"
    if not data.is_dir():
        _install(installer, folder, data)
    password, port = secrets.token_urlsafe(24), any_free()
    opening = folder / "opening.sql"
    say(f"starting MariaDB on {LOOPBACK}:{port} (its files: {data})")
    try:
        private_file.write(opening, _opening(password))
        process = processes.start("mariadb", command(server, data, port, opening), log)
        mariadb = MariaDb(process, port, str(folder))
        remember(mariadb)
        address = Address(LOOPBACK, port, USER, DATABASE)
        _wait_until_ready(mariadb, address, password)
    finally:
        opening.unlink(missing_ok=True)
    return address, password


def find(program: str, env: Mapping[str, str] = os.environ) -> Path:
    """Its path. CliError, with how to get it, where it is missing."""
    # Debian puts servers where only root's PATH looks.
    path = os.pathsep.join([env.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(program, path=path)
    if found is None:
        raise CliError(_MISSING.format(what=program))
    return Path(found)


def command(server: Path, data: Path, port: int, opening: Path) -> list[str]:
    """`--no-defaults`: the machine's own MariaDB, if it has one, has settings that are none of ours."""
    return [
        str(server),
        "--no-defaults",
        f"--datadir={data}",
        f"--user={_me()}",
        f"--port={port}",
        f"--bind-address={LOOPBACK}",
        "--skip-name-resolve",
        f"--init-file={opening}",
        # Relative to the data folder: the path of a socket may have 107 bytes at most.
        "--socket=mariadb.sock",
        "--pid-file=mariadb.pid",
        # Traces, not money: a machine that loses power may lose the last second of them, as the spool does.
        "--innodb-flush-log-at-trx-commit=2",
        "--innodb-log-file-size=48M",
    ]


def _opening(password: str) -> str:
    """Return the statements that the server runs before it listens, one a line, as `--init-file` wants them."""
    return "\n".join(
        (
            f"CREATE DATABASE IF NOT EXISTS {DATABASE};",
            f"CREATE OR REPLACE USER {USER}@'{LOOPBACK}' IDENTIFIED BY '{password}';",
            f"GRANT ALL ON {DATABASE}.* TO {USER}@'{LOOPBACK}';",
            "",
        )
    )


def _install(installer: Path, folder: Path, data: Path) -> None:
    # Beside its place, then by one rename: a start that was cut off leaves no half database behind.
    scratch = folder / "data.new"
    shutil.rmtree(scratch, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    answer = subprocess.run(
        [
            str(installer),
            "--no-defaults",
            f"--datadir={scratch}",
            f"--user={_me()}",
            f"--auth-root-socket-user={_me()}",
            "--skip-test-db",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if answer.returncode != 0:
        lines = (answer.stderr + answer.stdout).strip().splitlines()[-15:]
        raise CliError(f"{installer} could not make a database in {folder}:\n" + "\n".join(lines))
    scratch.rename(data)


def _wait_until_ready(mariadb: MariaDb, address: Address, password: str) -> None:
    began = time.monotonic()
    while True:
        try:
            with connected(address, password):
                return
        except CliError as problem:
            reason = str(problem)
        ended = not mariadb.process.alive
        if ended or time.monotonic() - began > READY_WITHIN_S:
            mariadb.stop()
            how = "ended while it started" if ended else f"was not ready within {READY_WITHIN_S:.0f} s ({reason})"
            raise CliError(
                f"MariaDB {how}. The end of {mariadb.process.log}:\n{processes.last_lines(mariadb.process.log)}"
            )
        time.sleep(0.2)


def _me() -> str:
    # As root it starts only where root is asked for by name.
    return pwd.getpwuid(os.geteuid()).pw_name
