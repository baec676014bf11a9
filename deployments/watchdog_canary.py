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

from deployments.gateway import LINE_HEADER
from watchdog.canary import NOTHING_SAID, Checked, Outcome, judged
from watchdog.judge import PRIMARY
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
        self._samples = samples[:int(CLIP_S * self._rate)]
        self._said: int | None = None

    async def ready(self) -> str | None:
        """The service that `/ready` misses, or None; the ingress where nothing answers."""
        try:
            answer = await self._http.get("/ready", timeout=10)
            missing = [service for service, ok in answer.json().get("stages", {}).items() if not ok]
        except (httpx.HTTPError, ValueError, AttributeError):
            return INGRESS
        return missing[0] if len(missing) == 1 else None

    async def ask(self, services: Collection[str]) -> Checked:
        """One canary, on the first engine. Never raises for what comes back."""
        began = time.time_ns()
        try:
            async with asyncio.timeout(self._settings.canary_within_s):
                answer = await self._http.post(
                    "/api/generate", headers=self._headers(), files={"prompt_audio": ("canary.wav", self._clip())},
                    data={"text": self._settings.canary_text, "dialect": await self._dialect(), "seed": "1"})
            error = _error(answer) if answer.status_code != 200 else {}
            outcome, service = judged(answer.status_code, answer.content, error, services)
        except TimeoutError:
            return Checked(Outcome.SILENT, began, time.time_ns())
        except (httpx.HTTPError, ValueError, KeyError):
            return Checked(Outcome.UNREACHABLE, began, time.time_ns(), INGRESS)
        if outcome is Outcome.OK and time.time_ns() - began > self._settings.canary_slow_s * 1e9:
            outcome = Outcome.SLOW
        if outcome is Outcome.REFUSED and answer.status_code != self._said:
            log.warning("the watchdog's canary is refused with %d (%s), so it sees nothing; %s", answer.status_code,
                        error.get("code") or error.get("type"), "set canary_key_file to a file with an API key that "
                        "may synthesize" if answer.status_code in (401, 403) else "set canary_dialect or canary_text")
        self._said = answer.status_code if outcome in NOTHING_SAID else None
        return Checked(outcome, began, time.time_ns(), service, answer.headers.get("x-trace-id"))

    def _clip(self) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, self._samples * random.uniform(0.8, 1.0), self._rate, format="WAV", subtype="PCM_16")
        return file.getvalue()

    def _headers(self) -> dict[str, str]:
        headers = {LINE_HEADER: PRIMARY}
        if self._settings.canary_key_file is not None:
            try:
                headers["Authorization"] = f"Bearer {Path(self._settings.canary_key_file).read_text().strip()}"
            except OSError as error:
                log.warning("canary_key_file can't be read (%s)", error.strerror)
        return headers

    async def _dialect(self) -> str:
        if self._settings.canary_dialect is not None:
            return self._settings.canary_dialect
        answer = await self._http.get("/api/dialects")
        spoken = [one["code"] for one in answer.json()["dialects"] if one["supported"]]
        return next((code for code in PREFERRED if code in spoken), spoken[0] if spoken else PREFERRED[0])


def _error(answer: httpx.Response) -> dict:
    try:
        found = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
