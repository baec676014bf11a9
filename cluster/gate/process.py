"""Starts and stops the gate, and remembers it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from access.keys import KeyFile, read
from cluster import processes
from cluster.cli_error import CliError
from cluster.gate.configuration import Wanted, fill
from cluster.gate.viewers import sight
from cluster.ports import any_free, require_free

ROOT = Path(__file__).resolve().parent.parent.parent
READY_WITHIN_S = 20.0
_NO_KEYS = (
    "make one with `python -m cluster key NAME --role view-traces{file}` (view-services sees services and "
    "durations alone)"
)


@dataclass(frozen=True)
class Gate:
    """A gate that was started here."""

    process: processes.Started
    url: str  #: what people open, without /zipkin
    own_url: str  #: of the address it listens on
    host: str
    port: int
    viewers: str
    audit_log: str

    @property
    def asks_for_a_key(self) -> bool:
        """Whether nginx and the server behind it answer. The certificate is not looked at: it's our own machine."""
        try:
            answer = httpx.get(f"{self.own_url}/zipkin/", timeout=5, trust_env=False, verify=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 401

    def stop(self) -> None:
        processes.stop(self.process)


def check(wanted: Wanted, keys_file: Path | None) -> None:
    """What can be known before anything is started: options, nginx, keys, the port. Raises Problem."""
    wanted.check()
    find()
    _keys(wanted.viewers or keys_file)
    require_free(wanted.port, "the gate", "--gate-port", host=wanted.host)


def start(
    wanted: Wanted,
    zipkin_url: str,
    keys_file: Path | None,
    run_dir: Path,
    say: Callable[[str], None],
    remember: Callable[[Gate], None] = lambda gate: None,
) -> Gate:
    """A gate that answers. `keys_file`: the graph's, where `wanted` names none.

    `remember` is called before it is ready, so that it can be stopped whatever happens next. Raises Problem where there
    is no nginx, no key file, or the port is taken.
    """
    check(wanted, keys_file)
    viewers = wanted.viewers or keys_file
    folder, port = run_dir / "gate", any_free()
    _prepare(folder, fill(wanted, zipkin_url, port))
    if not any(sight(key.roles) for key in _keys(viewers).keys):
        say(f"no key in {viewers} may look at traces yet: " + _NO_KEYS.format(file=f" --file {viewers}"))
    if not (wanted.tls or wanted.host.startswith("127.")):
        say("WARNING: the gate is open to the network without TLS, and keys travel as they are (--gate-tls)")
    command = [
        sys.executable,
        "-m",
        "cluster.gate",
        "--nginx",
        str(find()),
        "--folder",
        str(folder.resolve()),
        "--viewers",
        str(viewers.resolve()),
        "--zipkin",
        zipkin_url,
        "--authority-port",
        str(port),
        "--rate",
        str(wanted.rate),
    ]
    process = processes.start("gate", command, run_dir / "logs" / "gate.log", cwd=ROOT)
    gate = Gate(
        process, wanted.ui_base, wanted.own_url, wanted.host, wanted.port, str(viewers), str(folder / "audit.jsonl")
    )
    remember(gate)
    _wait_until_ready(gate)
    say(f"the gate is ready: {gate.url}/zipkin/ (asks for a key of {viewers}; who looked at what: {gate.audit_log})")
    return gate


def find(env: Mapping[str, str] = os.environ) -> Path:
    """nginx's path. Problem, with how to get it, where it is missing."""
    # Debian puts servers where only root's PATH looks.
    found = shutil.which("nginx", path=os.pathsep.join([env.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        raise CliError(
            "--with-gate needs nginx, and it is not on the PATH. On Debian and Ubuntu: apt-get install "
            "--no-install-recommends nginx. Or leave --with-gate out."
        )
    return Path(found)


def _keys(viewers: Path | None) -> KeyFile:
    if viewers is None:
        raise CliError(
            "--with-gate needs a key file, for it lets nobody in without a key: "
            + _NO_KEYS.format(file="")
            + ", or name a file with --viewers."
        )
    try:
        return read(viewers)
    except ValueError as error:
        raise CliError(str(error)) from error


def _prepare(folder: Path, configuration: str) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("temp", "nothing"):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    (folder / "nginx.conf").write_text(configuration)
    # nginx would make it readable to everybody.
    os.close(os.open(folder / "audit.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))


def _wait_until_ready(gate: Gate) -> None:
    began = time.monotonic()
    while not gate.asks_for_a_key:
        ended = not gate.process.alive
        if ended or time.monotonic() - began > READY_WITHIN_S:
            gate.stop()
            how = "ended while it started" if ended else f"was not ready within {READY_WITHIN_S:.0f} s"
            raise CliError(f"The gate {how}. The end of {gate.process.log}:\n{processes.last_lines(gate.process.log)}")
        time.sleep(0.1)
