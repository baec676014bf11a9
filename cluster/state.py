"""The state of a running stack, in a file, so that `down` finds it from another terminal, or after a crash."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.cli_error import CliError
from cluster.monitoring import Server
from cluster.ports import LOOPBACK, reachable
from cluster.processes import Started
from cluster.ray_head import RayHead
from cluster.storage_mariadb import MariaDb
from cluster.zipkin import Zipkin
from cluster.zipkin_proxy.process import ZipkinProxy


@dataclass
class State:
    """One running stack. It is saved after every step, so that no started process is missing in it."""

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
    zipkin_proxy: ZipkinProxy | None = None  #: the gate, nginx before Zipkin
    ray: RayHead | None = None
    prometheus: Server | None = None
    alertmanager: Server | None = None
    wecom: Server | None = None  #: the adapter to its group robots
    zipkin_ui_url: str | None = None  #: where people open Zipkin, if a setting says so
    spans_file: str | None = None
    otlp: dict | None = None  #: the settings of a receiver of OTLP that gets the traces too

    @property
    def http_url(self) -> str:
        return f"http://{reachable(self.host)}:{self.http_port}"

    @property
    def page_url(self) -> str | None:
        return f"{self.http_url}{self.page_path}" if self.page_app else None

    @property
    def traces_url(self) -> str | None:
        """The address at which people open Zipkin, without /zipkin: ZIPKIN_UI_URL's, the gate's or Zipkin's own."""
        if self.zipkin is None and self.zipkin_proxy is None:
            return None
        server = self.zipkin_proxy or self.zipkin
        return self.zipkin_ui_url or (server.url if server is not None else None)

    @property
    def started(self) -> list[Started]:
        """The processes that this launcher started and has to stop."""
        parts = (self.ray, self.zipkin_proxy, self.zipkin, self.database, *self.monitoring)
        return [part.process for part in parts if part is not None and part.process is not None]

    @property
    def monitoring(self) -> list[Server]:
        return [server for server in (self.prometheus, self.alertmanager, self.wecom) if server is not None]

    @property
    def alive(self) -> bool:
        return self.boot_id == boot_id() and any(process.alive for process in self.started)


def boot_id() -> str:
    """Return the id of this boot of the machine, or an empty string where the system tells none."""
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
        """Return the state that was saved last, or None where there is none.

        Raises:
            CliError: The file can't be read, or another version wrote it.
        """
        try:
            saved = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except OSError as failure:
            raise CliError(
                f"{self.path} can't be read ({failure.strerror}). Use the account that started this stack, or name "
                "another folder with --run-dir."
            ) from failure
        except ValueError as failure:
            raise CliError(
                f"{self.path} can't be read ({type(failure).__name__}). Remove it if this stack no longer runs."
            ) from failure
        try:
            for name, part in (
                ("ray", RayHead),
                ("zipkin_proxy", ZipkinProxy),
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
        """Let one launcher at a time start or stop things here. The lock ends with its holder.

        Raises:
            CliError: Another launcher holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CliError(
                    f"Another command is starting or stopping things in {self.folder} now. Wait for it, or "
                    "use another folder with --run-dir."
                ) from None
            file.write(str(os.getpid()))
            file.flush()
            yield
