"""One press of the button: what is asked of the API, and what the page shows while it answers."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from webui import folder, sound, waterfall
from webui.client import Api, ApiError, Audio, Clip, Done, Speech, Stage
from webui.live import Live
from webui.progress import Progress


@dataclass(frozen=True)
class Wish:
    """The page's controls, as they are."""

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
        """What is still missing, by its name in `words.TEXTS`; None where the API can be asked."""
        if not self.dialect:
            return "wait_dialect"
        if self.source == "clip" and not self.clip:
            return "wait_clip"
        if self.source == "voice" and not self.voice:
            return "wait_voice"
        if not (self.text or "").strip():
            return "wait_text"
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
            long_form=self.long_form,
            response_format="pcm",
        )


@dataclass(frozen=True)
class Shown:
    """What the page shows now; None leaves as it is what is there."""

    progress: str | None = None
    live: dict | None = None
    file: Path | None = None
    result: str | None = None
    over: bool = False


def read_clip(path: str) -> Clip:
    """Under a name of ours: the file's own says things about people."""
    return Clip(f"clip{Path(path).suffix.lower()[:6]}", Path(path).read_bytes())


def run(wish: Wish, api_url: str, zipkin_ui_url: str | None, words: Mapping[str, str]) -> Generator[Shown]:
    """Ask the API; yields what to show, the last one with `over`. Closing it cancels the request."""
    if missing := wish.waits_for():
        yield Shown(result=_alert(words[missing]), over=True)
        return
    progress = Progress()
    live: Live | None = None
    pcm: list[bytes] = []
    yield Shown(progress=progress.html(words), result="")
    try:
        with Api(api_url, wish.key or None) as api:
            rate = int(api.dialects()["engine"]["sample_rate"])
            live = Live(secrets.token_hex(4), rate)
            for event in api.generate(wish.speech()):
                if isinstance(event, Stage):
                    progress.take(event)
                    yield Shown(progress=progress.html(words))
                elif isinstance(event, Audio):
                    pcm.append(event.content)
                    live.add(event.content)
                    yield Shown(live=live.value())
                elif isinstance(event, Done):
                    progress.finish(event)
                    yield from _finished(event, b"".join(pcm), rate, live, progress, words)
    except ApiError as error:
        progress.finish(None)
        yield Shown(
            progress=progress.html(words),
            live=live.value(over=True) if live else None,
            result=failed(error, zipkin_ui_url, words),
            over=True,
        )


def _finished(
    done: Done, pcm: bytes, rate: int, live: Live, progress: Progress, words: Mapping[str, str]
) -> Iterator[Shown]:
    # Gradio takes a copy, for as long as the page may want it (delete_cache).
    with tempfile.TemporaryDirectory(dir=folder.own()) as place:
        file = Path(place) / f"speech-{done.trace_id[:12]}.wav"
        file.write_bytes(sound.wav(pcm, rate))
        yield Shown(
            progress=progress.html(words), live=live.value(over=True), file=file, result=summary(done, words), over=True
        )


def summary(done: Done, words: Mapping[str, str]) -> str:
    """Figures, waterfall and the way to the trace."""
    figures = [(words["seconds"], f"{done.seconds:.1f} s", ""), (words["total"], f"{done.total_ms / 1000:.2f} s", "")]
    if done.real_time_factor is not None:
        figures.append((words["rtf"], f"{done.real_time_factor:.2f}", words["rtf_hint"]))
    if done.first_audio_ms is not None:
        figures.insert(1, (words["first_audio"], f"{done.first_audio_ms / 1000:.2f} s", ""))
    tiles = "".join(
        f'<div title="{escape(hint)}"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, value, hint in figures
    )
    return (
        f'<div role="status" class="summary"><dl class="figures">{tiles}</dl></div>{waterfall.draw(done, words)}'
        f"{_trace(done.trace_url, done.trace_id, words)}"
    )


def failed(error: ApiError, zipkin_ui_url: str | None, words: Mapping[str, str]) -> str:
    """The API's own words, and the trace: failed requests' traces are always kept."""
    url = error.trace_url
    if url is None and zipkin_ui_url and error.trace_id:
        url = f"{zipkin_ui_url.rstrip('/')}/zipkin/traces/{error.trace_id}"
    link = ""
    if url is not None and _is_page(url):
        link = _link(url, words)
    elif error.trace_id:
        link = f'<p class="trace">{escape(words["trace_id"])}: <code>{escape(error.trace_id)}</code></p>'
    return _alert(error.message, words["failed"]) + link


def _alert(text: str, title: str = "") -> str:
    head = f"<strong>{escape(title)}</strong><br>" if title else ""
    return f'<div role="alert" class="problem">{head}{escape(text)}</div>'


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
