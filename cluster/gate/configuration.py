"""What the gate can be told, and nginx's configuration from it."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cluster.cli_error import CliError
from cluster.ports import LOOPBACK, reachable

TEMPLATE = Path(__file__).with_name("nginx.conf")
MOST_TRACES = 200  #: of one search
LONGEST_LOOKBACK_MS = 31 * 86_400_000
#: Of one key, a second: a page of Zipkin's is eight requests. Six times as many at once, after a pause; and one address
#: may ask five times as much, with whatever keys or none.
REQUESTS_PER_SECOND = 10
BURST_S, KEYS_AT_AN_ADDRESS = 6, 5
#: what a search may say; `limit` and `lookback` are capped
PARAMETERS = (
    "serviceName",
    "spanName",
    "remoteServiceName",
    "annotationQuery",
    "minDuration",
    "maxDuration",
    "endTs",
    "traceIds",
    "key",
)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?")
_UNQUOTABLE = re.compile(r'["\\${}\r\n]')


@dataclass(frozen=True)
class Wanted:
    """A gate as its operator asks for it."""

    host: str = LOOPBACK
    port: int = 9412
    viewers: Path | None = None  #: key file; None: the graph's
    tls: tuple[Path, Path] | None = None  #: certificate with its chain, and its key, both PEM
    origins: tuple[str, ...] = ()  #: of other pages that may read, such as https://grafana.example
    url: str | None = None  #: what people open, where that isn't the address it listens on

    rate: int = REQUESTS_PER_SECOND

    @property
    def own_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{reachable(self.host)}:{self.port}"

    @property
    def ui_base(self) -> str:
        return (self.url or self.own_url).rstrip("/")

    def check(self) -> None:
        """What can be known before anything is started. Problem with the option to correct."""
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise CliError(
                    "--gate-origin takes a scheme, a host and perhaps a port, and nothing behind them: "
                    "https://grafana.example:3000."
                )
        for file in self.tls or ():
            if not file.is_file():
                raise CliError(f"--gate-tls: {file} is no file. It takes a certificate and its key, both as PEM.")
            if _UNQUOTABLE.search(str(file.resolve())):
                raise CliError(
                    "--gate-tls: a path with a quote, a backslash, a brace or $ in it can't be named in "
                    "nginx's configuration; move the file."
                )


def fill(wanted: Wanted, zipkin_url: str, authority_port: int, template: str | None = None) -> str:
    """nginx's configuration. Raises Problem for a Zipkin that can't stand behind it."""
    certificate, key = (file.resolve() for file in wanted.tls) if wanted.tls else (None, None)
    values = {
        "user": _user(),
        "host": wanted.host,
        "port": wanted.port,
        "ssl": " ssl" if wanted.tls else "",
        "certificate": f'ssl_certificate "{certificate}"; ssl_certificate_key "{key}"; ssl_protocols TLSv1.2 TLSv1.3;'
        if wanted.tls
        else "",
        "zipkin": _behind(zipkin_url),
        "authority": f"{LOOPBACK}:{authority_port}",
        "origins": " ".join(f'"{origin}" $http_origin;' for origin in wanted.origins),
        "limit": up_to(MOST_TRACES),
        "most_traces": MOST_TRACES,
        "lookback": up_to(LONGEST_LOOKBACK_MS),
        "longest_lookback": LONGEST_LOOKBACK_MS,
        "parameters": _parameters(),
        "address_rate": wanted.rate * KEYS_AT_AN_ADDRESS,
        "address_burst": wanted.rate * KEYS_AT_AN_ADDRESS * BURST_S,
    }
    return _filled(TEMPLATE.read_text() if template is None else template, values)


def up_to(most: int) -> str:
    """A regular expression for the whole numbers from 0 to `most`, written without leading zeros or with some."""
    digits = str(most)
    shorter = [rf"\d{{1,{len(digits) - 1}}}"] if len(digits) > 1 else []
    smaller = [
        rf"{digits[:place]}[0-{int(digit) - 1}]\d{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if digit != "0"
    ]
    return "|".join([*shorter, *smaller, digits])


def _parameters() -> str:
    sources = {name: f"$arg_{name}" for name in PARAMETERS} | {"limit": "$at_most", "lookback": "$back"}
    lines = [
        f'    map {source} $say_{name} {{ "" ""; default "&{name}={source}"; }}' for name, source in sources.items()
    ]
    together = "".join(f"$say_{name}" for name in sources)
    without_first = f'    map "{together}" $query {{ default ""; "~^&(?<rest>.*)$" $rest; }}'
    return "\n".join([*lines, without_first])


def _filled(template: str, values: Mapping[str, object]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda place: str(values[place[1]]), template)


def _behind(zipkin_url: str) -> str:
    url = urlsplit(zipkin_url)
    if url.scheme != "http" or url.path.strip("/") or not url.hostname or _UNQUOTABLE.search(zipkin_url):
        raise CliError(
            f"The gate can stand before a Zipkin at http://host:port, not at {zipkin_url}. Have one started "
            "here (unset ZIPKIN_URL), or leave --with-gate out."
        )
    return f"{url.hostname}:{url.port or 80}"


def _user() -> str:
    """Started as root, nginx would give its workers to somebody who may not be able to read its folder."""
    if os.geteuid() != 0:
        return ""
    me = pwd.getpwuid(0)
    return f"user {me.pw_name} {grp.getgrgid(me.pw_gid).gr_name};"
