"""examples/live.html in a real Chromium, against a stand-in of the session: what it sends while one types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.proof

PAGE = (Path(__file__).parents[2] / "examples" / "live.html").read_text(encoding="utf-8")


class Typed:
    """The page after it has connected, and what it has sent since."""

    def __init__(self, page) -> None:
        self.page = page
        self.events: list[dict] = []
        page.route(re.compile(r"/live\b"), lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        page.route_web_socket(re.compile(r"/speech/stream$"), self._session)
        page.goto("http://127.0.0.1:8765/live?api=http://127.0.0.1:8765")
        page.click("#connect")
        page.locator("#text:enabled").wait_for()
        self.keys = page.keyboard
        self.input_method = page.context.new_cdp_session(page)

    def _session(self, socket) -> None:
        def answer(message: str) -> None:
            event = json.loads(message)
            if event["type"] == "session.config":
                told = {"type": "session.configured", "session_id": "s", "sample_rate": 24_000}
                socket.send(json.dumps(told))
            else:
                self.events.append(event)

        socket.on_message(answer)

    def compose(self, letters: str) -> None:
        """Type letters of which an input method makes a character, as yet without choosing it."""
        for end in range(1, len(letters) + 1):
            place = {"text": letters[:end], "selectionStart": end, "selectionEnd": end}
            self.input_method.send("Input.imeSetComposition", place)

    def choose(self, text: str) -> None:
        self.input_method.send("Input.insertText", {"text": text})

    def settle(self) -> list[dict]:
        """Return the messages when no more have come for a while."""
        count = -1
        while len(self.events) > count:
            count = len(self.events)
            self.page.wait_for_timeout(200)
        return self.events

    @property
    def sent(self) -> str:
        return "".join(event["text"] for event in self.settle() if event["type"] == "input.text")

    @property
    def note(self) -> str:
        return self.page.inner_text("#note")

    @property
    def ended(self) -> int:
        return sum(event["type"] == "input.done" for event in self.settle())


@pytest.fixture
def typed(browser):
    context = browser.new_context()
    yield Typed(context.new_page())
    context.close()


def test_letters_that_are_still_composed_are_not_sent(typed):
    typed.compose("ni")
    assert typed.sent == ""
    typed.choose("你")
    typed.compose("hao")
    typed.choose("好")
    typed.keys.type(", dear")
    assert typed.sent == "你好, dear" and typed.note == ""


@pytest.mark.parametrize("said", ["isComposing: true", "keyCode: 229"])
def test_enter_that_chooses_a_candidate_does_not_end_the_utterance(typed, said):
    typed.keys.type("One")
    typed.page.evaluate(
        "said => document.querySelector('#text').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', ...said}))",
        {"isComposing": True} if "isComposing" in said else {"keyCode": 229},
    )
    assert typed.ended == 0
    typed.keys.press("Enter")
    assert typed.ended == 1 and typed.sent == "One" and typed.page.input_value("#text") == ""


def test_after_a_backspace_into_what_was_sent_the_page_says_so_and_goes_on(typed):
    typed.keys.type("Hello wor")
    for _ in range(3):
        typed.keys.press("Backspace")
    assert "can't be changed" in typed.note
    typed.keys.type("there, you")
    assert typed.sent == "Hello wor there, you"
    typed.keys.press("Enter")
    assert typed.ended == 1 and typed.note == ""


def test_a_change_inside_what_was_sent_says_nothing_twice(typed):
    typed.keys.type("One three")
    for _ in range(5):
        typed.keys.press("ArrowLeft")
    typed.keys.type("two ")
    assert typed.sent == "One three" and "can't be changed" in typed.note
    typed.keys.press("End")
    typed.keys.type(" four")
    assert " ".join(typed.sent.split()) == "One three four"


def test_half_of_a_character_is_never_sent(typed):
    typed.keys.insert_text("a😀")
    typed.keys.press("Backspace")
    typed.keys.insert_text("😁")
    typed.page.fill("#text", "a😂")
    assert [event["text"] for event in typed.settle()] == ["a😀", " 😁", " 😂"]
