"""Zipkin's Elasticsearch storage: does an Elasticsearch or OpenSearch answer, which one is it, what is Zipkin told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from cluster.cli_error import CliError

EXAMPLE = "http://127.0.0.1:9200"
#: major versions that Zipkin 3.6 takes; before Elasticsearch 7 its indices had other names, which `links` doesn't know
MAJORS = {"Elasticsearch": range(7, 10), "OpenSearch": range(1, 4)}
#: Zipkin's own 10 s are short for a day's first write, which makes an index; what takes longer, it drops.
TIMEOUT_MS = os.environ.get("ES_TIMEOUT") or "60000"


def check_url(url: str) -> None:
    """Problem where this is no address of a server."""
    try:
        parts = urlsplit(url)
        bad = parts.port == 0
    except ValueError:
        bad = True
    if (
        bad
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise CliError(
            f"The storage's address {url} should look like {EXAMPLE}, or https://user@search.example:9200: "
            "scheme, host and port, nothing behind them."
        )


@dataclass(frozen=True)
class Server:
    """One that is asked over HTTP. `url` has no user in it."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, password: str = "") -> Server:
        check_url(url)
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        if parts.port is None:
            place += ":9200"  # what Zipkin takes, too; a browser would take 80
        return cls(urlunsplit((parts.scheme, place, "", "", "")), unquote(parts.username or ""), password)

    def client(self) -> httpx.Client:
        auth = httpx.BasicAuth(self.user, self.password) if self.user else None
        return httpx.Client(base_url=self.url, auth=auth, timeout=60, trust_env=False)

    def ask(self) -> str:
        """Its name and version, `OpenSearch 2.19.3`. Problem where none answers, or one that Zipkin can't use."""
        try:
            with self.client() as client:
                answer = client.get("/", timeout=10)
        except httpx.HTTPError as failure:
            raise CliError(
                f"No Elasticsearch or OpenSearch answers at {self.url} ({type(failure).__name__}). Start it, "
                "or correct the address."
            ) from failure
        if answer.status_code in (401, 403):
            who = f"the user {self.user} with the password given" if self.user else "anybody without a name"
            raise CliError(
                f"{self.url} does not let in {who} ({answer.status_code}). Put the user into the address "
                "(https://user@host:9200) and the password into the environment as ZIPKIN_STORAGE_PASSWORD."
            )
        try:
            version = answer.json()["version"]
            number, name = version["number"], version.get("distribution", "elasticsearch")
            major = int(number.split(".")[0])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CliError(
                f"{self.url} answers ({answer.status_code}), but not as Elasticsearch or OpenSearch do. Is "
                "it the right address?"
            ) from None
        name = {"opensearch": "OpenSearch", "elasticsearch": "Elasticsearch"}.get(name, name)
        if major not in MAJORS.get(name, ()):
            wanted = " or ".join(f"{known} {majors[0]} to {majors[-1]}" for known, majors in MAJORS.items())
            raise CliError(f"{self.url} is {name} {number}; Zipkin's storage needs {wanted}.")
        return f"{name} {number}"

    def settings(self) -> dict[str, str]:
        """Zipkin's environment for this server."""
        login = {"ES_USERNAME": self.user, "ES_PASSWORD": self.password} if self.user else {}
        return {"STORAGE_TYPE": "elasticsearch", "ES_HOSTS": self.url, "ES_TIMEOUT": TIMEOUT_MS, **login}
