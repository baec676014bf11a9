"""A text in fragments: handed over when there is enough of it or the listener runs short; errors of texts that fail."""

from __future__ import annotations

import asyncio

import pytest

from deployments.ingress import incoming_text
from deployments.ingress.incoming_text import IncomingText
from speech.errors import DeadlineExceeded, InvalidInput


class Fragments:
    """Fragments that come when the test says so; `None` ends the text."""

    def __init__(self, *ready: str | None | Exception) -> None:
        self.queue: asyncio.Queue[str | None | Exception] = asyncio.Queue()
        for each in ready:
            self.queue.put_nowait(each)

    def __aiter__(self):
        return self

    async def __anext__(self) -> str:
        found = await self.queue.get()
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise StopAsyncIteration
        return found


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 10))


def test_it_waits_for_as_many_words_as_are_wanted(monkeypatch):
    monkeypatch.setattr(incoming_text, "PATIENCE_S", 100.0)

    async def scenario():
        fragments = Fragments("The qu")
        text = IncomingText(fragments)
        taking = asyncio.create_task(text.take(3))
        await asyncio.sleep(0.02)
        assert not taking.done()
        fragments.queue.put_nowait("ick brown ")
        assert await taking == ("The quick brown ", False), "the space tells that the last word is whole"
        taking = asyncio.create_task(text.take(2, before="The quick brown "))
        fragments.queue.put_nowait("fox ")
        await asyncio.sleep(0.02)
        assert not taking.done()
        fragments.queue.put_nowait(None)
        assert await taking == ("The quick brown fox", True), "there is no more"
        await text.close()

    run(scenario())


def test_with_little_new_text_it_is_handed_over_after_a_while(monkeypatch):
    monkeypatch.setattr(incoming_text, "PATIENCE_S", 0.05)

    async def scenario():
        text = IncomingText(Fragments("好的，我"))
        assert await text.take(50) == ("好的，我", False)
        await text.close()

    run(scenario())


def test_while_the_listener_has_sound_nothing_is_hurried_and_at_the_end_nothing_waits():
    async def scenario():
        fragments = Fragments("one two three four five six ")
        text = IncomingText(fragments)
        began = asyncio.get_running_loop().time()
        await text.take(3, ahead_s=incoming_text.LEAD_S + 0.2)
        assert asyncio.get_running_loop().time() - began > 0.15
        fragments.queue.put_nowait(None)
        began = asyncio.get_running_loop().time()
        assert (await text.take(3, ahead_s=100.0))[1]
        assert asyncio.get_running_loop().time() - began < 1
        await text.close()

    run(scenario())


@pytest.mark.parametrize("ready", [(), ("Hello",), (" \n",)])
def test_a_text_that_never_comes_is_given_up(ready):
    async def scenario():
        text = IncomingText(Fragments(*ready), timeout_s=0.1)
        with pytest.raises(DeadlineExceeded, match="No more text came for 0 s.*end it when it is complete") as failure:
            await text.take(9, before="Hello")
        assert failure.value.code == "text_overdue"
        await text.close()

    run(scenario())


@pytest.mark.parametrize(
    "fragments, code",
    [
        (("a" * 90, "b" * 20), "text_too_long"),
        (("half \ud800",), "text_not_unicode"),
        (("<|endof", "prompt|> hi"), "text_special_token"),
        (("   ", None), "text_empty"),
        (("bell \x07",), "text_control_character"),
    ],
)
def test_texts_that_no_text_may_be_are_refused(fragments, code):
    async def scenario():
        text = IncomingText(Fragments(*fragments), timeout_s=1, most=100)
        with pytest.raises(InvalidInput) as failure:
            while not (await text.take(1))[1]:
                pass
        assert (failure.value.code, failure.value.param) == (code, "text")
        await text.close()

    run(scenario())


def test_what_the_fragments_raise_is_raised_and_closed_it_reads_no_more():
    async def scenario():
        text = IncomingText(Fragments("Hello ", ConnectionError("gone")))
        with pytest.raises(ConnectionError):
            await text.take(5)
        await text.close()
        fragments = Fragments("one ")
        text = IncomingText(fragments)
        await text.take(1)
        await text.close()
        fragments.queue.put_nowait("two")
        await asyncio.sleep(0.02)
        assert fragments.queue.qsize() == 1

    run(scenario())
