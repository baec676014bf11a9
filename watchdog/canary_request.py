"""The canary: a real request through the HTTP ingress, with a clip of the project's own.

Each is a little quieter or louder than the one before: an ingress that knows a voice already skips two stages.
"""

from __future__ import annotations

import asyncio
import io
import logging
import random
import time
from collections.abc import Collection
from pathlib import Path

import httpx
import soundfile

from deployments.ingress.tracing_middleware import LINE_HEADER
from watchdog.canary import NOTHING_SAID, CanaryResult, Outcome, judged
from watchdog.policy import PRIMARY
from watchdog.settings import WatchdogSettings

log = logging.getLogger("ray.serve")

CLIP = Path(__file__).resolve().parent.parent / "cluster" / "assets" / "reference.flac"
INGRESS = "cosyvoice3-api"
CLIP_S = 4.0
PREFERRED = ("en-US", "zh-CN")  #: dialects, where the engine speaks them


class Canary:
    def __init__(self, settings: WatchdogSettings, http: httpx.AsyncClient) -> None:
        self._settings = settings
        self._http = http
        samples, self._rate = soundfile.read(CLIP, dtype="float32")
        self._samples = samples[: int(CLIP_S * self._rate)]
        self._said: int | None = None
        self._key_said = False
        self._spoken: str | None = None  # a dialect that the first engine speaks

    async def ready(self) -> str | None:
        """The service that `/ready` misses, or None; the ingress where it does not answer, or fails.

        Where there is no connection the ingress is not at fault: connections are made to the proxy before it.
        """
        try:
            answer = await self._http.get("/ready", timeout=10)
        except httpx.ReadTimeout:
            return INGRESS
        except httpx.HTTPError:
            return None
        try:
            missing = [service for service, ok in answer.json()["stages"].items() if not ok]
        except (ValueError, KeyError, TypeError, AttributeError):
            return INGRESS if answer.status_code >= 500 else None
        return missing[0] if len(missing) == 1 else None

    async def ask(self, services: Collection[str]) -> CanaryResult:
        """One canary, on the first engine. Never raises for what comes back."""
        began, headers = time.time_ns(), self._headers()
        try:
            async with asyncio.timeout(self._settings.canary_within_s):
                answer = await self._http.post(
                    "/api/generate",
                    headers=headers,
                    files={"prompt_audio": ("canary.wav", self._clip())},
                    data={"text": self._settings.canary_text, "dialect": await self._dialect(headers), "seed": "1"},
                )
        except TimeoutError:
            return CanaryResult(Outcome.SILENT, began, time.time_ns())
        except httpx.HTTPError:
            return CanaryResult(Outcome.UNREACHABLE, began, time.time_ns())
        error = _error(answer) if answer.status_code != 200 else {}
        outcome, service = judged(answer.status_code, answer.content, error, services)
        if outcome is Outcome.OK and time.time_ns() - began > self._settings.canary_slow_s * 1e9:
            outcome = Outcome.SLOW
        if outcome is Outcome.REFUSED and answer.status_code != self._said:
            log.warning(
                "the watchdog's canary is refused with %d (%s), so it sees nothing; %s",
                answer.status_code,
                error.get("code") or error.get("type"),
                "set canary_key_file to a file with an API key that may synthesize"
                if answer.status_code in (401, 403)
                else "set canary_dialect or canary_text",
            )
        self._said = answer.status_code if outcome in NOTHING_SAID else None
        if outcome is Outcome.REFUSED:
            self._spoken = None  # the graph may have another engine now
        return CanaryResult(outcome, began, time.time_ns(), service, answer.headers.get("x-trace-id"))

    def _clip(self) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, self._samples * random.uniform(0.8, 1.0), self._rate, format="WAV", subtype="PCM_16")
        return file.getvalue()

    def _headers(self) -> dict[str, str]:
        headers = {LINE_HEADER: PRIMARY}
        if self._settings.canary_key_file is not None:
            try:
                key = Path(self._settings.canary_key_file).read_text().strip()
                if not (key.isascii() and key.isprintable()):
                    raise ValueError
                headers["Authorization"] = f"Bearer {key}"
                self._key_said = False
            except (OSError, ValueError) as error:
                if not self._key_said:
                    log.warning("canary_key_file can't be read (%s)", getattr(error, "strerror", "it holds no API key"))
                self._key_said = True
        return headers

    async def _dialect(self, headers: dict[str, str]) -> str:
        """One of the first engine's, remembered."""
        if (known := self._settings.canary_dialect or self._spoken) is not None:
            return known
        answer = await self._http.get("/api/dialects", headers=headers)
        try:
            spoken = [one["code"] for one in answer.json()["dialects"] if one["supported"]]
        except (ValueError, KeyError, TypeError):
            return PREFERRED[0]  # what is wrong there, the canary's own answer says better
        self._spoken = next((code for code in PREFERRED if code in spoken), spoken[0] if spoken else None)
        return self._spoken or PREFERRED[0]


def _error(answer: httpx.Response) -> dict:
    try:
        found = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
