"""A stand-in for the HTTP API as docs/api.md has it, for tests of its clients: no graph, a tone in place of speech.

What it can't show is whether the API keeps that contract: tests/proof/test_web_page.py asks the real one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import time

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from cluster import ports
from speech.dialects import DIALECTS
from speech.mark import HEADER, Mark
from speech.wav_header import wav_header
from speech.words import GRANULARITIES

RATE = 24_000
SPOKEN = frozenset({"en-US", "en-GB", "zh-CN", "ja-JP"})
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MARK = Mark("The stand-in", TRACE)
SERVICES = {
    "PREPROCESS_AUDIO": "audio-service",
    "EXTRACT_SPEAKER": "embedding-service",
    "GENERATE_MEL": "tts-service",
    "VOCODE_WAV": "vocoder-service",
}


class StandInApi:
    """Serves at `url` until `close`. What it does next is in its attributes; what it was asked, in `asked`."""

    def __init__(self) -> None:
        self.reset()
        self._server, self.url = serve(self._app())

    def reset(self) -> None:
        """As good as new."""
        self.key: str | None = None  #: required where it is set
        self.refusal: tuple[int, dict] | None = None  #: status and error, before any audio
        self.at_fault: str | None = None  #: the service that a refusal names
        self.late_error: dict | None = None  #: sent as an event, after the first chunk of audio
        self.breaks_off = False  #: ends without `done`
        self.keeps_trace = True
        self.knows_voice = False  #: the first two stages are skipped
        self.pieces = 1
        self.chunks = 4  #: of half a second, for each piece
        self.pause_s = 0.01  #: before every event
        self.zipkin = "http://127.0.0.1:9411"
        self.voices: list[dict] = []
        self.asked: list[dict] = []  #: the forms; a file as its size
        self.cancelled = 0

    def close(self) -> None:
        self._server.should_exit = True

    def _app(self) -> FastAPI:
        app = FastAPI(telemetry={"tracing": False})

        @app.get("/api/dialects")
        async def dialects():
            return {
                "engine": {
                    "name": "embedded",
                    "version": "1",
                    "notice": "A stand-in.",
                    "sample_rate": RATE,
                    "reference_seconds": [3.0, 15.0],
                    "fits_voices": True,
                    "mixes_voices": True,
                    "live_text": False,
                    "timestamps": list(GRANULARITIES),
                    "modes": ["fast", "instruct"],
                },
                "languages": ["en", "ja", "zh"],
                "dialects": DIALECTS.public(SPOKEN),
            }

        @app.get("/v1/audio/voices")
        async def voices(request: Request):
            return self._denied(request) or JSONResponse({"object": "list", "data": self.voices})

        @app.post("/v1/audio/voices")
        async def keep(request: Request):
            if denied := self._denied(request):
                return denied
            form = await _form(request)
            self.voices.append(
                {
                    "id": f"voice_{len(self.voices)}",
                    "object": "audio.voice",
                    "name": form["name"],
                    "dialect": form["dialect"],
                    "consent": {"agreed": form["consent"], "at": "2026-11-25T22:20:00Z"},
                    "clip": {"seconds": 7.9, "sample_rate": 24000, "format": "flac", "bytes": 1000},
                    "fit": {"state": "queued", "step": 0, "steps": 0, "why": ""},
                }
            )
            return JSONResponse(self.voices[-1], 201)

        @app.patch("/v1/audio/voices/{voice}")
        async def rename(voice: str, request: Request):
            if denied := self._denied(request) or self._refused():
                return denied
            found = next(one for one in self.voices if one["id"] == voice)
            found["name"] = (await request.json())["name"]
            return JSONResponse(found)

        @app.post("/v1/audio/voices/{voice}/fit")
        async def fit(voice: str, request: Request):
            if denied := self._denied(request) or self._refused():
                return denied
            found = next(one for one in self.voices if voice in (one["id"], one["name"]))
            found["fit"] = {"state": "queued", "step": 0, "steps": 0, "why": ""}
            return JSONResponse(found, 202)

        @app.delete("/v1/audio/voices/{voice}")
        async def delete(voice: str, request: Request):
            if denied := self._denied(request) or self._refused():
                return denied
            self.voices[:] = [one for one in self.voices if one["id"] != voice]
            return JSONResponse({"id": voice, "object": "audio.voice.deleted", "deleted": True})

        @app.post("/api/generate")
        async def generate(request: Request):
            form = await _form(request)
            self.asked.append(form)
            if denied := self._denied(request):
                return denied
            if refused := self._refused():
                return refused
            assert form["stream_format"] == "sse"
            headers = {"X-Trace-Id": TRACE, HEADER: MARK.value()}
            return StreamingResponse(self._events(form), media_type="text/event-stream", headers=headers)

        return app

    def _refused(self) -> Response | None:
        if self.refusal is None:
            return None
        headers = {"X-Trace-Id": TRACE} | ({"X-Error-Service": self.at_fault} if self.at_fault else {})
        return JSONResponse({"error": self.refusal[1]}, self.refusal[0], headers)

    def _denied(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return JSONResponse(
            {
                "error": {
                    "message": "A key is missing or wrong. Send Authorization: Bearer KEY.",
                    "type": "unauthorized",
                    "param": None,
                    "code": "key_missing",
                }
            },
            401,
            {"X-Trace-Id": TRACE},
        )

    async def _events(self, form: dict):
        began = time.monotonic()
        try:
            async for name, data in self._told(form, began):
                await asyncio.sleep(self.pause_s)
                yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _told(self, form: dict, began: float):
        timings, seconds, first_ms = [], 0.0, None
        if form.get("fit") == "wait":
            for step in range(3):
                yield "fit", {"state": "running" if step < 2 else "done", "step": step, "steps": 2}
        stages = [name for name in SERVICES if not (self.knows_voice and name in list(SERVICES)[:2])]
        for piece in range(1, self.pieces + 1):
            for name in stages if piece == 1 else stages[-2:]:
                of_the_voice = name in list(SERVICES)[:2]
                pieces = 1 if of_the_voice else self.pieces
                common = {"stage": name, "service": SERVICES[name], "piece": piece, "pieces": pieces}
                yield "stage", common | {"state": "started"}
                at = (time.monotonic() - began) * 1e3
                if name == "VOCODE_WAV":
                    for index in range(self.chunks):
                        first_ms = first_ms or (time.monotonic() - began) * 1e3
                        audio = {"audio": _chunk(form["response_format"], seconds), "seconds": 0.5}
                        yield "audio", audio | (_words(form["text"], seconds) if "timestamps" in form else {})
                        seconds += 0.5
                        if self.late_error is not None and index == 0:
                            yield "error", {"error": self.late_error, "trace_id": TRACE}
                            return
                ms = (time.monotonic() - began) * 1e3 - at
                yield "stage", common | {"state": "done", "ms": ms}
                timings.append(
                    {
                        "stage": name,
                        "service": SERVICES[name],
                        "piece": piece,
                        "start_ms": at,
                        "duration_ms": ms,
                        "queue_ms": ms / 16,
                        "batch_wait_ms": ms / 8,
                        "batch_size": 2,
                        "compute_ms": ms * 3 / 4,
                    }
                )
        if not self.breaks_off:
            total_ms = (time.monotonic() - began) * 1e3
            yield (
                "done",
                {
                    "trace_id": TRACE,
                    "seconds": seconds,
                    "first_audio_ms": first_ms,
                    "total_ms": total_ms,
                    "trace_url": f"{self.zipkin}/zipkin/traces/{TRACE}" if self.keeps_trace else None,
                    "real_time_factor": total_ms / 1e3 / seconds,
                    "stages": timings,
                    **({"voice_fit": "fitted"} if form.get("fit") == "wait" else {}),
                },
            )


async def _form(request: Request) -> dict:
    async with request.form() as form:
        return {
            name: value if isinstance(value, str) else {"name": value.filename, "bytes": value.size}
            for name, value in form.items()
        }


def _chunk(response_format: str, seconds: float) -> str:
    """Half a second of a tone; a WAV file begins with a header that doesn't know its length."""
    time_s = seconds + np.arange(RATE // 2) / RATE
    pcm = (8000 * np.sin(2 * np.pi * 220 * time_s)).astype("<i2").tobytes()
    if response_format == "wav" and seconds == 0:
        pcm = wav_header(RATE, MARK) + pcm
    return base64.b64encode(pcm).decode()


def serve(app) -> tuple[uvicorn.Server, str]:
    """`app` on a free port of loopback, in a thread; ends when the server's `should_exit` is set."""
    port = ports.any_free()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
    )
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return server, f"http://127.0.0.1:{port}"


def _words(text: str, seconds: float) -> dict:
    """Return half of the words with the first half second of audio, the others with the next."""
    words = [(match[0], *match.span()) for match in re.finditer(r"[^\s.,!?。，！？]+", text)]
    half = words[: (len(words) + 1) // 2] if seconds == 0 else words[(len(words) + 1) // 2 :] if seconds == 0.5 else []
    each = 0.5 / max(len(half), 1)
    return {
        "timestamps": [
            {
                "text": word,
                "start": start,
                "end": end,
                "start_s": seconds + number * each,
                "end_s": seconds + (number + 1) * each,
            }
            for number, (word, start, end) in enumerate(half)
        ]
    }
