"""What runs because of us, written down so that `down` finds it from another terminal, or after a crash."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.cli_error import CliError
from cluster.gate.process import Gate
from cluster.monitoring import Server
from cluster.ports import LOOPBACK, reachable
from cluster.processes import Started
from cluster.ray_head import RayHead
from cluster.storage_mariadb import MariaDb
from cluster.zipkin import Zipkin


@dataclass
class State:
    """One running stack. Saved after every step, so that it never lags behind what was started."""

    began: str  #: local time, ISO 8601
    boot_id: str  #: of the machine; after a reboot nothing of this runs any more
    http_port: int
    host: str = LOOPBACK  #: what the API listens on
    app: str = ""  #: the Serve application's name, once it was deployed
    module: str = ""  #: the Python module that builds it (and knows how to drain it)
    page_app: str = ""  #: the web page's application, where it was deployed
    page_path: str = ""  #: and its path
    watchdog_app: str = ""  #: the watchdog's application, where it was deployed
    ready: bool = False
    zipkin: Zipkin | None = None
    database: MariaDb | None = None  #: started here for Zipkin's traces
    gate: Gate | None = None  #: before Zipkin
    ray: RayHead | None = None
    prometheus: Server | None = None
    alertmanager: Server | None = None
    wecom: Server | None = None  #: the adapter to its group robots
    spans_file: str | None = None

    @property
    def http_url(self) -> str:
        return f"http://{reachable(self.host)}:{self.http_port}"

    @property
    def page_url(self) -> str | None:
        return f"{self.http_url}{self.page_path}" if self.page_app else None

    @property
    def traces_url(self) -> str | None:
        """What people open to see traces, without /zipkin: the gate, where there is one."""
        return self.gate.url if self.gate is not None else self.zipkin and self.zipkin.url

    @property
    def started(self) -> list[Started]:
        """The processes that are ours to stop."""
        parts = (self.ray, self.gate, self.zipkin, self.database, *self.monitoring)
        return [part.process for part in parts if part is not None and part.process is not None]

    @property
    def monitoring(self) -> list[Server]:
        return [server for server in (self.prometheus, self.alertmanager, self.wecom) if server is not None]

    @property
    def alive(self) -> bool:
        return self.boot_id == boot_id() and any(process.alive for process in self.started)


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class StateFile:
    """`<run folder>/state.json`, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "state.json"

    def save(self, state: State) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(state), indent=2, ensure_ascii=False) + "\n")
        partial.replace(self.path)

    def load(self) -> State | None:
        """The state that was saved last, None where there is none. Problem where it can't be read."""
        try:
            saved = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as failure:
            raise CliError(
                f"{self.path} can't be read ({type(failure).__name__}). If nothing of ours runs any more, remove it."
            ) from failure
        try:
            for name, part in (
                ("ray", RayHead),
                ("gate", Gate),
                ("zipkin", Zipkin),
                ("database", MariaDb),
                ("prometheus", Server),
                ("alertmanager", Server),
                ("wecom", Server),
            ):
                if saved[name] is not None:
                    process = saved[name]["process"]
                    saved[name] = part(**saved[name] | {"process": Started(**process) if process else None})
            return State(**saved)
        except (KeyError, TypeError) as failure:
            raise CliError(
                f"{self.path} was written by another version of this launcher. Stop what it names with that "
                "version, or remove it if nothing runs any more."
            ) from failure

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One launcher at a time starts or stops things here; a lock dies with its holder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CliError(
                    f"Another command is just starting or stopping things in {self.folder}. Wait for it, or "
                    "use another folder with --run-dir."
                ) from None
            file.write(str(os.getpid()))
            file.flush()
            yield
