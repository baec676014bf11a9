"""Asks the HTTP API (docs/api.md) for the web page and for `python -m cluster say`."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from speech.mark import HEADER, Mark
from speech.words import Phoneme, Word
from webui import sse

#: Nothing is said between two events for as long as a stage computes; the service's own deadline is shorter.
SILENCE_S = 180.0
FORMATS = ("wav", "pcm", "flac", "mp3", "opus", "aac")


class ApiError(Exception):
    """Reports an error that the API answered with, in its own words, or that it could not be reached."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        status: int | None = None,
        service: str | None = None,
        trace_id: str | None = None,
        trace_url: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.type = type
        self.service = service
        self.param = param
        self.status = status
        self.trace_id = trace_id
        self.trace_url = trace_url


@dataclass(frozen=True)
class Clip:
    name: str
    content: bytes


@dataclass(frozen=True)
class Speech:
    """Holds the fields of POST /api/generate; None leaves a field out. It needs one of `clip` and `voice`."""

    text: str
    dialect: str | None = None
    clip: Clip | None = None
    voice: str | None = None
    mode: str = "fast"
    style_instruction: str | None = None
    prompt_text: str | None = None
    speed: float | None = None
    seed: int | None = None
    long_form: bool = False
    response_format: str = "wav"
    fit: str | None = None  #: wait: speak when the voice is fitted to its speaker
    timestamps: str | None = None  #: part, character, word or phoneme: the audio comes with its times

    def form(self) -> dict[str, str]:
        fields = {
            "text": self.text,
            "dialect": self.dialect,
            "voice": self.voice,
            "mode": self.mode,
            "style_instruction": self.style_instruction,
            "prompt_text": self.prompt_text,
            "speed": self.speed,
            "seed": self.seed,
            "long_form": "true" if self.long_form else None,
            "response_format": self.response_format,
            "stream_format": "sse",
            "fit": self.fit,
            "timestamps": self.timestamps,
        }
        return {name: str(value) for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Stage:
    """Reports that a stage began or ended one piece of the text."""

    stage: str
    service: str
    state: str  #: started, done
    piece: int = 1
    pieces: int = 1
    ms: float | None = None


@dataclass(frozen=True)
class FitStep:
    """Reports how far the fit is that the request waits for."""

    state: str  #: queued, running, done, kept_steered, failed
    step: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Audio:
    content: bytes  #: the next bytes of the file
    seconds: float
    words: tuple[Word, ...] = ()  #: those that are complete with it, if timestamps were asked for


@dataclass(frozen=True)
class Timing:
    """Holds the times of one stage of one piece, in milliseconds since the request arrived."""

    stage: str
    service: str
    start_ms: float
    duration_ms: float
    piece: int = 1
    queue_ms: float = 0.0
    batch_wait_ms: float = 0.0
    batch_size: int = 1
    compute_ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Done:
    trace_id: str
    trace_url: str | None = None  #: None: the trace was not kept
    seconds: float  #: of speech
    first_audio_ms: float | None = None
    total_ms: float
    real_time_factor: float | None = None
    voice_fit: str | None = None  #: of a stored voice: fitted or steered; None where the engine fits no voices
    stages: tuple[Timing, ...]


Event = Stage | FitStep | Audio | Done


class Api:
    """Asks the API at `url`, with `key` where keys are in force. Every method raises ApiError."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.trace_id: str | None = None  #: of the latest `generate`, from the head of its answer
        self.mark: Mark | None = None  #: of its speech, from there too
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A key that is no header value (a line break, Chinese) is a wrong key.
        try:
            self._http = httpx.Client(
                base_url=self.url, headers=headers, trust_env=False, timeout=httpx.Timeout(SILENCE_S, connect=10)
            )
        except (UnicodeEncodeError, ValueError) as failure:
            raise ApiError(
                "The key holds characters that no key has; copy it again.", code="key_malformed"
            ) from failure

    def dialects(self) -> dict:
        """Return what GET /api/dialects answers: `engine`, `languages`, `dialects`."""
        return self._json(self._ask("GET", "/api/dialects"))

    def voices(self) -> list[dict]:
        return self._json(self._ask("GET", "/v1/audio/voices")).get("data", [])

    def voice(self, name_or_id: str) -> dict:
        return self._json(self._ask("GET", f"/v1/audio/voices/{quote(name_or_id, safe='')}"))

    def fit_voice(self, name_or_id: str) -> dict:
        """Ask for the fit of a stored voice, now or again."""
        return self._json(self._ask("POST", f"/v1/audio/voices/{quote(name_or_id, safe='')}/fit"))

    def keep_voice(self, clip: Clip, *, name: str, dialect: str, consent: str, prompt_text: str | None = None) -> dict:
        """Store a voice; `consent` is what its speaker agreed to, in words."""
        fields = {"name": name, "dialect": dialect, "consent": consent}
        if prompt_text:
            fields["prompt_text"] = prompt_text
        return self._json(
            self._ask("POST", "/v1/audio/voices", data=fields, files={"audio_sample": (clip.name, clip.content)})
        )

    def rename_voice(self, voice_id: str, name: str) -> dict:
        return self._json(self._ask("PATCH", f"/v1/audio/voices/{voice_id}", json={"name": name}))

    def delete_voice(self, voice_id: str) -> None:
        self._json(self._ask("DELETE", f"/v1/audio/voices/{voice_id}"))

    def generate(self, speech: Speech) -> Generator[Event]:
        """Send a request and yield its events as they happen, Done last. Closing the iterator cancels the request."""
        # A form of fields alone would go urlencoded: a part without a file name makes it multipart.
        fields: list[tuple[str, tuple[str | None, str | bytes]]] = [
            (name, (None, value)) for name, value in speech.form().items()
        ]
        if speech.clip is not None:
            fields.append(("prompt_audio", (speech.clip.name, speech.clip.content)))
        with self._told(), self._http.stream("POST", "/api/generate", files=fields) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _error(answer)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise ApiError(
                    f"{self.url} answers, but not with events: it is no Cosygraph, or an older one.", code="no_events"
                )
            self.trace_id = trace_id = answer.headers.get("x-trace-id")
            self.mark = Mark.parse(answer.headers.get(HEADER))
            for name, data in sse.events(answer.iter_bytes()):
                event = _event(name, data, trace_id)
                if isinstance(event, Done):
                    yield dataclasses.replace(event, voice_fit=event.voice_fit or answer.headers.get("x-voice-fit"))
                    return
                if event is not None:
                    yield event
        raise ApiError(
            "The answer broke off before its end; its trace says which stage did. Try again.",
            code="broken_off",
            trace_id=trace_id,
        )

    def _ask(self, method: str, path: str, **what) -> httpx.Response:
        with self._told():
            return self._http.request(method, path, **what)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as failure:
            raise ApiError(
                f"{self.url} did not answer in time. Is it overloaded? `make status` says what runs.", code="timeout"
            ) from failure
        except httpx.ConnectError as failure:
            raise ApiError(
                f"Nothing answers at {self.url}. `make up` starts the service, `make status` says where it is.",
                code="unreachable",
            ) from failure
        except httpx.HTTPError as failure:
            raise ApiError(
                f"The connection to {self.url} broke ({type(failure).__name__}). Try again.", code="connection_broke"
            ) from failure

    def _json(self, answer: httpx.Response) -> dict:
        if not answer.is_success:
            raise _error(answer)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ApiError(f"{self.url} answers, but is no Cosygraph.", code="not_json")
        return found

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *failure) -> None:
        self.close()


def _error(answer: httpx.Response) -> ApiError:
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {}
    message = error.get("message") or f"The service answered {answer.status_code} and did not say why."
    return ApiError(
        message,
        code=error.get("code"),
        type=error.get("type"),
        param=error.get("param"),
        status=answer.status_code,
        service=answer.headers.get("x-error-service"),
        trace_id=answer.headers.get("x-trace-id"),
        trace_url=answer.headers.get("x-trace-url"),
    )


def _word(fields: dict) -> Word:
    phonemes = tuple(Phoneme(**_known(Phoneme, one)) for one in fields.get("phonemes", ()))
    return Word(**_known(Word, fields) | {"phonemes": phonemes})


def _event(name: str, data: str, trace_id: str | None) -> Event | None:
    """Read one event; return None for a kind that is not known, because a newer service may have more."""
    try:
        fields = json.loads(data)
        if name == "stage":
            return Stage(**_known(Stage, fields))
        if name == "fit":
            return FitStep(**_known(FitStep, fields))
        if name == "audio":
            words = tuple(_word(one) for one in fields.get("timestamps", ()))
            return Audio(base64.b64decode(fields["audio"], validate=True), float(fields.get("seconds") or 0), words)
        if name == "done":
            stages = tuple(Timing(**_known(Timing, one)) for one in fields.get("stages", ()))
            return Done(**_known(Done, fields) | {"stages": stages})
        if name == "error":
            error = fields["error"]
            raise ApiError(
                error["message"],
                code=error.get("code"),
                type=error.get("type"),
                param=error.get("param"),
                trace_id=fields.get("trace_id") or trace_id,
                trace_url=fields.get("trace_url"),
            )
    except (ValueError, KeyError, TypeError) as failure:
        raise ApiError(
            f"The service sent an event of the kind {name!r} that can't be read; it is of another version.",
            code="event_malformed",
            trace_id=trace_id,
        ) from failure
    return None


def _known(kind: type, fields: dict) -> dict:
    return {field.name: fields[field.name] for field in dataclasses.fields(kind) if fields.get(field.name) is not None}
