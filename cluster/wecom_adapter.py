"""From Alertmanager's webhook to a WeCom group robot: `python -m cluster.wecom_adapter PORT`, on loopback.

    POST /alerts     Alertmanager's JSON; answered when WeCom has taken the message
    GET /health

Nothing is kept here: what WeCom does not take is answered with 503, and Alertmanager, which keeps it, sends it again.
The robot's key comes from the environment and goes nowhere but to WeCom: no line of the log has an address in it.
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
from cluster.wecom import API, API_VARIABLE, Robot

log = logging.getLogger("cluster.wecom")
for _name in ("httpx", "httpcore"):  # they would log each request's address, and the key is in it
    logging.getLogger(_name).setLevel(logging.WARNING)

MAX_BYTES = 4096  #: of markdown content, WeCom's limit
PER_MINUTE = 20  #: messages of one robot, WeCom's limit
TRIES = 3
PATIENCE_S = 8.0  #: longest wait for a place in the minute; Alertmanager waits 10 s and more
_MAX_SUMMARY = 400  #: characters
#: "System busy" and "too many calls": worth another try. Every other code is about what was sent, or the key.
_TRY_AGAIN = frozenset({-1, 45009})


class Refused(Exception):
    """WeCom will not take this message, however often it is sent."""


class Unavailable(Exception):
    """Not now. `after_s`: when there may be a place again."""

    def __init__(self, why: str, after_s: float = 1.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class Minute:
    """How many messages the last 60 s have seen."""

    def __init__(self, most: int = PER_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._sent: deque[float] = deque()

    def wait_s(self) -> float:
        """Until there is a place; 0 where there is one, which is then taken."""
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
        minute: Minute | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._robot = robot
        self._http = http
        self._minute = minute or Minute()
        self._sleep = sleep

    async def send(self, content: str) -> None:
        """Returns when WeCom has taken it. Raises Refused or Unavailable."""
        for attempt in range(1, TRIES + 1):
            await self._place()
            try:
                await self._once(content)
                return
            except Unavailable as failure:
                if attempt == TRIES:
                    raise
                log.warning("attempt %d of %d failed (%s)", attempt, TRIES, failure)
                await self._sleep(0.5 * 2 ** (attempt - 1))

    async def _place(self) -> None:
        while wait := self._minute.wait_s():
            if wait > PATIENCE_S:
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
        if code in _TRY_AGAIN:
            raise Unavailable(f"errcode {code}")
        if code != 0:
            raise Refused(f"errcode {code}")


def markdown(payload: Mapping) -> str:
    """Alertmanager's webhook (version 4) as WeCom's markdown: at most 4,096 bytes, whole alerts only."""
    alerts = payload["alerts"]
    parts: list[str] = []
    for index, alert in enumerate(alerts):
        part = _written(alert)
        more = len(alerts) - index - 1 + payload.get("truncatedAlerts", 0)
        rest = f"\n\nand {more} more" if more else ""
        if len("\n\n".join([*parts, part]).encode()) + len(rest.encode()) > MAX_BYTES:
            break
        parts.append(part)
    left_out = len(alerts) - len(parts) + payload.get("truncatedAlerts", 0)
    return "\n\n".join(parts) + (f"\n\nand {left_out} more" if left_out else "")


def _written(alert: Mapping) -> str:
    notes, name = alert.get("annotations", {}), alert.get("labels", {}).get("alertname", "alert")
    firing = alert.get("status") == "firing"
    head = f'<font color="warning">{name}</font>' if firing else f'<font color="info">{name} is over</font>'
    lines = [f"**{head}**", _cut(notes.get("summary", ""), _MAX_SUMMARY)]
    lines += [f"> {what}: {_cut(notes[what], 80)}" for what in ("stage", "value") if notes.get(what)]
    lines.append(f"> since: {alert.get('startsAt', '')[:19].replace('T', ' ')} UTC")
    if len(link := notes.get("traces", "")) in range(1, 1000):
        lines.append(f"[its traces]({link})")
    return "\n".join(filter(None, lines))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def app(sender: Sender) -> Starlette:
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
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    robot = Robot.of(os.environ, os.environ.get(API_VARIABLE) or API)
    if robot is None:
        sys.exit("No group robot is named in the environment.")
    sender = Sender(robot, httpx.AsyncClient(timeout=5, trust_env=True))
    uvicorn.run(app(sender), host=LOOPBACK, port=int(sys.argv[1]), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
