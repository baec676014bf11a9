"""Start the gate, check it, and stop it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from access.keys import KeyFile, read_key_file
from cluster import processes
from cluster.cli_error import CliError
from cluster.ports import any_free, require_free
from cluster.zipkin_proxy.auth import scope
from cluster.zipkin_proxy.configuration import ProxyOptions, fill

ROOT = Path(__file__).resolve().parent.parent.parent
READY_WITHIN_S = 20.0
_NO_KEYS = (
    "make one with `python -m cluster key NAME --role view-traces{file}` (view-services sees services and "
    "durations alone)"
)


@dataclass(frozen=True)
class ZipkinProxy:
    """A gate that this launcher started."""

    process: processes.Started
    url: str  #: the address that people open, without /zipkin
    own_url: str  #: the address it listens on
    host: str
    port: int
    viewers: str
    audit_log: str

    @property
    def requires_key(self) -> bool:
        """Tell whether nginx and the server behind it answer. The certificate is not checked: it is our machine's."""
        try:
            answer = httpx.get(f"{self.own_url}/zipkin/", timeout=5, trust_env=False, verify=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 401

    def stop(self) -> None:
        processes.stop(self.process)


def check(options: ProxyOptions, keys_file: Path | None) -> None:
    """Check what can be known before anything starts: options, nginx, keys, the port.

    Raises:
        CliError: One of them is wrong or missing.
    """
    options.check()
    find()
    _keys(options.viewers or keys_file)
    require_free(options.port, "the gate", "--gate-port", host=options.host)


def start(
    options: ProxyOptions,
    zipkin_url: str,
    keys_file: Path | None,
    run_dir: Path,
    say: Callable[[str], None],
    remember: Callable[[ZipkinProxy], None] = lambda gate: None,
) -> ZipkinProxy:
    """Start a gate and return it once it answers.

    Args:
        options: The gate's options.
        zipkin_url: Of the Zipkin behind it.
        keys_file: The graph's, for where `options` names no key file.
        run_dir: Where its folder and its log are made.
        say: Hears of progress.
        remember: Called before the gate is ready, so that it can be stopped whatever happens next.

    Raises:
        CliError: There is no nginx or no key file, or the port is taken.
    """
    viewers, port = options.viewers or keys_file, any_free()
    folder = run_dir / "gate"
    command = prepare(options, zipkin_url, keys_file, folder, port, say)
    assert viewers is not None, "prepare() has seen to it"
    process = processes.start("gate", command, run_dir / "logs" / "gate.log", cwd=ROOT)
    gate = ZipkinProxy(
        process, options.ui_base, options.own_url, options.host, options.port, str(viewers), str(folder / "audit.jsonl")
    )
    remember(gate)
    _wait_until_ready(gate)
    say(f"the gate is ready: {gate.url}/zipkin/ (takes the keys of {viewers}; logs who read what in {gate.audit_log})")
    return gate


def prepare(
    options: ProxyOptions,
    zipkin_url: str,
    keys_file: Path | None,
    folder: Path,
    authority_port: int,
    say: Callable[[str], None],
) -> list[str]:
    """Check everything, fill the gate's folder, and return the command that runs the gate in the foreground.

    Args:
        options: The gate's options.
        zipkin_url: Of the Zipkin behind it.
        keys_file: The graph's, for where `options` names no key file.
        folder: The gate's own.
        authority_port: The port, on loopback, of the server that nginx asks.
        say: Hears of warnings.

    Raises:
        CliError: There is no nginx or no key file, or the port is taken.
    """
    check(options, keys_file)
    viewers = options.viewers or keys_file
    assert viewers is not None, "check() has seen to it"
    _prepare(folder, fill(options, zipkin_url, authority_port))
    if not any(scope(key.roles) for key in _keys(viewers).keys):
        say(f"no key in {viewers} may look at traces yet: " + _NO_KEYS.format(file=f" --file {viewers}"))
    if not (options.tls or options.host.startswith("127.")):
        say("WARNING: the gate is open to the network without TLS, and keys travel as they are (--gate-tls)")
    return [
        sys.executable,
        "-m",
        "cluster.zipkin_proxy",
        "--nginx",
        str(find()),
        "--folder",
        str(folder.resolve()),
        "--viewers",
        str(viewers.resolve()),
        "--zipkin",
        zipkin_url,
        "--authority-port",
        str(authority_port),
        "--rate",
        str(options.rate),
    ]


def find(env: Mapping[str, str] = os.environ) -> Path:
    """Return nginx's path.

    Raises:
        CliError: It is not installed; the message says how to install it.
    """
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
            "--with-gate needs a key file, because every request needs a key: "
            + _NO_KEYS.format(file="")
            + ", or name a file with --viewers."
        )
    try:
        return read_key_file(viewers)
    except ValueError as error:
        raise CliError(str(error)) from error


def _prepare(folder: Path, configuration: str) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("temp", "nothing"):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    (folder / "nginx.conf").write_text(configuration)
    # nginx would make it readable for every user of the machine.
    os.close(os.open(folder / "audit.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))


def _wait_until_ready(gate: ZipkinProxy) -> None:
    began = time.monotonic()
    while not gate.requires_key:
        ended = not gate.process.alive
        if ended or time.monotonic() - began > READY_WITHIN_S:
            gate.stop()
            how = "ended while it started" if ended else f"was not ready within {READY_WITHIN_S:.0f} s"
            raise CliError(f"The gate {how}. The end of {gate.process.log}:\n{processes.last_lines(gate.process.log)}")
        time.sleep(0.1)
