"""`python -m cluster demo`: send one real request to a running graph, and show its trace."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx
import soundfile

from cluster.cli_error import CliError
from cluster.ray_head import ROOT
from cluster.state import State
from speech import audio
from speech.errors import SpeechError
from speech.limits import CLIP_FORMATS, CLIP_SIZE, MAX_CLIP_BYTES
from tracing import tree

CLIP = ROOT / "cluster" / "assets" / "reference.flac"
CLIP_CREDIT = (
    "cluster/assets/reference.flac, made by this project from a blend of Kokoro-82M's stock voices; Apache License 2.0"
)
TEXT = "Every request leaves one trace, and this sentence is the first of them."
TEXT_DIALECT = "en-US"

SPANS = 5  #: SERVER spans of a plain request: the ingress and four stages
SPANS_OF_A_KNOWN_VOICE = 3  #: the two stages that find a voice are skipped
ANSWER_WITHIN_S = 180.0


@dataclass(frozen=True)
class Request:
    """The form of POST /api/generate; None leaves a field out."""

    clip: Path = CLIP
    text: str = TEXT
    dialect: str | None = None  #: of the text; only the demo's own text has one by itself
    mode: str = "fast"
    style_instruction: str | None = None
    prompt_text: str | None = None
    speed: float | None = None
    seed: int | None = None
    key: str | None = field(default=None, repr=False)  #: for a graph that asks for one; no part of the form

    @classmethod
    def of(cls, args: argparse.Namespace) -> Request:
        """Return the request that the command line asks for."""
        return cls(
            clip=args.clip,
            text=args.text,
            dialect=args.dialect,
            mode=args.mode,
            style_instruction=args.style_instruction,
            prompt_text=args.prompt_text,
            speed=args.speed,
            seed=args.seed,
            key=args.api_key,
        )

    def check(self) -> None:
        """Check what can be known before anything starts.

        Raises:
            CliError: An option is wrong; the message names it.
        """
        if self.dialect is None and self.text != TEXT:
            raise CliError(
                "--text needs --dialect with it (en-US, zh-CN, ja-JP …): no dialect is assumed. GET /api/dialects "
                "lists them all."
            )
        if not self.clip.exists():
            raise CliError(f"--clip {self.clip}: there is no such file.")
        if not self.clip.is_file():
            raise CliError(f"--clip {self.clip} is no file. Name one recording: {CLIP_FORMATS}.")
        size = self.clip.stat().st_size
        if not 0 < size <= MAX_CLIP_BYTES:
            raise CliError(f"--clip {self.clip} has {size} bytes; a clip has more than none and at most {CLIP_SIZE}.")
        try:
            audio.read(self.clip.read_bytes())
        except SpeechError as failure:
            raise CliError(
                f"--clip {self.clip} is not audio that can be read here. Give it as {CLIP_FORMATS}."
            ) from failure

    def form(self) -> dict[str, str]:
        fields = {
            "text": self.text,
            "dialect": self.dialect or TEXT_DIALECT,
            "mode": self.mode,
            "prompt_text": self.prompt_text,
            "style_instruction": self.style_instruction,
            "speed": self.speed,
            "seed": self.seed,
        }
        return {name: str(value) for name, value in fields.items() if value is not None}


def run(state: State, request: Request, say: Callable[[str], None], outputs: Path) -> None:
    """Send `request`, write the speech into `outputs`, print the trace and the links.

    Raises:
        CliError: A step fails; the message says which, and why.
    """
    credit = CLIP_CREDIT if request.clip == CLIP else str(request.clip)
    say(f"cloning from {credit}")
    say(f"POST /api/generate: {request.form()['dialect']}, {request.mode}, “{request.text}”")
    began = time.monotonic()
    answer = _post(state, request)
    took = time.monotonic() - began
    trace_id = answer.headers.get("X-Trace-Id", "")
    if answer.status_code != 200:
        raise CliError(
            f"The service answered {answer.status_code}: {_message(answer)}\nIts trace: {_trace_link(state, trace_id)}"
        )
    try:
        info = soundfile.info(io.BytesIO(answer.content))
    except soundfile.LibsndfileError as failure:
        raise CliError("The service answered 200, but not with audio.") from failure
    outputs.mkdir(parents=True, exist_ok=True)
    path = outputs / f"output_{datetime.now():%Y%m%d_%H%M%S}_{trace_id}.wav"
    path.write_bytes(answer.content)
    say(
        f"{info.duration:.1f} s of speech in {took:.1f} s (real-time factor {took / info.duration:.2f}): {_short(path)}"
    )
    print(f"\n{_tree(state, trace_id)}\n\n{links(state, trace_id)}\n", flush=True)


def links(state: State, trace_id: str | None = None) -> str:
    """Return the addresses of everything that has a page, one a line: the trace first, if there is one."""
    lines = [f"trace             {_trace_link(state, trace_id)}"] if trace_id else []
    if state.page_url is not None:
        lines.append(f"web page          {state.page_url}")
    if state.zipkin is not None:
        lines.append(f"dependency graph  {state.traces_url}/zipkin/dependency")
    if state.ray is not None:
        lines.append(f"Ray dashboard     {state.ray.dashboard_url}")
    if state.prometheus is not None:
        lines.append(f"Prometheus        {state.prometheus.url}/alerts")
    if state.alertmanager is not None:
        lines.append(f"Alertmanager      {state.alertmanager.url}")
    return "\n".join([*lines, f"API               {state.http_url}/docs"])


def _post(state: State, request: Request) -> httpx.Response:
    try:
        with open(request.clip, "rb") as clip:
            return httpx.post(
                f"{state.http_url}/api/generate",
                data=request.form(),
                files={"prompt_audio": (request.clip.name, clip)},
                timeout=ANSWER_WITHIN_S,
                headers={"Authorization": f"Bearer {request.key}"} if request.key else None,
                trust_env=False,
            )
    except httpx.TimeoutException as failure:
        raise CliError(f"The service gave no answer within {ANSWER_WITHIN_S:.0f} s.") from failure
    except httpx.HTTPError as failure:
        raise CliError(f"The connection to {state.http_url} broke ({type(failure).__name__}).") from failure


def _message(answer: httpx.Response) -> str:
    try:
        return answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]


def _trace_link(state: State, trace_id: str) -> str:
    if state.zipkin is not None:
        return f"{state.traces_url}/zipkin/traces/{trace_id}"
    return f"{trace_id} in {state.spans_file}"


def _tree(state: State, trace_id: str) -> str:
    try:
        if state.zipkin is not None:
            spans = tree.fetch(state.zipkin.url, trace_id, expect=SPANS_OF_A_KNOWN_VOICE, timeout_s=20)
            if not _known(spans):
                spans = tree.fetch(state.zipkin.url, trace_id, expect=SPANS, timeout_s=20)
        else:
            spans = from_file(Path(state.spans_file or ""), trace_id)
    except tree.TraceNotFound as failure:
        raise CliError(str(failure)) from failure
    drawn = tree.render(spans, colour=sys.stdout.isatty())
    return (
        f"{drawn}\nThe graph knew this voice (voice.cache=hit), so two of the four stages had nothing to do."
        if _known(spans)
        else drawn
    )


def _known(spans: list[dict]) -> bool:
    return any(span.get("tags", {}).get("voice.cache") == "hit" for span in spans)


def from_file(path: Path, trace_id: str, within_s: float = 10.0) -> list[dict]:
    """Return one trace of a JSON-lines file of spans, once it is written.

    Raises:
        CliError: It was not written within `within_s` seconds.
    """
    until = time.monotonic() + within_s
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        # A trace is one line, written at once.
        for line in lines:
            spans = json.loads(line)
            if spans and spans[0].get("traceId") == trace_id:
                return spans
        if time.monotonic() > until:
            raise CliError(f"Trace {trace_id} was not written to {path} within {within_s:.0f} s.")
        time.sleep(0.1)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def add_command(commands, stack: argparse.ArgumentParser, environment: str) -> None:
    """Add the subcommand `demo`; `stack` has the options of a stack, `environment` ends the help."""
    command = commands.add_parser(
        "demo",
        parents=[stack],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="start everything, send one real request, show its trace, serve until Ctrl-C",
        description="Starts everything, or uses what `up` has started. Sends one real request, writes the speech to "
        "outputs/, and shows\nthe trace as Zipkin has it. Serves until Ctrl-C.",
        epilog="example:\n  python -m cluster demo --clip me.wav --text 'Good morning.' --dialect en-US "
        "--mode instruct --style-instruction 'speak slowly'\n\n" + environment,
    )
    request = command.add_argument_group("the request")
    default = Request()
    request.add_argument(
        "--clip",
        type=Path,
        default=default.clip,
        metavar="FILE",
        help="reference recording, 3 to 15 s, 16 kHz or more: wav, flac, ogg, mp3, m4a, mp4, webm, aac "
        "(default: a voice the project made itself)",
    )
    request.add_argument("--text", default=default.text, help="text to speak, at most 200 characters")
    request.add_argument(
        "--dialect",
        default=default.dialect,
        help="dialect of --text, required with it: en-US, zh-CN …; GET /api/dialects lists them",
    )
    request.add_argument("--mode", default=default.mode, choices=("fast", "instruct"))
    request.add_argument("--style-instruction", metavar="TEXT", help="how to say it (mode instruct)")
    request.add_argument("--prompt-text", metavar="TEXT", help="transcript of the recording")
    request.add_argument("--speed", type=float, help="0.5 to 2")
    request.add_argument("--seed", type=int)
    command.add_argument("--once", action="store_true", help="stop after the request")
    command.add_argument(
        "--outputs",
        type=Path,
        default=ROOT / "outputs",
        metavar="DIR",
        help="where the speech is written (default: outputs)",
    )
