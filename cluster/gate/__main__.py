"""The gate's process: nginx, and the server that it asks. Neither stays without the other.

`cluster.gate.process` starts it; what it is told is in its arguments and in the folder's nginx.conf.
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
from cluster.gate.configuration import BURST_S
from cluster.gate.stripped import Stripped
from cluster.gate.viewers import Viewers
from cluster.ports import LOOPBACK

_PR_SET_PDEATHSIG = 1
ZIPKIN_ANSWERS_WITHIN_S = 25.0  #: before nginx gives up


def application(viewers: Viewers, zipkin: httpx.AsyncClient) -> Starlette:
    return Starlette(routes=[Route("/who", viewers.who), *Stripped(zipkin).routes])


class Server(uvicorn.Server):
    def capture_signals(self):
        """Ours, because nginx has to end first."""
        return nullcontext()


async def run(nginx: Path, folder: Path, app: Starlette, port: int) -> int:
    """Until SIGTERM or SIGINT (0), or until either of the two ends by itself (1)."""
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
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    serving = asyncio.create_task(server.serve())
    process = await asyncio.create_subprocess_exec(
        str(nginx), "-p", f"{folder}/", "-c", "nginx.conf", preexec_fn=_end_with_parent
    )
    ended, told = asyncio.create_task(process.wait()), asyncio.create_task(asked.wait())
    await asyncio.wait({serving, ended, told}, return_when=asyncio.FIRST_COMPLETED)
    by_itself = not asked.is_set()
    if process.returncode is None:
        process.terminate()
    server.should_exit = True
    told.cancel()
    await asyncio.gather(serving, ended)
    return int(by_itself)


def _end_with_parent() -> None:
    """Killed, this process takes nginx with it (Linux): a gate without its authority would only answer 500."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.gate", description=__doc__)
    parser.add_argument("--nginx", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--viewers", required=True)
    parser.add_argument("--zipkin", required=True)
    parser.add_argument("--authority-port", type=int, required=True)
    parser.add_argument("--rate", type=int, required=True)
    args = parser.parse_args()
    zipkin = httpx.AsyncClient(base_url=args.zipkin, timeout=ZIPKIN_ANSWERS_WITHIN_S, trust_env=False)
    app = application(Viewers(Authenticator(args.viewers), args.rate, args.rate * BURST_S), zipkin)
    return asyncio.run(run(args.nginx, args.folder, app, args.authority_port))


if __name__ == "__main__":
    sys.exit(main())
