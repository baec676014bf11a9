"""Asks the API for speech once, and says how the page changes while it answers."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from speech.errors import InvalidInput
from speech.limits import MAX_LONG_TEXT, MAX_TEXT
from speech.mark import Mark
from speech.text import check_long_text
from speech.words import Word
from webui import problems, sound, waterfall
from webui.client import Api, ApiError, Audio, Clip, Done, Speech, Stage
from webui.figures import duration
from webui.live import Live
from webui.problems import Problem
from webui.progress import Progress


@dataclass(frozen=True)
class Wish:
    """Holds the values of the page's controls."""

    source: str  #: clip or voice
    clip: str | None  #: path of the uploaded or recorded file
    voice: str | None
    dialect: str | None
    text: str | None
    mode: str
    style: str | None
    prompt_text: str | None
    speed: float | None
    seed: float | None
    long_form: bool
    key: str | None

    def waits_for(self) -> str | None:
        """Return the name in `words.TEXTS` of what is still missing, or None if the API can be asked."""
        if not (self.text or "").strip():
            return "wait_text"
        if not self.dialect:
            return "wait_dialect"
        if self.source == "clip" and not self.clip:
            return "wait_clip"
        if self.source == "voice" and not self.voice:
            return "wait_voice"
        if self.mode == "instruct" and not (self.style or "").strip():
            return "wait_style"
        return None

    def speech(self) -> Speech:
        """Make the request of a wish that waits for nothing."""
        assert self.text and self.dialect, "see waits_for"
        from_clip = self.source == "clip"
        return Speech(
            text=self.text,
            dialect=self.dialect,
            mode=self.mode,
            clip=read_clip(self.clip) if from_clip and self.clip else None,
            voice=None if from_clip else self.voice,
            style_instruction=self.style if self.mode == "instruct" else None,
            prompt_text=(self.prompt_text or "").strip() or None if from_clip else None,
            speed=self.speed,
            seed=None if self.seed is None else int(self.seed),
            long_form=self.long_form or needs_long_form(self.text),
            response_format="pcm",
        )


