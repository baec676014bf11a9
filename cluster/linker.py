"""Zipkin's own DependencyLinker, out of the server's jar, fed with traces: who called whom, how often, with errors.

What a link is (a CLIENT and its SERVER child are one call, messaging, missing parents …) is thus decided by the same
code as in the storages that compute the dependency page by themselves. The class is in Zipkin's `internal` package:
another version of the jar may have moved it, which the compiler then says.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import java, java_source, zipkin_jar
from cluster.cli_error import CliError

SOURCE = Path(__file__).with_name("DependencyLinks.java")
#: What is kept between traces is one number a link: the heap doesn't grow with them.
_HEAP = "-Xmx256m"
_END_WITHIN_S = 60


@dataclass(frozen=True)
class Link:
    parent: str
    child: str
    calls: int
    errors: int

    def document(self) -> dict:
        """As Zipkin's storages keep it."""
        counts = {"callCount": self.calls} | ({"errorCount": self.errors} if self.errors else {})
        return {"parent": self.parent, "child": self.child, **counts}


class Linker:
    """A context manager around one run of the linker. Raises Problem where there is no Java or no jar."""

    def __init__(self, say: Callable[[str], None], env: Mapping[str, str] = os.environ) -> None:
        self._runtime, found = java.find(env)
        if self._runtime is None:
            raise CliError(f"Links are computed by Java. {found}")
        self._jar = zipkin_jar.obtain(say, env)
        self._say, self._env = say, env

    def __enter__(self) -> Linker:
        self._folder = tempfile.TemporaryDirectory(prefix="cosygraph-links-")
        try:
            folder = Path(self._folder.name)
            zipkin = folder / "zipkin.jar"
            zipkin.write_bytes(zipkin_jar.library(self._jar, "zipkin"))
            java_source.compile(SOURCE, [zipkin], folder, self._runtime, self._say, self._env)
            # To a file, not a pipe: nobody reads while traces are written.
            self._errors = open(folder / "errors", "w+")  # noqa: SIM115
            self._process = subprocess.Popen(
                [str(self._runtime), _HEAP, "-cp", f"{zipkin}{os.pathsep}{folder}", SOURCE.stem],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def put(self, spans: list[dict]) -> None:
        """One whole trace, as Zipkin v2 spans."""
        try:
            self._process.stdin.write(json.dumps(spans, separators=(",", ":")).encode() + b"\n")
        except BrokenPipeError:
            raise self._failed() from None

    def links(self) -> list[Link]:
        """The links of all traces put, sorted; nothing can be put afterwards."""
        try:
            output, _ = self._process.communicate(timeout=_END_WITHIN_S)
        except BrokenPipeError:
            raise self._failed() from None
        if self._process.returncode != 0:
            raise self._failed()
        return sorted(
            (
                Link(link["parent"], link["child"], link["callCount"], link.get("errorCount", 0))
                for link in json.loads(output)
            ),
            key=lambda link: (link.parent, link.child),
        )

    def _failed(self) -> CliError:
        self._process.wait(_END_WITHIN_S)
        self._errors.seek(0)
        said = "\n".join(self._errors.read().splitlines()[:5])
        return CliError(f"Zipkin's linker ended with an error:\n{said}")

    def __exit__(self, *raised) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                stream.close()
            except OSError:
                pass  # a pipe whose reader is gone
        self._folder.cleanup()
