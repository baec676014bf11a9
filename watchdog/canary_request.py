"""Sends the canary: a real request through the HTTP ingress, with a clip of the project's own.

Each clip is a little quieter or louder than the one before. With the same clip, an ingress that knows the voice would
skip two stages.
"""

from __future__ import annotations

import asyncio
import io
import logging
import random
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx
import soundfile

from deployments.ingress.tracing_middleware import LINE_HEADER
from tracing.vocabulary import INGRESS, PRIMARY
from watchdog.canary import INCONCLUSIVE, CanaryResult, Outcome, classify
from watchdog.settings import WatchdogSettings

log = logging.getLogger(__name__)

CLIP = Path(__file__).resolve().parent.parent / "cluster" / "assets" / "reference.flac"
CLIP_S = 4.0
PREFERRED_DIALECTS = ("en-US", "zh-CN")  #: if the engine speaks them
READY_WITHIN_S = 10


class Canary:
    """Sends canaries and reads readiness.

    Args:
        settings: The text, the dialect, the key, the limits of time.
        http: A client whose base URL is the API's.
    """

    def __init__(self, settings: WatchdogSettings, http: httpx.AsyncClient) -> None:
        self._settings = settings
        self._http = http
        samples, self._rate = soundfile.read(CLIP, dtype="float32")
        self._samples = samples[: int(CLIP_S * self._rate)]
        self._logged_status: int | None = None
        self._key_trouble_logged = False
        self._dialect_found: str | None = None  # a dialect that the primary engine speaks

    async def unready_service(self) -> str | None:
        """Return the one service that `/ready` misses, or None.

        The ingress counts as unready if it does not answer, or fails. Without a connection it is not at fault:
        connections are made to the proxy in front of it.
        """
        try:
            answer = await self._http.get("/ready", timeout=READY_WITHIN_S)
        except httpx.ReadTimeout:
            return INGRESS
        except httpx.HTTPError:
            return None
        try:
            missing = [str(service) for service, ok in answer.json()["stages"].items() if not ok]
        except (ValueError, KeyError, TypeError, AttributeError):
            return INGRESS if answer.status_code >= 500 else None
        return missing[0] if len(missing) == 1 else None

    async def send(self, services: Collection[str]) -> CanaryResult:
        """Send one canary to the primary engine. No answer raises an error.

        Args:
            services: The graph's services; a failed answer may name one of them.
        """
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
        outcome, service = classify(
            answer.status_code, answer.headers, answer.content, str(error.get("type", "")), services
        )
        if outcome is Outcome.OK and time.time_ns() - began > self._settings.canary_slow_s * 1e9:
            outcome = Outcome.SLOW
        if outcome is Outcome.REFUSED:
            self._log_refusal(answer.status_code, error)
            self._dialect_found = None  # the graph may have another engine now
        self._logged_status = answer.status_code if outcome in INCONCLUSIVE else None
        return CanaryResult(outcome, began, time.time_ns(), service, answer.headers.get("x-trace-id"))

    def _log_refusal(self, status: int, error: dict[str, Any]) -> None:
        if status == self._logged_status:
            return
        log.warning(
            "the watchdog's canary is refused with %d (%s), so it checks nothing; %s",
            status,
            error.get("code") or error.get("type"),
            "set canary_key_file to a file with an API key that may synthesize"
            if status in (401, 403)
            else "set canary_dialect or canary_text",
        )

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
                self._key_trouble_logged = False
            except (OSError, ValueError) as error:
                if not self._key_trouble_logged:
                    log.warning("canary_key_file can't be read (%s)", getattr(error, "strerror", "it holds no API key"))
                self._key_trouble_logged = True
        return headers

    async def _dialect(self, headers: dict[str, str]) -> str:
        """Choose a dialect that the primary engine speaks, and remember it."""
        if (known := self._settings.canary_dialect or self._dialect_found) is not None:
            return known
        answer = await self._http.get("/api/dialects", headers=headers)
        try:
            spoken = [str(one["code"]) for one in answer.json()["dialects"] if one["supported"]]
        except (ValueError, KeyError, TypeError):
            return PREFERRED_DIALECTS[0]  # the canary's own answer will tell more
        preferred = next((code for code in PREFERRED_DIALECTS if code in spoken), None)
        self._dialect_found = preferred or (spoken[0] if spoken else None)
        return self._dialect_found or PREFERRED_DIALECTS[0]


def _error(answer: httpx.Response) -> dict[str, Any]:
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
