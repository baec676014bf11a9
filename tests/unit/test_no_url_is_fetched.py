"""Nothing a caller sends makes the service fetch a URL: what answers requests has no client to fetch one with."""

import ast
from pathlib import Path

from cluster.ray_head import ROOT

CLIENTS = {
    "urllib.request",
    "urllib3",
    "http.client",
    "httpx",
    "requests",
    "aiohttp",
    "websockets",
    "ftplib",
    "socket",
    "fsspec",
    "huggingface_hub",
    "smart_open",
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def clients(path: Path) -> set[str]:
    return {name for name in imported(path) for client in CLIENTS if name == client or name.startswith(f"{client}.")}


#: Asks the API under its own, configured address. It is asked nothing itself.
WATCHDOG = {ROOT / "watchdog" / "deployment.py", ROOT / "watchdog" / "canary_request.py"}


#: Fetches arrays from other replicas. The address is in a reference that a replica made, and in nothing of a caller's.
ARRAYS = ROOT / "deployments" / "array_server.py"


def test_what_answers_requests_has_no_http_client():
    files = {
        ROOT / "graph.py",
        *(file for room in ("access", "deployments", "speech", "engines") for file in (ROOT / room).rglob("*.py")),
    } - {ARRAYS}
    assert clients(ARRAYS) == {"socket"}
    assert len(files) > 60
    assert {str(file.relative_to(ROOT)): found for file in files if (found := clients(file))} == {}


def test_nor_does_it_use_the_one_of_the_watchdog():
    names = {f"watchdog.{file.stem}" for file in WATCHDOG}
    rooms = [file for room in ("access", "deployments", "speech", "engines") for file in (ROOT / room).rglob("*.py")]
    assert [file for file in rooms if imported(file) & names] == []


def test_the_search_finds_one():
    assert all(clients(file) for file in WATCHDOG)
    assert clients(ROOT / "tracing" / "http_post.py") == {"httpx"}, "which sends spans, to configured addresses"
