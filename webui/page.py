"""Builds the page in one language: its controls and their events. `run.py` asks the API."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from webui import dialects, live, problems
from webui.client import Api, ApiError
from webui.offline import gr
from webui.problems import Problem
from webui.run import Attempt, Shown, Wish, at_field, count, failed, needs_long_form, read_clip, run, stopped
from webui.under_way import UnderWay
from webui.words import CLIP_ENDINGS, HELP, LANGUAGES, PRESETS, TEXTS

MAX_SEED = 2**32 - 1
#: Runs at the same time; the API's own admission decides, this only keeps threads from piling up.
MOST_RUNS = 32
RADIOS = (Path(__file__).parent / "radios.js").read_text()
KEYS = (Path(__file__).parent / "keys.js").read_text()
CLIP_FILES = (Path(__file__).parent / "clip_files.js").read_text()
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class Page:
    """Builds the Blocks of one language."""

    def __init__(
        self, language: str, api_url: str, zipkin_ui_url: str | None = None, api_docs_url: str | None = None
    ) -> None:
        self.language = language
        self.words = TEXTS[language]
        self.api_url = api_url
        self.zipkin_ui_url = zipkin_ui_url
        self.api_docs_url = api_docs_url
        self.under_way = UnderWay()
        self.problems: dict[str, gr.HTML] = {}  # by place
        self._attempts: dict[str, Attempt] = {}  # by session

    def build(self) -> gr.Blocks:
        # Files are looked at every ten minutes, and gone an hour after they were made.
        with gr.Blocks(
            title=f"Cosygraph · {self.words['tagline']}", analytics_enabled=False, delete_cache=(600, 3600)
        ) as blocks:
            gr.HTML(self._head(), elem_id="top")
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=340):
                    self._voice()
                    self._text()
                    self._delivery()
                with gr.Column(scale=1, min_width=340, elem_id="outcome"):
                    self._result()
            self._connect(blocks)
        return blocks

    def _head(self) -> str:
        links = "".join(
            f'<a href="../{name}/" hreflang="{name}" lang="{name}"'
            f"{' aria-current=page' if name == self.language else ''}>{title}</a>"
            for name, title in LANGUAGES.items()
        )
        if self.api_docs_url:
            links += f'<a href="{escape(self.api_docs_url)}" target="_blank">{escape(self.words["api_docs"])}</a>'
        if self.zipkin_ui_url:
            links += f'<a href="{escape(self.zipkin_ui_url)}/zipkin/" target="_blank" rel="noopener">Zipkin</a>'
        return (
            f'<header id="head"><h1>Cosygraph</h1><p>{escape(self.words["tagline"])}</p>'
            f'<nav aria-label="{escape(self.words["language"])}">{links}</nav></header>'
        )

    def _title(self, name: str) -> None:
        gr.HTML(f"<h2>{escape(self.words[name])}</h2>", elem_classes="title")

    def _problem(self, place: str) -> None:
        self.problems[place] = gr.HTML("", elem_id=f"problem-{place}", elem_classes="at-field")

    def _voice(self) -> None:
        words = self.words
        with gr.Column(variant="panel", elem_classes="panel"):
            self._title("voice")
            self.source = gr.Radio(
                [(words["from_clip"], "clip"), (words["from_store"], "voice")],
                value="clip",
                label=words["source"],
                container=False,
                elem_id="source",
            )
            self.clip = gr.Audio(
                sources=["upload", "microphone"], type="filepath", label=words["clip"], elem_id="clip", buttons=[]
            )
            self._problem("clip")
            with gr.Row(visible=False) as self.stored:
                self.voice = gr.Dropdown([], value=None, label=words["stored"], scale=4, elem_id="voice")
                self.refresh = gr.Button(words["refresh"], scale=1, min_width=90, elem_id="refresh")
            self._problem("voice")
            self.dialect = gr.HTML(
                "",
                html_template=dialects.template(words),
                js_on_load=dialects.SCRIPT,
                note="",
                options=dialects.options([], words, self.language),
                elem_id="dialect-box",
            )
            self._problem("dialect")
            with gr.Accordion(words["more"], open=False, elem_id="more") as self.more:
                self.prompt_text = gr.Textbox(label=words["prompt_text"], lines=1, elem_id="prompt-text")
                self._problem("prompt_text")
                self.key = gr.Textbox(
                    label=words["key"],
                    type="password",
                    elem_id="key",
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
                )
                self._problem("key")
            with gr.Accordion(words["keep"], open=False, elem_id="keep") as self.keep_box:
                self.keep_name = gr.Textbox(label=words["keep_name"], elem_id="keep-name")
                self.keep_consent = gr.Textbox(label=words["keep_consent"], elem_id="keep-consent")
                self.keep = gr.Button(words["keep_button"], elem_id="keep-button")
                self.kept = gr.HTML("", elem_id="kept")

    def _text(self) -> None:
        words = self.words
        with gr.Column(variant="panel", elem_classes="panel"):
            self._title("what")
            self.text = gr.Textbox(
                label=words["text"], placeholder=words["text_placeholder"], lines=4, max_lines=14, elem_id="text"
            )
            self.count = gr.HTML(count("", False), elem_id="count")
            self._problem("text")
            self.long_form = gr.Checkbox(label=words["long_form"], value=False, container=False, elem_id="long-form")
            with gr.Accordion(words["help"], open=False, elem_id="help"):
                gr.Markdown(HELP[self.language])

    def _delivery(self) -> None:
        words = self.words
        with gr.Column(variant="panel", elem_classes="panel"):
            self._title("how")
            self.mode = gr.Radio(
                [(words["mode_fast"], "fast"), (words["mode_instruct"], "instruct")],
                value="fast",
                label=words["mode"],
                container=False,
                elem_id="mode",
            )
            with gr.Column(visible=False) as self.instruct:
                with gr.Row(elem_id="presets"):
                    self.presets = [
                        (gr.Button(name, size="sm", min_width=40), told) for name, told in PRESETS[self.language]
                    ]
                self.style = gr.Textbox(label=words["style"], placeholder=words["style_placeholder"], elem_id="style")
                self._problem("style")
            with gr.Row():
                self.speed = gr.Slider(0.5, 2, value=1, step=0.05, label=words["speed"], elem_id="speed", scale=3)
                self.seed = gr.Number(
                    value=0,
                    minimum=0,
                    maximum=MAX_SEED,
                    precision=0,
                    label=words["seed"],
                    elem_id="seed",
                    scale=2,
                    min_width=120,
                )
                self.dice = gr.Button(words["dice"], scale=1, min_width=90, elem_id="dice")
            self._problem("speed")

    def _result(self) -> None:
        words = self.words
        with gr.Column(variant="panel", elem_classes="panel"):
            with gr.Row(elem_id="actions"):
                self.button = gr.Button(
                    f"{words['generate']} — {words['wait_dialect']}",
                    variant="secondary",
                    size="lg",
                    scale=5,
                    elem_id="generate",
                )
                self.stop = gr.Button(
                    words["stop"], variant="stop", size="lg", scale=1, min_width=90, visible=False, elem_id="stop"
                )
            self._title("result")
            self.progress = gr.HTML(f'<p class="idle">{escape(words["idle"])}</p>', elem_id="progress")
            self.live = gr.HTML(None, html_template=live.template(words), js_on_load=live.SCRIPT, elem_id="live")
            self.file = gr.Audio(
                label=words["file"], interactive=False, visible=False, elem_id="file", buttons=["download"]
            )
            self.result = gr.HTML("", elem_id="result")

    def _connect(self, blocks: gr.Blocks) -> None:
        wish = [
            self.source,
            self.clip,
            self.voice,
            self.dialect,
            self.text,
            self.mode,
            self.style,
            self.prompt_text,
            self.speed,
            self.seed,
            self.long_form,
            self.key,
        ]
        at_fields: list[gr.blocks.Block] = [*self.problems.values(), self.more]
        shown = [self.progress, self.live, self.file, self.result, self.button, self.stop, *at_fields]
        listed = [self.voice, self.result, *at_fields]
        blocks.load(self._opened, None, [self.dialect, self.voice, self.result], queue=False, **_QUIET)
        blocks.load(None, js=RADIOS, api_visibility="private")
        blocks.load(None, js=KEYS, api_visibility="private")
        blocks.load(None, js=self._clip_files(), api_visibility="private")
        self.source.change(
            lambda source: (
                gr.update(visible=source == "clip"),
                gr.update(visible=source == "voice"),
                gr.update(visible=source == "clip"),
            ),
            self.source,
            [self.clip, self.stored, self.keep_box],
            queue=False,
            **_QUIET,
        )
        self.source.select(self._voices, [self.key], listed, queue=False, **_QUIET)
        self.refresh.click(self._voices, [self.key], listed, queue=False, **_QUIET)
        self.mode.change(
            lambda mode: gr.update(visible=mode == "instruct"), self.mode, self.instruct, queue=False, **_QUIET
        )
        for button, told in self.presets:
            button.click(lambda told=told: told, None, self.style, queue=False, **_QUIET)
        self.dice.click(lambda: random.randint(0, MAX_SEED), None, self.seed, queue=False, **_QUIET)
        self.keep.click(
            self._keep,
            [self.clip, self.dialect, self.keep_name, self.keep_consent, self.prompt_text, self.key],
            [self.kept, self.voice, *at_fields],
            **_QUIET,
        )
        gr.on(
            [
                self.dialect.change,
                self.clip.change,
                self.voice.change,
                self.source.change,
                self.mode.change,
                self.text.change,
                self.style.change,
            ],
            self._waits,
            wish,
            self.button,
            queue=False,
            trigger_mode="always_last",
            **_QUIET,
        )
        for place, fields in self._fields().items():
            gr.on([field.change for field in fields], None, None, self.problems[place], js="() => ''", **_QUIET)
        self.text.change(
            self._counted,
            [self.text, self.long_form],
            [self.count, self.long_form],
            queue=False,
            trigger_mode="always_last",
            **_QUIET,
        )
        self.long_form.change(count, [self.text, self.long_form], self.count, queue=False, **_QUIET)
        running = self.button.click(self._run, wish, shown, concurrency_limit=MOST_RUNS, **_QUIET)
        self.stop.click(
            self._stopped,
            wish,
            [self.progress, self.result, self.button, self.stop],
            cancels=[running],
            queue=False,
            js="(...all) => { window.cosygraphSilence?.(); return all; }",
            **_QUIET,
        )
        blocks.unload(self._left)
        self.file.play(None, js="() => window.cosygraphSilence?.()", api_visibility="private")

    def _clip_files(self) -> str:
        endings, refused = json.dumps(CLIP_ENDINGS), json.dumps(self.words["clip_refused"])
        return CLIP_FILES.replace("endings = ENDINGS", f"endings = {endings}").replace(
            "refused = REFUSED", f"refused = {refused}"
        )

    def _opened(self):
        try:
            with Api(self.api_url) as api:
                found = api.dialects()
        except ApiError as error:
            return gr.update(), gr.update(), failed(error, self.zipkin_ui_url, self.words)
        engine = found["engine"]
        note = f"{self.words['engine']}: {engine['name']} {engine.get('version') or ''}. {engine.get('notice') or ''}"
        return (
            gr.update(options=dialects.options(found["dialects"], self.words, self.language), note=escape(note)),
            gr.update(),
            gr.update(),
        )

    def _fields(self) -> dict[str, list[Any]]:
        """Return the controls of each place: a change of one takes the place's error away."""
        return {
            "clip": [self.clip, self.source],
            "voice": [self.voice, self.source],
            "dialect": [self.dialect],
            "prompt_text": [self.prompt_text],
            "key": [self.key],
            "text": [self.text, self.long_form],
            "style": [self.style, self.mode],
            "speed": [self.speed, self.seed],
        }

    def _at_fields(self, problem: Problem | None) -> dict:
        """Return the changes that show this error at its field, and none at any other."""
        place = problem.field if problem else None
        changes: dict[gr.blocks.Block, Any] = {
            box: at_field(problem) if problem and name == place else "" for name, box in self.problems.items()
        }
        if place in ("key", "prompt_text"):
            changes[self.more] = gr.update(open=True)
        return changes

    def _voices(self, key: str | None) -> dict:
        try:
            with Api(self.api_url, key or None) as api:
                found = api.voices()
        except ApiError as error:
            return {
                self.voice: gr.update(choices=[], info=""),
                self.result: failed(error, self.zipkin_ui_url, self.words),
            } | self._at_fields(problems.of(error, self.words))
        choices = [(f"{voice['name']} · {voice['dialect']}", voice["id"]) for voice in found]
        info = "" if choices else self.words["no_voices"]
        return {self.voice: gr.update(choices=choices, info=info), self.result: ""} | self._at_fields(None)

    def _keep(self, clip, dialect, name, consent, prompt_text, key) -> dict:
        if not (clip and dialect and (name or "").strip() and (consent or "").strip()):
            return {self.kept: f'<div role="alert" class="problem">{escape(self.words["keep_needs"])}</div>'}
        try:
            with Api(self.api_url, key or None) as api:
                voice = api.keep_voice(
                    read_clip(clip),
                    name=name.strip(),
                    dialect=dialect,
                    consent=consent.strip(),
                    prompt_text=(prompt_text or "").strip() or None,
                )
        except ApiError as error:
            said = failed(error, self.zipkin_ui_url, self.words)
            return {self.kept: said} | self._at_fields(problems.of(error, self.words))
        said = escape(self.words["kept"].format(name=voice["name"]))
        return {
            self.kept: f'<p role="status">{said}</p>',
            self.voice: self._voices(key)[self.voice],
        } | self._at_fields(None)

    def _waits(self, *wish):
        return gr.update(**self._button(Wish(*wish)))

    def _button(self, wish: Wish) -> dict:
        missing = wish.waits_for()
        # Never disabled: a keyboard finds it, and it says what it waits for.
        return {
            "value": f"{self.words['generate']} — {self.words[missing]}" if missing else self.words["generate"],
            "variant": "secondary" if missing else "primary",
        }

    @staticmethod
    def _counted(text, long_form):
        # Longer text switches long text on by itself; what a person has switched on stays on.
        return count(text, long_form), gr.update(value=True) if needs_long_form(text) else gr.skip()

    def _left(self, request: gr.Request) -> None:
        self._attempts.pop(_session(request), None)
        self.under_way.end(_session(request))

    def _stopped(self, request: gr.Request, *wish):
        self.under_way.end(_session(request))
        shown = stopped(self._attempts.pop(_session(request), None), self.zipkin_ui_url, self.words)
        return (
            gr.skip() if shown.progress is None else shown.progress,
            shown.result,
            gr.update(**self._button(Wish(*wish))),
            gr.update(visible=False),
        )

    def _run(self, request: gr.Request, *controls) -> Iterator[dict]:
        wish = Wish(*controls)
        working = False
        attempt = self._attempts[_session(request)] = Attempt()
        shown = run(wish, self.api_url, self.zipkin_ui_url, self.words, attempt)
        for now in self.under_way.watch(_session(request), shown):
            changed = self._changes(now)
            if now.problem is not None or not working:
                changed |= self._at_fields(now.problem)
            if now.over:
                if self._attempts.get(_session(request)) is attempt:
                    del self._attempts[_session(request)]
                changed |= {self.button: gr.update(**self._button(wish)), self.stop: gr.update(visible=False)}
            elif not working:
                changed |= {
                    self.button: gr.update(value=self.words["working"], variant="secondary"),
                    self.stop: gr.update(visible=True),
                    self.file: gr.update(value=None, visible=False),
                }
                working = True
            yield changed

    def _changes(self, now: Shown) -> dict:
        found: dict[gr.components.Component, Any] = {}
        for component, value in ((self.progress, now.progress), (self.live, now.live), (self.result, now.result)):
            if value is not None:
                found[component] = value
        if now.file is not None:
            found[self.file] = gr.update(value=str(now.file), visible=True)
        return found


def _session(request: gr.Request) -> str:
    """Return the id of the page's session; Gradio gives one to every event of a page."""
    assert request.session_hash is not None
    return request.session_hash