@dataclass(frozen=True)
class Finished:
    """Holds the speech of a request, as a WAV file.

    Attributes:
        wav: The file.
        seconds: Its length.
        trace_url: The address of the trace, if it is kept.
        whole: False where an error or Stop left only the beginning.
        words: What is said in it, with its times, if the engine tells.
    """

    wav: bytes = field(repr=False)
    seconds: float
    trace_url: str | None = None
    whole: bool = True
    words: tuple[Word, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Shown:
    """Describes a change of the page; None leaves a part as it is."""

    progress: str | None = None
    live: dict | None = None
    finished: Finished | None = None
    result: str | None = None
    problem: Problem | None = None
    over: bool = False


@dataclass
class Attempt:
    """Holds the state of one run that Stop needs too."""

    progress: Progress = field(default_factory=Progress)
    wish: Wish | None = None
    trace_id: str | None = None
    rate: int = 0  #: of the speech, in Hz
    mark: Mark | None = None  #: says that it is synthetic
    pcm: list[bytes] = field(default_factory=list, repr=False)
    words: list[Word] = field(default_factory=list, repr=False)

    def beginning(self, trace_url: str | None) -> Finished | None:
        """Return the speech that came before an error or Stop; None if there is none."""
        pcm = b"".join(self.pcm)
        pcm = pcm[: len(pcm) - len(pcm) % 2]  # a chunk may end within a sample
        if not pcm:
            return None
        wav = sound.wav(pcm, self.rate, self.mark)
        return Finished(wav, len(pcm) / 2 / self.rate, trace_url, whole=False, words=tuple(self.words))


def length(text: str | None) -> int:
    """Count the characters of a text as the API counts them: stripped, in NFC."""
    return len(unicodedata.normalize("NFC", (text or "").strip()))


def written(text: str | None) -> str:
    """Return a text as the API checks it, in which the offsets of its words count; as it is if it can't be spoken."""
    try:
        return check_long_text(text or "")
    except InvalidInput:
        return (text or "").strip()


def needs_long_form(text: str | None) -> bool:
    return length(text) > MAX_TEXT


def count(text: str | None, long_form: bool) -> str:
    """Draw the counter below the text: n/200, or n/5,000 for long text."""
    most = MAX_LONG_TEXT if long_form or needs_long_form(text) else MAX_TEXT
    found = length(text)
    return f'<p class="count{" over" if found > most else ""}">{found:,} / {most:,}</p>'


def read_clip(path: str) -> Clip:
    """Read a clip under a name of ours: the file's own says things about people."""
    return Clip(f"clip{Path(path).suffix.lower()[:6]}", Path(path).read_bytes())


def run(
    wish: Wish, api_url: str, zipkin_ui_url: str | None, words: Mapping[str, str], attempt: Attempt | None = None
) -> Generator[Shown]:
    """Ask the API and yield the changes of the page, the last one with `over`. To close it cancels the request.

    Args:
        wish: The page's controls.
        api_url: The API's base URL.
        zipkin_ui_url: Zipkin's base URL as people open it, if there is one.
        words: The page's texts.
        attempt: Receives the state of the run, for `stopped`.
    """
    if missing := wish.waits_for():
        yield Shown(result=alert(words[missing]), problem=problems.missing(missing, words), over=True)
        return
    attempt = attempt or Attempt()
    progress = attempt.progress
    live: Live | None = None
    yield Shown(progress=progress.html(words), result="")
    try:
        with Api(api_url, wish.key or None) as api:
            engine = api.dialects()["engine"]
            rate = attempt.rate = int(engine["sample_rate"])
            live = Live(secrets.token_hex(4), rate, written(wish.text))
            speech = replace(wish.speech(), timestamps="word" if "word" in engine.get("timestamps", ()) else None)
            for event in api.generate(speech):
                attempt.trace_id, attempt.mark = api.trace_id, api.mark
                if isinstance(event, Stage):
                    progress.take(event)
                    yield Shown(progress=progress.html(words))
                elif isinstance(event, Audio):
                    attempt.pcm.append(event.content)
                    attempt.words += event.words
                    live.add(event.content, event.words)
                    yield Shown(live=live.value())
                elif isinstance(event, Done):
                    progress.finish("done", timings=event.stages)
                    yield Shown(
                        progress=progress.html(words),
                        live=live.value(over=True),
                        finished=Finished(
                            sound.wav(b"".join(attempt.pcm), rate, attempt.mark),
                            event.seconds,
                            event.trace_url,
                            words=tuple(attempt.words),
                        ),
                        result=summary(event, words),
                        over=True,
                    )
    except ApiError as error:
        progress.finish("failed", error.message, error.service)
        yield Shown(
            progress=progress.html(words),
            live=live.value(over=True) if live else None,
            finished=attempt.beginning(_kept_url(error.trace_url, error.trace_id, zipkin_ui_url)),
            result=failed(error, zipkin_ui_url, words),
            problem=problems.of(error, words),
            over=True,
        )


def spoken(api_url: str, key: str | None, speech: Speech) -> bytes:
    """Ask for speech (as pcm) and return the whole of it as a WAV file; raises ApiError."""
    with Api(api_url, key or None) as api:
        rate = int(api.dialects()["engine"]["sample_rate"])
        pcm = b"".join(event.content for event in api.generate(speech) if isinstance(event, Audio))
        return sound.wav(pcm, rate, api.mark)


def summary(done: Done, words: Mapping[str, str]) -> str:
    """Draw the figures, the waterfall and the link to the trace."""
    figures = [(words["seconds"], f"{done.seconds:.1f} {words['s']}", "")]
    if done.first_audio_ms is not None:
        figures.append((words["first_audio"], duration(done.first_audio_ms, words), ""))
    figures.append((words["total"], duration(done.total_ms, words), ""))
    if done.real_time_factor is not None:
        figures.append((words["rtf"], f"{done.real_time_factor:.2f}", words["rtf_hint"]))
    tiles = "".join(
        f'<div title="{escape(hint)}"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, value, hint in figures
    )
    return (
        f'<div role="status" class="summary"><dl class="figures">{tiles}</dl></div>'
        f"{_trace(done.trace_url, done.trace_id, words)}{waterfall.draw(done, words)}"
    )


def failed(error: ApiError, zipkin_ui_url: str | None, words: Mapping[str, str]) -> str:
    """Draw an error in the page's language, and the link to its trace."""
    problem = problems.of(error, words)
    said = alert(problem.text, words["failed"], problem.original or "")
    return said + _kept_trace(error.trace_url, error.trace_id, zipkin_ui_url, words)


def stopped(attempt: Attempt | None, zipkin_ui_url: str | None, words: Mapping[str, str]) -> Shown:
    """Say that a run was stopped: its stages, and the link to its trace once it has one."""
    said = f'<p role="status">{escape(words["stopped"])}</p>'
    if attempt is None:
        return Shown(result=said, over=True)
    attempt.progress.finish("stopped")
    return Shown(
        progress=attempt.progress.html(words),
        finished=attempt.beginning(_kept_url(None, attempt.trace_id, zipkin_ui_url)),
        result=said + _kept_trace(None, attempt.trace_id, zipkin_ui_url, words),
        over=True,
    )


def _kept_url(url: str | None, trace_id: str | None, zipkin_ui_url: str | None) -> str | None:
    """Return the address of the trace of a request that failed or was stopped: those are always kept."""
    if url is None and zipkin_ui_url and trace_id:
        return f"{zipkin_ui_url.rstrip('/')}/zipkin/traces/{trace_id}"
    return url


def _kept_trace(url: str | None, trace_id: str | None, zipkin_ui_url: str | None, words: Mapping[str, str]) -> str:
    url = _kept_url(url, trace_id, zipkin_ui_url)
    if url is not None and _is_page(url):
        return _link(url, words)
    if trace_id:
        return f'<p class="trace">{escape(words["trace_id"])}: <code>{escape(trace_id)}</code></p>'
    return ""


def at_field(problem: Problem) -> str:
    """Draw an error at its field. The alert in the result tells a screen reader; this one is silent."""
    return f'<div class="problem">{escape(problem.text)}</div>'


def alert(text: str, title: str = "", original: str = "") -> str:
    """Draw an error; a screen reader says it at once."""
    head = f"<strong>{escape(title)}</strong><br>" if title else ""
    below = f'<br><small lang="en">{escape(original)}</small>' if original else ""
    return f'<div role="alert" class="problem">{head}{escape(text)}{below}</div>'


def _trace(url: str | None, trace_id: str, words: Mapping[str, str]) -> str:
    if url is not None and _is_page(url):
        return _link(url, words)
    return f'<p class="trace kept-not">{escape(words["no_trace"].format(id=trace_id))}</p>'


def _link(url: str, words: Mapping[str, str]) -> str:
    return (
        f'<p class="trace"><a href="{escape(url)}" target="_blank" rel="noopener noreferrer">'
        f"{escape(words['trace'])} ↗</a></p>"
    )


def _is_page(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")
