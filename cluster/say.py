"""`python -m cluster say`: send one request to a running API, show its progress, write its speech to a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

from cluster import subtitles
from cluster.cli_error import CliError
from cluster.demo import MAX_CLIP_BYTES
from speech.text import check_long_text
from speech.words import GRANULARITIES, Word
from webui.client import FORMATS, Api, ApiError, Audio, Clip, Done, FitStep, Speech, Stage
from webui.sound import finished

KEY_VARIABLE = "COSYGRAPH_KEY"  #: the launcher takes it out of its own environment, into `args.api_key`
_SUFFIXES = {
    ".wav": "wav",
    ".pcm": "pcm",
    ".raw": "pcm",
    ".flac": "flac",
    ".mp3": "mp3",
    ".opus": "opus",
    ".ogg": "opus",
    ".aac": "aac",
}
#: options that write the words' times, and what they write
TIMES = {"srt": "subtitles (SubRip)", "vtt": "subtitles (WebVTT)", "json": "the words and their times"}
_STAGES = 4
_WIDTH = 28


@dataclass(frozen=True)
class Order:
    """The request that the command line asks for."""

    text: str
    output: Path
    url: str
    voice: str | None = None
    clip: Path | None = None
    dialect: str | None = None
    mode: str | None = None  #: instruct where a style is given, else fast
    style: str | None = None
    prompt_text: str | None = None
    speed: float | None = None
    seed: int | None = None
    long_form: bool = False
    wait_for_fit: bool = False
    format: str | None = None  #: else by the output's extension
    times: Mapping[str, Path] = field(default_factory=dict)  #: srt, vtt, json -> the file to write
    granularity: str = "word"  #: of those files
    key_file: Path | None = None
    key: str | None = field(default=None, repr=False)  #: the environment's
    zipkin_page: str | None = None  #: without /zipkin; None where the API is not this launcher's

    @classmethod
    def of(cls, args: argparse.Namespace, url: str, zipkin_page: str | None = None) -> Order:
        """Return the order of a command line, to the API at `url`."""
        return cls(
            text=args.text,
            output=args.output,
            url=url,
            voice=args.voice,
            clip=args.clip,
            dialect=args.dialect,
            mode=args.mode,
            style=args.style,
            prompt_text=args.prompt_text,
            speed=args.speed,
            seed=args.seed,
            long_form=args.long_form,
            wait_for_fit=args.wait_for_fit,
            format=args.format,
            times={kind: file for kind in TIMES if (file := getattr(args, kind)) is not None},
            granularity=args.timestamps,
            key_file=args.key_file,
            key=args.api_key,
            zipkin_page=zipkin_page,
        )

    @property
    def response_format(self) -> str:
        """The audio format.

        Raises:
            CliError: Neither --format nor the extension names one.
        """
        found = self.format or _SUFFIXES.get(self.output.suffix.lower())
        if found is None:
            raise CliError(
                f"-o {self.output}: its extension names no audio format. Use one of "
                f"{', '.join(sorted(_SUFFIXES))}, or say --format {'|'.join(FORMATS)}."
            )
        return found

    def api_key(self) -> str | None:
        """Return the API key of --key-file, or else of the environment.

        Raises:
            CliError: The file can't be read.
        """
        return api_key(self.key_file, self.key)

    def speech(self) -> Speech:
        """Return the request to send; the API checks its values.

        Raises:
            CliError: A part that the request can't be sent without is missing or unreadable.
        """
        if not self.text.strip():
            raise CliError("The text is empty: there is nothing to speak.")
        if (self.voice is None) == (self.clip is None):
            raise CliError("Name the voice: either --voice NAME, a stored one, or --clip FILE, a recording of it.")
        return Speech(
            text=self.text,
            dialect=self.dialect,
            voice=self.voice,
            clip=None if self.clip is None else _read(self.clip),
            mode=self.mode or ("instruct" if self.style else "fast"),
            style_instruction=self.style,
            prompt_text=self.prompt_text,
            speed=self.speed,
            seed=self.seed,
            long_form=self.long_form,
            fit="wait" if self.wait_for_fit else None,
            response_format=self.response_format,
            timestamps=self.granularity if self.times else None,
        )


def api_key(file: Path | None, key: str | None) -> str | None:
    """Return the API key in a file, or else the environment's.

    Raises:
        CliError: The file can't be read.
    """
    if file is None:
        return key or None
    try:
        return file.read_text().strip() or None
    except (OSError, UnicodeDecodeError) as failure:
        raise CliError(
            f"--key-file {file} can't be read ({type(failure).__name__}). It holds the key and nothing else."
        ) from failure


def _read(path: Path) -> Clip:
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_CLIP_BYTES:
            raise CliError(f"--clip {path} has {size} bytes; a clip has more than none and at most 20 MB.")
        # Not under the file's own name, which may tell who is speaking.
        return Clip(f"clip{path.suffix.lower()[:6]}", path.read_bytes())
    except OSError as failure:
        raise CliError(
            f"--clip {path} can't be read ({failure.strerror}). Name one recording: wav, flac, ogg, mp3, m4a, mp4, "
            "webm or aac."
        ) from failure


def run(order: Order, out: TextIO | None = None) -> None:
    """Send the request, show its progress, write the file, and print its figures and its trace.

    Args:
        order: The request.
        out: Where to print (default: standard output).

    Raises:
        CliError: A step fails; the message says which, and why.
    """
    out = out or sys.stdout
    speech, key = order.speech(), order.api_key()
    for option, file in {"-o": order.output, **{f"--{kind}": file for kind, file in order.times.items()}}.items():
        if not file.parent.is_dir():
            raise CliError(f"{option} {file}: its folder does not exist; make it first.")
    bar = _Bar(out)
    try:
        with Api(order.url, key) as api:
            if order.dialect is None and order.clip is not None:
                raise CliError(_choose_a_dialect(api))
            done, content, words = _ask(api, speech, bar)
    except ApiError as error:
        bar.end()
        raise CliError(message(error, order.zipkin_page)) from error
    except BaseException:
        bar.end()
        raise
    try:
        order.output.write_bytes(finished(content, speech.response_format))
    except OSError as failure:
        raise CliError(f"-o {order.output} can't be written ({failure.strerror}).") from failure
    for kind, file in order.times.items():
        try:
            file.write_text(_written(kind, words, check_long_text(speech.text), done.seconds), encoding="utf-8")
        except OSError as failure:
            raise CliError(f"--{kind} {file} can't be written ({failure.strerror}).") from failure
    factor = "" if done.real_time_factor is None else f"real-time factor {done.real_time_factor:.2f}"
    first = "" if done.first_audio_ms is None else f"first audio after {done.first_audio_ms / 1e3:.2f} s"
    figures = ", ".join(filter(None, (factor, first)))
    print(f"{done.seconds:.1f} s of speech in {done.total_ms / 1e3:.1f} s ({figures}): {order.output}", file=out)
    if done.voice_fit:
        said = "is fitted to its speaker" if done.voice_fit == "fitted" else "is steered, not fitted"
        more = "; `python -m cluster voices` tells more" if order.voice else ""
        print(f"the voice {said}{more}", file=out)
    kept = done.trace_url or f"{done.trace_id} was not kept (`--sampling 1` of `up` keeps every one)"
    print(f"trace: {kept}", file=out)


def _written(kind: str, words: list[Word], text: str, seconds: float) -> str:
    """Return the words as a file of a kind: srt, vtt or json. Offsets are positions in `text`."""
    if kind == "json":
        times = [word.as_json() for word in words]
        return json.dumps({"text": text, "seconds": seconds, "timestamps": times}, ensure_ascii=False, indent=1) + "\n"
    return (subtitles.srt if kind == "srt" else subtitles.vtt)(subtitles.cues(words, text))


def _ask(api: Api, speech: Speech, bar: _Bar) -> tuple[Done, bytes, list[Word]]:
    parts: list[bytes] = []
    words: list[Word] = []
    with closing(cast(Generator, api.generate(speech))) as events:
        for event in events:
            if isinstance(event, Stage):
                bar.stage(event)
            elif isinstance(event, FitStep):
                bar.fit(event)
            elif isinstance(event, Audio):
                parts.append(event.content)
                words += event.words
                bar.audio(event.seconds)
            else:
                bar.end()
                return event, b"".join(parts), words
    raise AssertionError("generate() ends with Done, or raises")


def _choose_a_dialect(api: Api) -> str:
    lines = ["--clip needs --dialect with it: no dialect is assumed. This engine speaks:"]
    lines += [
        f"  {one['code']:<14} {one['name']} ({one['english_name']})"
        for one in api.dialects()["dialects"]
        if one["supported"]
    ]
    return "\n".join(lines)


def message(error: ApiError, zipkin_page: str | None) -> str:
    """Return an error of the API for the command line, with its trace."""
    trace = error.trace_url or error.trace_id
    if error.trace_url is None and error.trace_id and zipkin_page:
        trace = f"{zipkin_page}/zipkin/traces/{error.trace_id}"  # traces of errors are always kept
    hint = ""
    if error.status in (401, 403):
        hint = f"\nThe key comes from {KEY_VARIABLE} or --key-file."
    return f"{error.message}{hint}" + (f"\nIts trace: {trace}" if trace else "")


class _Bar:
    """A progress bar: on a terminal one line that fills, elsewhere a line for each finished stage."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._done: set[tuple[str, int]] = set()
        self._pieces = 1
        self._share = 0.0
        self._seconds = 0.0
        self._now = ""
        self._drawn = False

    def stage(self, event: Stage) -> None:
        self._pieces = max(self._pieces, event.pieces)
        piece = f" {event.piece}/{event.pieces}" if event.pieces > 1 else ""
        if event.state != "done":
            self._now = f"{event.stage}{piece}"
        elif (event.stage, event.piece) not in self._done:
            self._done.add((event.stage, event.piece))
            if not self._terminal:
                print(
                    f"{event.stage:<17} {event.service:<18}{piece} {event.ms or 0:9.1f} ms", file=self._out, flush=True
                )
        self._draw()

    def fit(self, event: FitStep) -> None:
        step = f" {event.step}/{event.steps}" if event.steps else ""
        self._now = f"fit {event.state}{step}"
        if not self._terminal:
            print(f"{'FIT_VOICE':<17} {'fitting-service':<18} {event.state}{step}", file=self._out, flush=True)
        self._draw()

    def audio(self, seconds: float) -> None:
        self._seconds += seconds
        self._draw()

    def _draw(self) -> None:
        if not self._terminal:
            return
        # A voice is prepared once; every piece is generated and vocoded. A known voice skips the first two.
        names = {stage for stage, _ in self._done}
        known = self._pieces * 2 + (0 if names and "PREPROCESS_AUDIO" not in names else _STAGES - 2)
        # The number of pieces comes with the first piece, after stages that were half of the work until then.
        share = self._share = max(self._share, min(len(self._done) / known, 1.0))
        filled = round(share * _WIDTH)
        self._out.write(
            f"\r\x1b[K{'█' * filled}{'░' * (_WIDTH - filled)} {100 * share:3.0f} %  "
            f"{self._seconds:5.1f} s of speech  {self._now}"
        )
        self._out.flush()
        self._drawn = True

    def end(self) -> None:
        """Remove the bar."""
        if self._drawn:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._drawn = False


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `say`; `run_dir` has the options of all commands."""
    command = commands.add_parser(
        "say",
        parents=[run_dir],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="send one request to a running API, and write its speech to a file",
        description="Sends one request to the graph that runs here, or to --url. Shows its progress, writes speech, "
        "and\nprints the address of its trace.",
        epilog="examples:\n  python -m cluster say 'Good morning.' --voice anna -o out.wav\n  python -m cluster say "
        "'今天天气很好。' --clip me.wav --dialect zh-CN --style '请非常开心地说一句话。' \\\n    -o out.mp3\n  "
        "python -m cluster say 'Good morning.' --voice anna -o out.wav --srt out.srt\n\n"
        f"environment:\n  {KEY_VARIABLE}    the API key, where keys are in force\n",
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "text",
        nargs="?",
        default="",
        help="text to speak: at most 200 characters, with --long 5,000; [pause:0.5s] in it is a pause",
    )
    what.add_argument(
        "--follow",
        action="store_true",
        help="speak standard input while it is written, clause by clause (docs/live.md); `-o -` gives PCM to a player",
    )
    whose = command.add_mutually_exclusive_group(required=True)
    whose.add_argument("--voice", metavar="NAME", help="a stored voice, by name or id; or a mix: 'anna(2)+bob(1)'")
    whose.add_argument(
        "--clip",
        type=Path,
        metavar="FILE",
        help="a recording of the voice, 3 to 15 s, 16 kHz or more: wav, flac, ogg, mp3, m4a, mp4, webm, aac",
    )
    command.add_argument(
        "--dialect", help="of the text: en-US, zh-CN, zh-Sichuan …; required with --clip, else the stored voice's own"
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="its extension chooses the format: .wav .flac .mp3 .opus .aac .pcm",
    )
    for kind, what in TIMES.items():
        command.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"also write {what}")
    command.add_argument(
        "--timestamps",
        choices=GRANULARITIES,
        default="word",
        help="what gets a time in those files (default: %(default)s); /api/dialects says what the engine knows",
    )
    command.add_argument("--format", choices=FORMATS, help="audio format (default: by the extension)")
    command.add_argument(
        "--mode",
        choices=("fast", "instruct"),
        help="3s极速复刻 or 自然语言控制 (default: instruct where there is a --style)",
    )
    command.add_argument("--style", metavar="TEXT", help="how to say it (mode instruct)")
    command.add_argument("--prompt-text", metavar="TEXT", help="transcript of the recording")
    command.add_argument("--speed", type=float, help="0.5 to 2")
    command.add_argument("--seed", type=int)
    command.add_argument("--long", action="store_true", dest="long_form", help="split a long text by sentence")
    command.add_argument(
        "--wait-for-fit",
        action="store_true",
        help="speak when the voice is fitted to its speaker, which may take minutes",
    )
    command.add_argument("--url", help="of the API (default: the graph that runs here, or http://127.0.0.1:8000)")
    command.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"holds the API key (default: the variable {KEY_VARIABLE})"
    )
