"""Pass Alertmanager's webhooks on to a WeCom group robot: `python -m cluster.wecom_adapter PORT`, on loopback.

    POST /alerts     Alertmanager's JSON; answered when WeCom has taken the message
    GET /health

The adapter stores nothing: if WeCom does not accept a message, it answers 503, and Alertmanager sends the alert again.
The robot's key comes from the environment and goes to WeCom alone: no line of the log has an address in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cluster.ports import LOOPBACK
from cluster.wecom import API, API_VARIABLE, ROBOT_VARIABLE, Robot
from cluster.wecom_message import MORE, render

log = logging.getLogger("cluster.wecom")
for _name in ("httpx", "httpcore"):  # they would log each request's address, and the key is in it
    logging.getLogger(_name).setLevel(logging.WARNING)

MAX_BYTES = 4096  #: of markdown content, WeCom's limit
PER_MINUTE = 20  #: messages of one robot, WeCom's limit
ATTEMPTS = 3
MAX_WAIT_S = 8.0  #: longest wait before a message; Alertmanager waits 10 s and more
#: "System busy", "too many calls" and "too many calls at a time". Every other code is about the message or the key, and
#: stays.
_RETRYABLE = frozenset({-1, 45009, 45033})


class Refused(Exception):
    """WeCom rejects this message, however often it is sent."""


class Unavailable(Exception):
    """WeCom can't take the message now. `after_s`: seconds after which it may."""

    def __init__(self, why: str, after_s: float = 1.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class RateWindow:
    """Counts the messages of the last 60 s."""

    def __init__(self, most: int = PER_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._sent: deque[float] = deque()

    def wait_s(self) -> float:
        """Return the seconds until a message may be sent; 0 counts one as sent now."""
        now = self._clock()
        while self._sent and self._sent[0] <= now - 60:
            self._sent.popleft()
        if len(self._sent) >= self._most:
            return self._sent[0] + 60 - now
        self._sent.append(now)
        return 0.0


class Sender:
    """Sends markdown to one robot."""

    def __init__(
        self,
        robot: Robot,
        http: httpx.AsyncClient,
        window: RateWindow | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._robot = robot
        self._http = http
        self._window = window or RateWindow()
        self._sleep = sleep

    async def send(self, content: str) -> None:
        """Return when WeCom has accepted the message.

        Raises:
            Refused: WeCom rejects it.
            Unavailable: WeCom does not accept it now, after all attempts.
        """
        for attempt in range(1, ATTEMPTS + 1):
            await self._wait_for_rate()
            try:
                await self._once(content)
                return
            except Unavailable as failure:
                if attempt == ATTEMPTS:
                    raise
                log.warning("attempt %d of %d failed (%s)", attempt, ATTEMPTS, failure)
                await self._sleep(0.5 * 2 ** (attempt - 1))

    async def _wait_for_rate(self) -> None:
        while wait := self._window.wait_s():
            if wait > MAX_WAIT_S:
                raise Unavailable(f"{PER_MINUTE} messages in the last minute", wait)
            await self._sleep(wait)

    async def _once(self, content: str) -> None:
        try:
            answer = await self._http.post(
                self._robot.url,
                params={"key": self._robot.key},
                json={"msgtype": "markdown", "markdown": {"content": content}},
            )
            code = answer.json()["errcode"] if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as failure:
            # Its text may hold the address, and with it the key.
            raise Unavailable(type(failure).__name__) from None
        if code is None:
            raise Unavailable(f"status {answer.status_code}")
        if code in _RETRYABLE:
            raise Unavailable(f"errcode {code}")
        if code != 0:
            raise Refused(f"errcode {code}")


def markdown(payload: Mapping) -> str:
    """Return Alertmanager's webhook (version 4) as WeCom's markdown: at most 4,096 bytes, whole alerts only."""
    alerts = payload["alerts"]
    parts: list[str] = []
    for index, alert in enumerate(alerts):
        part = render(alert)
        more = len(alerts) - index - 1 + payload.get("truncatedAlerts", 0)
        rest = f"\n\n{MORE.format(number=more)}" if more else ""
        if len("\n\n".join([*parts, part]).encode()) + len(rest.encode()) > MAX_BYTES:
            break
        parts.append(part)
    left_out = len(alerts) - len(parts) + payload.get("truncatedAlerts", 0)
    return "\n\n".join(parts) + (f"\n\n{MORE.format(number=left_out)}" if left_out else "")


def app(sender: Sender) -> Starlette:
    """Return the server: POST /alerts and GET /health."""

    async def alerts(request: Request) -> Response:
        try:
            content = markdown(await request.json())
        except (ValueError, KeyError, TypeError, AttributeError):
            return JSONResponse({"error": "This takes Alertmanager's webhook, version 4."}, 400)
        try:
            await sender.send(content)
        except Refused as refusal:
            log.error(
                "WeCom refuses a message (%s); is the robot's key right, and the robot still in its group?", refusal
            )
            return JSONResponse({"error": str(refusal)}, 400)
        except Unavailable as failure:
            log.warning("a message could not be sent (%s); Alertmanager will send it again", failure)
            return JSONResponse({"error": str(failure)}, 503, {"Retry-After": str(max(1, round(failure.after_s)))})
        return JSONResponse({"sent": True})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route("/alerts", alerts, methods=["POST"]), Route("/health", health)])


def main() -> None:
    """Serve on loopback, on the port that is the first argument."""
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    robot = Robot.of(os.environ, os.environ.get(API_VARIABLE) or API)
    if robot is None:
        sys.exit(f"No group robot is named in the environment: set {ROBOT_VARIABLE}.")
    sender = Sender(robot, httpx.AsyncClient(timeout=5, trust_env=True))
    uvicorn.run(app(sender), host=LOOPBACK, port=int(sys.argv[1]), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
