"""Builds the page in one language: its controls and their events. `run.py` asks the API."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from speech.limits import CLIP_SECONDS
from speech.requests import MAX_SEED, SPEED_RANGE
from webui import clip_check, dialects, examples, form, live, takes
from webui.client import Api, ApiError
from webui.form import Form
from webui.offline import gr
from webui.problems import Problem
from webui.run import Attempt, Finished, Shown, Wish, alert, at_field, count, failed, needs_long_form, run, stopped
from webui.stored_voices import StoredVoices
from webui.takes import TakeFiles
from webui.under_way import UnderWay
from webui.words import CLIP_ENDINGS, GRADIOS_LABELS, HELP, LANGUAGES, PRESETS, TEXTS

#: Runs at the same time; the API's own admission decides, this only keeps threads from piling up.
MOST_RUNS = 32
#: Clips checked at the same time: each is decoded whole.
MOST_CHECKS = 2
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
#: For an event that fills in no file: without the queue, Gradio forgets the page's prefix in a file's address.
_AT_ONCE: dict[str, Any] = _QUIET | {"queue": False}


def _script(name: str) -> str:
    return (Path(__file__).parent / name).read_text()


class Page:
    """Builds the Blocks of one language.

    Args:
        language: A key of `words.LANGUAGES`.
        api_url: The API's base URL.
        files: The takes of all languages.
        zipkin_ui_url: Zipkin's base URL as people open it.
        api_docs_url: The address of the API's documentation as people open it.
    """

    def __init__(
        self,
        language: str,
        api_url: str,
        files: TakeFiles,
        zipkin_ui_url: str | None = None,
        api_docs_url: str | None = None,
    ) -> None:
        self.language = language
        self.words = TEXTS[language]
        self.api_url = api_url
        self.files = files
        self.zipkin_ui_url = zipkin_ui_url
        self.api_docs_url = api_docs_url
        self.under_way = UnderWay()
        self.voices = StoredVoices(self)
        self.problems: dict[str, gr.HTML] = {}  # by place
        self._attempts: dict[str, Attempt] = {}  # by session

    def build(self) -> gr.Blocks:
        # Files are looked at every ten minutes, and gone an hour after they were made.
        with gr.Blocks(
            title=f"Cosygraph · {self.words['tagline']}", analytics_enabled=False, delete_cache=(600, 3600)
        ) as blocks:
            self.answer = gr.State({})
            self.kept_form = gr.Textbox(visible=False)
            gr.HTML(self._head(), elem_id="top")
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=340):
                    self._text()
                    self._voice()
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

    def add_problem(self, place: str) -> None:
        self.problems[place] = gr.HTML("", elem_id=f"problem-{place.replace('_', '-')}", elem_classes="at-field")

    def _text(self) -> None:
        words = self.words
        with gr.Column(variant="panel", elem_classes="panel"):
            self._title("what")
            with gr.Row(elem_id="examples", elem_classes="chips"):
                gr.HTML(f"<span>{escape(words['examples'])}</span>", elem_classes="chips-label")
                # Their names come with the list of dialects, and then those that can be spoken are shown.
                self.examples = {
                    code: gr.Button(code, size="sm", min_width=40, visible=False) for code in examples.SENTENCES
                }
            self.text = gr.Textbox(
                label=words["text"], placeholder=words["text_placeholder"], lines=4, max_lines=14, elem_id="text"
            )
            self.count = gr.HTML(count("", False), elem_id="count")
            self.add_problem("text")
            self.long_form = gr.Checkbox(label=words["long_form"], value=False, container=False, elem_id="long-form")
            self.dialect = gr.HTML(
                "",
                html_template=dialects.template(words),
                js_on_load=dialects.SCRIPT,
                elem_id="dialect-box",
                **dialects.properties(None, words, self.language),
            )
            self.add_problem("dialect")
            with gr.Accordion(words["help"], open=False, elem_id="help"):
                gr.Markdown(HELP[self.language])

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
            with gr.Column(elem_id="own-clip") as self.clip_box:
                self.clip = gr.Audio(
                    sources=["upload", "microphone"], type="filepath", label=words["clip"], elem_id="clip", buttons=[]
                )
                self.clip_facts = gr.HTML("", elem_id="clip-facts")
                self.read_aloud = gr.HTML(
                    f"<p>{escape(words['read_aloud'])}</p><blockquote>{examples.READ_ALOUD[self.language]}</blockquote>",
                    elem_id="read-aloud",
                )
            self.add_problem("clip")
            self.voices.build_choice()
            with gr.Accordion(words["more"], open=False, elem_id="more") as self.more:
                self.prompt_text = gr.Textbox(label=words["prompt_text"], lines=1, elem_id="prompt-text")
                self.add_problem("prompt_text")
                self.key = gr.Textbox(
                    label=words["key"],
                    type="password",
                    elem_id="key",
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
                )
                self.add_problem("key")
            self.voices.build_storing()

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
                with gr.Row(elem_id="presets", elem_classes="chips"):
                    self.presets = [
                        (gr.Button(name, size="sm", min_width=40), told) for name, told in PRESETS[self.language]
                    ]
                self.style = gr.Textbox(label=words["style"], placeholder=words["style_placeholder"], elem_id="style")
                self.add_problem("style")
            with gr.Row():
                self.speed = gr.Slider(*SPEED_RANGE, value=1, step=0.05, label=words["speed"], elem_id="speed", scale=3)
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
                self.dice = gr.Button(words["dice"], size="sm", scale=1, min_width=90, elem_id="dice")
            self.add_problem("speed")

    def _result(self) -> None:
        words = self.words
        with gr.Column(variant="panel", elem_classes="panel"):
            with gr.Row(elem_id="actions"):
                self.button = gr.Button(
                    f"{words['generate']} — {words['wait_text']}",
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
            self.takes = gr.HTML(None, html_template=takes.template(words), js_on_load=takes.SCRIPT, elem_id="takes")
            self.result = gr.HTML("", elem_id="result")

    @property
    def _controls(self) -> dict[str, Any]:
        """The controls by their names in `form.Form`, in its order; `Wish` has them and then the key."""
        return {
            "source": self.source,
            "clip": self.clip,
            "voice": self.voices.voice,
            "dialect": self.dialect,
            "text": self.text,
            "mode": self.mode,
            "style": self.style,
            "prompt_text": self.prompt_text,
            "speed": self.speed,
            "seed": self.seed,
            "long_form": self.long_form,
        }

    @property
    def at_field_boxes(self) -> list[Any]:
        return [*self.problems.values(), self.more]

    def _connect(self, blocks: gr.Blocks) -> None:
        controls = self._controls
        wish = [*controls.values(), self.key]
        at_fields = self.at_field_boxes
        shown = [self.progress, self.live, self.takes, self.result, self.button, self.stop, *at_fields]
        restored = [*controls.values(), self.voices.known]
        blocks.load(
            self._opened,
            self.kept_form,
            [self.answer, self.result, *self.examples.values(), *restored],
            js=form.READ,
            **_QUIET,
        ).then(None, js=form.BEGIN, api_visibility="private")
        gr.on(
            [control.change for control in controls.values()],
            None,
            list(controls.values()),
            js=form.SAVE,
            api_visibility="private",
        )
        names = _script("names.js").replace("LABELS.map", f"{json.dumps(GRADIOS_LABELS[self.language])}.map")
        for script in (_script("radios.js"), _script("generate.js"), names, self._clip_files()):
            blocks.load(None, js=script, api_visibility="private")
        self.source.change(
            lambda source: [gr.update(visible=source == each) for each in ("clip", "voice", "clip")],
            self.source,
            [self.clip_box, self.voices.box, self.voices.keep_box],
            **_AT_ONCE,
        )
        self.mode.change(lambda mode: gr.update(visible=mode == "instruct"), self.mode, self.instruct, **_AT_ONCE)
        self.clip.change(
            self._check_clip,
            [self.clip, self.answer],
            [self.clip_facts, self.read_aloud, self.problems["clip"]],
            concurrency_limit=MOST_CHECKS,
            **_QUIET,
        )
        for code, button in self.examples.items():
            button.click(
                lambda clip, source, answer, code=code: self._example(code, clip, source, answer),
                [self.clip, self.source, self.answer],
                [self.text, self.dialect, self.clip, self.long_form],
                **_QUIET,
            )
        for button, told in self.presets:
            button.click(lambda told=told: told, None, self.style, **_AT_ONCE)
        self.dice.click(lambda: random.randint(0, MAX_SEED), None, self.seed, **_AT_ONCE)
        self.voices.connect(_QUIET)
        gr.on(
            [control.change for name, control in controls.items() if name not in ("prompt_text", "speed", "seed")],
            self._waits,
            wish,
            self.button,
            trigger_mode="always_last",
            **_AT_ONCE,
        )
        for place, fields in self._fields().items():
            gr.on([field.change for field in fields], None, None, self.problems[place], js="() => ''", **_QUIET)
        self.text.change(
            self._counted,
            [self.text, self.long_form],
            [self.count, self.long_form],
            trigger_mode="always_last",
            **_AT_ONCE,
        )
        self.long_form.change(count, [self.text, self.long_form], self.count, **_AT_ONCE)
        asked = [self.voices.known, self.answer, *wish]
        running = self.button.click(self._run, asked, shown, concurrency_limit=MOST_RUNS, **_QUIET)
        self.takes.select(self._reuse, [self.answer, self.key], restored, **_QUIET)
        again = self.takes.submit(self._again, [self.answer, self.key], restored, **_QUIET)
        running_again = again.success(self._run, asked, shown, concurrency_limit=MOST_RUNS, **_QUIET)
        self.stop.click(
            self._stopped,
            asked,
            [self.progress, self.takes, self.result, self.button, self.stop],
            cancels=[running, running_again],
            js="(...all) => { window.cosygraphSilence?.(); return all; }",
            **_AT_ONCE,
        )
        blocks.unload(self._left)

    def _clip_files(self) -> str:
        endings, refused = json.dumps(CLIP_ENDINGS), json.dumps(self.words["clip_refused"])
        return (
            _script("clip_files.js")
            .replace("endings = ENDINGS", f"endings = {endings}")
            .replace("refused = REFUSED", f"refused = {refused}")
        )

    def _opened(self, kept: str) -> dict:
        """Fill in what the API says about its engine, and the form that the browser has kept."""
        try:
            with Api(self.api_url) as api:
                found = api.dialects()
        except ApiError as error:
            return {self.result: self.failed(error)}
        names = {
            button: gr.update(value=dialects.name_by_code(found, code, "zh"), visible=dialects.speaks(found, code))
            for code, button in self.examples.items()
        }
        form_before = form.read(kept)
        restored = (
            self._restored(form_before, found, None)
            if form_before
            else {self.dialect: self.chosen_dialect(found, None)}
        )
        return {self.answer: found, **names, **restored}

    def _restored(self, kept: Form, answer: dict, key: str | None) -> dict:
        """Return the changes that fill in a form of before."""
        values: dict[str, Any] = kept.model_dump() | {
            "clip": kept.clip_file,
            "dialect": self.chosen_dialect(answer, kept.dialect),
        }
        del values["voice"]
        changes = {self._controls[name]: value for name, value in values.items()}
        if kept.source == "voice":
            try:
                changes |= self.voices.listing(key, kept.voice)
            except ApiError:  # it says so once a person asks for the list
                pass
        return changes

    def _check_clip(self, clip: str | None, answer: dict):
        if clip is None:
            return "", gr.update(visible=True), ""
        seconds = answer.get("engine", {}).get("reference_seconds") or CLIP_SECONDS
        facts, problem = clip_check.check(clip, self.words, tuple(seconds))
        return facts, gr.update(visible=False), at_field(problem) if problem else ""

    def _example(self, code: str, clip: str | None, source: str, answer: dict):
        own_clip = gr.skip() if clip or source == "voice" else str(examples.clip())
        return examples.SENTENCES[code], self.chosen_dialect(answer, code), own_clip, False

    def chosen_dialect(self, answer: dict, code: str | None):
        return gr.update(**dialects.choice(answer, code, self.words, self.language))

    def _fields(self) -> dict[str, list[Any]]:
        """Return the controls of each place: a change of one takes the place's error away."""
        voices = self.voices
        return {
            "clip": [self.source],  # a new clip is checked, and the check says what stands here
            "voice": [voices.voice, self.source],
            "new_name": [voices.new_name, voices.voice],
            "keep_name": [voices.keep_name],
            "keep_consent": [voices.keep_consent],
            "dialect": [self.dialect],
            "prompt_text": [self.prompt_text],
            "key": [self.key],
            "text": [self.text, self.long_form],
            "style": [self.style, self.mode],
            "speed": [self.speed, self.seed],
        }

    def at_fields(self, problem: Problem | None, drawn: str | None = None) -> dict:
        place = problem.field if problem else None
        at_place = drawn or (at_field(problem) if problem else "")
        changes: dict[Any, Any] = {box: at_place if name == place else "" for name, box in self.problems.items()}
        if place in ("key", "prompt_text"):
            changes[self.more] = gr.update(open=True)
        return changes

    def alert(self, problem: Problem) -> str:
        return alert(problem.text)

    def failed(self, error: ApiError) -> str:
        return failed(error, self.zipkin_ui_url, self.words)

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

    def _reuse(self, event: gr.EventData, answer: dict, key: str | None) -> dict:
        kept = form.read(getattr(event, "take", None))
        return self._restored(kept, answer, key) if kept else {}

    def _again(self, event: gr.EventData, answer: dict, key: str | None) -> dict:
        return self._reuse(event, answer, key) | {self.seed: random.randint(0, MAX_SEED)}

    def _left(self, request: gr.Request) -> None:
        self._attempts.pop(_session(request), None)
        self.under_way.end(_session(request))

    def _stopped(self, request: gr.Request, known: list[dict], answer: dict, *controls) -> dict:
        wish = Wish(*controls)
        self.under_way.end(_session(request))
        attempt = self._attempts.pop(_session(request), None)
        shown = stopped(attempt, self.zipkin_ui_url, self.words)
        # The form may have been changed since the run began.
        began_with = attempt.wish if attempt and attempt.wish else wish
        changes = self._changes(shown, began_with, known, answer)
        return changes | {self.button: gr.update(**self._button(wish)), self.stop: gr.update(visible=False)}

    def _run(self, request: gr.Request, known: list[dict], answer: dict, *controls) -> Iterator[dict]:
        wish = Wish(*controls)
        working = False
        attempt = self._attempts[_session(request)] = Attempt(wish=wish)
        shown = run(wish, self.api_url, self.zipkin_ui_url, self.words, attempt)
        for now in self.under_way.watch(_session(request), shown):
            changed = self._changes(now, wish, known, answer)
            if now.problem is not None or not working:
                changed |= self.at_fields(now.problem)
            if now.over:
                if self._attempts.get(_session(request)) is attempt:
                    del self._attempts[_session(request)]
                changed |= {self.button: gr.update(**self._button(wish)), self.stop: gr.update(visible=False)}
            elif not working:
                changed |= {
                    self.button: gr.update(value=self.words["working"], variant="secondary"),
                    self.stop: gr.update(visible=True),
                }
                working = True
            yield changed

    def _take(self, wish: Wish, finished: Finished, known: list[dict], answer: dict) -> dict:
        dialect = dialects.name_by_code(answer, wish.dialect or "", self.language)
        voice = self.words["from_a_clip"] if wish.source == "clip" else self.voices.name(wish.voice, known)
        settings = takes.settings(wish, finished, dialect, voice, self.words)
        return takes.record(wish, finished, self.files.add(finished.wav), settings)

    def _changes(self, now: Shown, wish: Wish, known: list[dict], answer: dict) -> dict:
        pairs = ((self.progress, now.progress), (self.live, now.live), (self.result, now.result))
        changes: dict[Any, Any] = {component: value for component, value in pairs if value is not None}
        if now.finished is not None:
            changes[self.takes] = {"take": self._take(wish, now.finished, known, answer)}
        return changes


def _session(request: gr.Request) -> str:
    """Return the id of the page's session; Gradio gives one to every event of a page."""
    assert request.session_hash is not None
    return request.session_hash
