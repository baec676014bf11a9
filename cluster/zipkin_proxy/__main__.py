"""Run the gate: nginx, and the server that nginx asks about each request. If one of the two ends, the other is stopped.

`cluster.zipkin_proxy.process` starts this process. Its settings are its arguments and the folder's nginx.conf.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from access.authentication import Authenticator
from cluster.ports import LOOPBACK
from cluster.zipkin_proxy.auth import ViewerAuth
from cluster.zipkin_proxy.configuration import BURST_S
from cluster.zipkin_proxy.redacted import Redacted

_PR_SET_PDEATHSIG = 1
ZIPKIN_ANSWERS_WITHIN_S = 25.0  #: before nginx gives up


def application(auth: ViewerAuth, zipkin: httpx.AsyncClient) -> Starlette:
    return Starlette(routes=[Route("/auth", auth.check), *Redacted(zipkin).routes])


class Server(uvicorn.Server):
    def capture_signals(self):
        """Leave signals to `run`: nginx has to end first."""
        return nullcontext()


async def run(nginx: Path, folder: Path, app: Starlette, port: int) -> int:
    """Run nginx and the server until a signal comes or one of the two ends.

    Args:
        nginx: The program.
        folder: Holds nginx.conf; nginx's own paths are relative to it.
        app: The server that nginx asks.
        port: Where that server listens, on loopback.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 where one of the two ended by itself.
    """
    server = Server(
        uvicorn.Config(
            app,
            host=LOOPBACK,
            port=port,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=90,  # longer than nginx keeps a connection
            timeout_graceful_shutdown=5,
        )
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve())
    process = await asyncio.create_subprocess_exec(
        str(nginx), "-p", f"{folder}/", "-c", "nginx.conf", preexec_fn=_end_with_parent
    )
    ended, signalled = asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait({serving, ended, signalled}, return_when=asyncio.FIRST_COMPLETED)
    by_itself = not stop.is_set()
    if process.returncode is None:
        process.terminate()
    server.should_exit = True
    signalled.cancel()
    await asyncio.gather(serving, ended)
    return int(by_itself)


def _end_with_parent() -> None:
    """Let nginx end with this process even if this one is killed (Linux). Alone it could only answer 500."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.zipkin_proxy", description=__doc__)
    parser.add_argument("--nginx", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--viewers", required=True)
    parser.add_argument("--zipkin", required=True)
    parser.add_argument("--authority-port", type=int, required=True)
    parser.add_argument("--rate", type=int, required=True)
    args = parser.parse_args()
    zipkin = httpx.AsyncClient(base_url=args.zipkin, timeout=ZIPKIN_ANSWERS_WITHIN_S, trust_env=False)
    app = application(ViewerAuth(Authenticator(args.viewers), args.rate, args.rate * BURST_S), zipkin)
    return asyncio.run(run(args.nginx, args.folder, app, args.authority_port))


if __name__ == "__main__":
    sys.exit(main())
