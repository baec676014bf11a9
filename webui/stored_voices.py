"""The stored voices on the page: choose one, hear it, rename or delete it, and store the clip as a new one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import Any, Protocol

from webui import dialects, examples, problems
from webui.client import Api, ApiError, Speech
from webui.offline import gr
from webui.problems import Problem
from webui.run import read_clip, spoken
from webui.takes import TakeFiles

Voice = dict[str, Any]

EVERY_S = 3.0  #: between two looks at the list while the chosen voice is being fitted
_OPEN = ("queued", "running")


class Page(Protocol):
    """The page as this part of it sees it; `page.Page` is one."""

    words: dict[str, str]
    language: str
    api_url: str
    files: TakeFiles
    source: gr.Radio
    clip: gr.Audio
    dialect: gr.HTML
    prompt_text: gr.Textbox
    key: gr.Textbox
    answer: gr.State  #: what GET /api/dialects has answered

    @property
    def at_field_boxes(self) -> list[Any]:
        """The components that `at_fields` may change."""
        ...

    def add_problem(self, place: str) -> None:
        """Build the place of an error at a field, here."""
        ...

    def at_fields(self, problem: Problem | None, drawn: str | None = None) -> dict:
        """Return the changes that show this error at its field, drawn like this, and none at any other."""
        ...

    def alert(self, problem: Problem) -> str:
        """Draw an error that no request has made."""
        ...

    def failed(self, error: ApiError) -> str:
        """Draw an error of the API, with the link to its trace."""
        ...

    def chosen_dialect(self, answer: dict, code: str | None) -> Any:
        """Return the change of `dialect` that chooses one."""
        ...


class StoredVoices:
    """Builds the controls of stored voices within a page, and answers their events."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.words = page.words

    def build_choice(self) -> None:
        """Build what stands in the place of the clip when a stored voice is chosen."""
        words = self.words
        self.known = gr.State([])  # as GET /v1/audio/voices lists them
        self.armed = gr.State(None)  # the voice that the next press on "delete" removes
        with gr.Column(visible=False, elem_id="stored") as self.box:
            with gr.Row():
                self.voice = gr.Dropdown([], value=None, label=words["stored"], scale=4, elem_id="voice")
                self.refresh = gr.Button(words["refresh"], size="sm", scale=1, min_width=90, elem_id="refresh")
            self.page.add_problem("voice")
            with gr.Column(visible=False, elem_id="chosen") as self.chosen:
                self.facts = gr.HTML("", elem_id="voice-facts")
                self.badge = gr.HTML("", elem_id="voice-fit")
                self.timer = gr.Timer(EVERY_S, active=False)
                self.use_own = gr.Button("", size="sm", visible=False, elem_id="use-own")
                with gr.Row():
                    self.preview = gr.Button(words["preview"], size="sm", min_width=90, scale=0, elem_id="preview")
                    self.sound = gr.HTML("", elem_id="preview-sound")
                with gr.Accordion(words["manage"], open=False, elem_id="manage"):
                    with gr.Row(equal_height=False):
                        self.new_name = gr.Textbox(label=words["new_name"], scale=3, elem_id="new-name")
                        self.rename = gr.Button(words["rename"], size="sm", scale=1, min_width=90, elem_id="rename")
                    self.page.add_problem("new_name")
                    self.fit = gr.Button(words["fit_button"], size="sm", visible=False, elem_id="fit")
                    self.delete = gr.Button(words["delete"], variant="stop", size="sm", elem_id="delete")

    def build_storing(self) -> None:
        """Build the box that stores the clip as a voice, and the place of its answer."""
        words = self.words
        with gr.Accordion(words["keep"], open=False, elem_id="keep") as self.keep_box:
            self.keep_name = gr.Textbox(label=words["keep_name"], elem_id="keep-name")
            self.page.add_problem("keep_name")
            self.keep_consent = gr.Textbox(label=words["keep_consent"], elem_id="keep-consent")
            self.page.add_problem("keep_consent")
            self.keep = gr.Button(words["keep_button"], elem_id="keep-button")
        self.said = gr.HTML("", elem_id="kept")

    def connect(self, quiet: dict[str, Any]) -> None:
        """Connect the events. `quiet` are the options of an event that shows no progress of Gradio's own."""
        page, at_fields = self.page, self.page.at_field_boxes
        listed = [self.voice, self.known, self.said, *at_fields]
        changed = [self.delete, self.armed, *listed]
        at_once: dict[str, Any] = quiet | {"queue": False}
        page.source.select(self._refreshed, [page.key, self.voice], listed, **at_once)
        self.refresh.click(self._refreshed, [page.key, self.voice], listed, **at_once)
        self.voice.change(
            self._was_chosen,
            [self.voice, self.known, page.dialect, page.answer],
            [
                *(self.chosen, self.facts, self.badge, self.fit, self.timer, self.sound),
                *(self.new_name, self.delete, self.armed, page.dialect),
            ],
            **at_once,
        )
        self.timer.tick(
            self._looked,
            [self.voice, self.known, page.answer, page.key],
            [self.voice, self.known, self.badge, self.fit, self.timer],
            **at_once,
        )
        self.fit.click(
            self._fit,
            [self.voice, page.answer, page.key],
            [*listed, self.badge, self.fit, self.timer],
            **at_once,
        )
        gr.on(
            [self.voice.change, page.dialect.change],
            self._offers_own,
            [self.voice, self.known, page.dialect, page.answer],
            self.use_own,
            **at_once,
        )
        self.use_own.click(self._use_own, [self.voice, self.known, page.answer], page.dialect, **at_once)
        self.preview.click(
            self._preview,
            [self.voice, self.known, page.answer, page.key],
            [self.sound, self.said, *at_fields],
            **quiet,
        )
        self.rename.click(self._rename, [self.voice, self.new_name, page.key], changed, **at_once)
        self.delete.click(self._delete, [self.voice, self.known, self.armed, page.key], changed, **at_once)
        self.keep.click(
            self._keep,
            [page.clip, page.dialect, self.keep_name, self.keep_consent, page.prompt_text, page.key],
            [page.source, self.keep_name, self.keep_consent, *changed],
            **quiet,
        )

    def name(self, voice_id: str | None, known: Sequence[Voice]) -> str:
        """Return a voice's name; its id where it is not known."""
        voice = _find(voice_id, known)
        return str(voice["name"]) if voice else voice_id or ""

    def listing(self, key: str | None, chosen: str | None) -> dict:
        """Return the changes that show the list as it is now; raises ApiError."""
        with Api(self.page.api_url, key or None) as api:
            found = api.voices()
        choices = [(self._label(voice), voice["id"]) for voice in found]
        return {
            self.voice: gr.update(
                choices=choices,
                value=chosen if _find(chosen, found) else None,
                info="" if choices else self.words["no_voices"],
            ),
            self.known: found,
        }

    def _label(self, voice: Voice) -> str:
        state = self._fit_words(voice) if (voice.get("fit") or {}).get("state") in _OPEN else ""
        return " · ".join(filter(None, (voice["name"], voice["dialect"], state)))

    def _fit_words(self, voice: Voice) -> str:
        fit = voice.get("fit")
        if not fit:
            return ""
        begun = fit["state"] == "running" and not fit["steps"]
        said = self.words.get("fit_begun" if begun else f"fit_{fit['state']}", "").format(**fit)
        return said + (self.words["fit_why"].format(why=fit["why"]) if fit["why"] else "")

    def _fit_shown(self, voice: Voice | None, answer: dict) -> dict:
        """Return the changes that show how a voice's fit stands, and look again while that may change."""
        fit = (voice or {}).get("fit") or {}
        state, said = fit.get("state", ""), self._fit_words(voice) if voice else ""
        can = bool(fit) or bool(voice and answer.get("engine", {}).get("fits_voices"))
        badge = f'<span class="badge {escape(state)}" role="status">{escape(said)}</span>' if said else ""
        return {
            self.badge: badge,
            self.fit: gr.update(
                visible=can and state not in _OPEN, value=self.words["fit_again" if fit else "fit_button"]
            ),
            self.timer: gr.Timer(active=state in _OPEN),
        }

    def _looked(self, chosen: str | None, known: list[Voice], answer: dict, key: str | None) -> dict:
        """Show how the chosen voice's fit stands now; an error waits for the next press on a button."""
        try:
            changes = self.listing(key, chosen)
        except ApiError:
            return self._fit_shown(None, answer)
        found = _find(chosen, changes[self.known])
        if found == _find(chosen, known):
            return {self.timer: gr.skip()}
        return self._fit_shown(found, answer) | changes

    def _fit(self, chosen: str | None, answer: dict, key: str | None) -> dict:
        if not chosen:
            return {}
        try:
            with Api(self.page.api_url, key or None) as api:
                voice = api.fit_voice(chosen)
            changes = self.listing(key, chosen)
        except ApiError as error:
            return self._failed(error, "voice")
        return self._done("fit_asked", voice["name"]) | changes | self._fit_shown(voice, answer)

    def _refreshed(self, key: str | None, chosen: str | None) -> dict:
        try:
            return self.listing(key, chosen) | {self.said: ""} | self.page.at_fields(None)
        except ApiError as error:
            emptied = {self.voice: gr.update(choices=[], value=None, info=""), self.known: []}
            return emptied | self._failed(error, "voice")

    def _was_chosen(self, chosen: str | None, known: list[Voice], dialect: str | None, answer: dict) -> dict:
        voice = _find(chosen, known)
        found: dict[Any, Any] = {
            self.chosen: gr.update(visible=voice is not None),
            self.facts: self._facts(voice, answer) if voice else "",
            **self._fit_shown(voice, answer),
            self.sound: "",
            self.new_name: voice["name"] if voice else "",
            self.delete: gr.update(value=self.words["delete"]),
            self.armed: None,
        }
        if voice and not dialect and dialects.speaks(answer, voice["dialect"]):
            found[self.page.dialect] = self.page.chosen_dialect(answer, voice["dialect"])
        return found

    def _facts(self, voice: Voice, answer: dict) -> str:
        words, consent = self.words, voice.get("consent", {})
        seconds = voice.get("clip", {}).get("seconds")
        own = dialects.name_by_code(answer, voice["dialect"], self.page.language)
        lines = [words["voice_of"].format(dialect=own, seconds=f"{seconds:.1f}")] if seconds else [own]
        if consent:
            date = str(consent.get("at", ""))[:10]
            lines.append(words["voice_consent"].format(date=date, agreed=consent.get("agreed", "")))
        return "".join(f"<p>{escape(line)}</p>" for line in lines)

    def _offers_own(self, chosen: str | None, known: list[Voice], dialect: str | None, answer: dict):
        voice = _find(chosen, known)
        if voice is None or not dialect or dialect == voice["dialect"] or not dialects.speaks(answer, voice["dialect"]):
            return gr.update(visible=False)
        own = dialects.name_by_code(answer, voice["dialect"], self.page.language)
        return gr.update(value=self.words["use_own"].format(dialect=own), visible=True)

    def _use_own(self, chosen: str | None, known: list[Voice], answer: dict):
        voice = _find(chosen, known)
        return self.page.chosen_dialect(answer, voice["dialect"]) if voice else gr.skip()

    def _preview(self, chosen: str | None, known: list[Voice], answer: dict, key: str | None) -> Iterator[dict]:
        voice = _find(chosen, known)
        if voice is None:
            return
        yield {self.sound: f'<p role="status">{escape(self.words["working"])}</p>'}
        own = voice["dialect"]
        speech = Speech(text=examples.sentence(own), voice=voice["id"], dialect=own, response_format="pcm")
        try:
            token = self.page.files.add(spoken(self.page.api_url, key, speech))
        except ApiError as error:
            yield {self.sound: ""} | self._failed(error, "voice")
            return
        label = self.words["preview_label"].format(name=voice["name"])
        player = f'<audio controls autoplay src="../takes/{token}.wav" aria-label="{escape(label)}"></audio>'
        player += f'<p class="synthetic">{escape(self.words["take_synthetic"])}</p>'
        yield {self.sound: player, self.said: ""} | self.page.at_fields(None)

    def _rename(self, chosen: str | None, name: str | None, key: str | None) -> dict:
        if not chosen:
            return {}
        try:
            with Api(self.page.api_url, key or None) as api:
                voice = api.rename_voice(chosen, (name or "").strip())
            changes = self.listing(key, chosen)
        except ApiError as error:
            return self._failed(error, "new_name")
        return self._done("renamed", voice["name"]) | changes

    def _delete(self, chosen: str | None, known: list[Voice], armed: str | None, key: str | None) -> dict:
        if not chosen:
            return {}
        name = self.name(chosen, known)
        if armed != chosen:  # a second press is the confirmation
            return {self.delete: gr.update(value=self.words["delete_sure"].format(name=name)), self.armed: chosen}
        unarmed = {self.delete: gr.update(value=self.words["delete"]), self.armed: None}
        try:
            with Api(self.page.api_url, key or None) as api:
                api.delete_voice(chosen)
            changes = self.listing(key, None)
        except ApiError as error:
            return unarmed | self._failed(error, "voice")
        return unarmed | self._done("deleted", name) | changes

    def _keep(self, clip, dialect, name, consent, prompt_text, key) -> dict:
        filled = {
            "clip": clip,
            "dialect": dialect,
            "keep_name": (name or "").strip(),
            "keep_consent": (consent or "").strip(),
        }
        if missing := next((place for place, value in filled.items() if not value), None):
            problem = Problem(self.words["keep_needs"], missing)
            return {self.said: ""} | self.page.at_fields(problem, self.page.alert(problem))
        try:
            with Api(self.page.api_url, key or None) as api:
                voice = api.keep_voice(
                    read_clip(clip),
                    name=filled["keep_name"],
                    dialect=dialect,
                    consent=filled["keep_consent"],
                    prompt_text=(prompt_text or "").strip() or None,
                )
            changes = self.listing(key, voice["id"])
        except ApiError as error:
            return self._failed(error, "keep_consent")
        return (
            self._done("kept", voice["name"])
            | {self.page.source: "voice", self.keep_name: "", self.keep_consent: ""}
            | changes
        )

    def _done(self, name: str, voice: str) -> dict:
        said = f'<p role="status">{escape(self.words[name].format(name=voice))}</p>'
        return {self.said: said} | self.page.at_fields(None)

    def _failed(self, error: ApiError, place: str) -> dict:
        """Return the changes that show an error at its field, or else at `place`, which was used."""
        problem = problems.of(error, self.words)
        if problem.field is None or (place == "new_name" and problem.field == "keep_name"):
            problem = replace(problem, field=place)
        return {self.said: ""} | self.page.at_fields(problem, self.page.failed(error))


def _find(voice_id: str | None, known: Sequence[Voice]) -> Voice | None:
    return next((voice for voice in known if voice["id"] == voice_id), None)
