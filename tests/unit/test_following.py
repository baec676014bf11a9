"""Utterances that come one by one: their place in the graph, and the order in which they are made."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest

from deployments.arrays import ArrayStore
from deployments.ingress.following import Follower
from engines.contract import Capabilities, Utterance
from speech.errors import Overloaded
from tests.unit.test_synthesis import RATE, VOICE, Pipeline, new_run, until

CAN = Capabilities("fake", "1", RATE, frozenset({"en-US"}), frozenset({"fast"}), (16_000,))


class Graph:
    """Counts who is in the graph: `entered` times in all, `inside` now. `full` refuses whoever enters."""

    def __init__(self) -> None:
        self.entered = self.inside = 0
        self.full = False

    @asynccontextmanager
    async def admit(self):
        if self.full:
            raise Overloaded("The graph is full.")
        self.entered += 1
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


async def known(*texts: str):
    for text in texts:
        yield Utterance(text, "en-US")


def following(pipeline: Pipeline, graph: Graph, texts, at_once: int = 4):
    follower = Follower(pipeline, CAN, ArrayStore("here", lambda: False), at_once)
    return follower.follow(texts, VOICE, new_run(), graph.admit)


def test_a_text_that_is_known_keeps_its_place_to_its_end():
    async def scenario() -> list[int]:
        pipeline, graph = Pipeline(), Graph()
        pipeline.free = False
        async with aclosing(following(pipeline, graph, known("One.", "Two.", "Three."))) as parts:
            first = asyncio.create_task(anext(parts))
            await until(lambda: "One." in pipeline.ready)
            await asyncio.sleep(0.01)
            graph.full = True  # whoever would have to enter again is refused
            pipeline.ready["One."].set()
            numbers = [(await first).number]
            for text in ("Two.", "Three."):
                await until(lambda text=text: text in pipeline.ready)
                await asyncio.sleep(0.01)
                pipeline.ready[text].set()
                numbers.append((await anext(parts)).number)
            numbers += [part.number async for part in parts]
        assert (graph.entered, graph.inside) == (1, 0)
        return numbers

    assert list(dict.fromkeys(asyncio.run(scenario()))) == [0, 1, 2]


def test_while_more_text_is_waited_for_no_place_is_held():
    async def scenario() -> None:
        pipeline, graph, more = Pipeline(), Graph(), asyncio.Event()

        async def written():
            yield Utterance("One.", "en-US")
            await more.wait()
            yield Utterance("Two.", "en-US")

        async with aclosing(following(pipeline, graph, written())) as parts:
            assert (await anext(parts)).number == 0
            await until(lambda: graph.inside == 0)
            more.set()
            assert [part.number async for part in parts][-1] == 1
        assert (graph.entered, graph.inside) == (2, 0)

    asyncio.run(scenario())


def test_while_only_the_listener_is_waited_for_no_place_is_held():
    async def scenario() -> None:
        pipeline, graph = Pipeline(), Graph()
        async with aclosing(following(pipeline, graph, known("One.", "Two.", "Three."), at_once=1)) as parts:
            assert (await anext(parts)).number == 0
            await until(lambda: graph.inside == 0)
            assert len(pipeline.said) == 1, "the listener has not taken the first"
            assert [part.number async for part in parts][-1] == 2
        assert graph.inside == 0 and pipeline.said == ["One.", "Two.", "Three."]

    asyncio.run(scenario())


def test_two_that_are_known_are_made_one_after_the_other():
    async def scenario() -> None:
        pipeline, graph = Pipeline(), Graph()
        pipeline.free = False
        async with aclosing(following(pipeline, graph, known("One.", "Two.", "Three."))) as parts:
            first = asyncio.create_task(anext(parts))
            await until(lambda: "One." in pipeline.ready)
            pipeline.ready["One."].set()
            await first
            await until(lambda: "Two." in pipeline.ready)
            await asyncio.sleep(0.02)
            assert pipeline.said == ["One.", "Two."], "the third would slow down the second"
            pipeline.free = True
            pipeline.ready["Two."].set()
            assert [part.number async for part in parts][-1] == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("free", [True, False])
def test_who_stops_listening_leaves_the_graph(free):
    async def scenario() -> None:
        pipeline, graph = Pipeline(), Graph()
        async with aclosing(following(pipeline, graph, known("One.", "Two.", "Three."))) as parts:
            await anext(parts)
            pipeline.free = free
        assert graph.inside == 0

    asyncio.run(scenario())


def test_an_error_of_the_graph_ends_it_and_its_place_is_left():
    async def scenario() -> None:
        pipeline, graph = Pipeline(), Graph()
        graph.full = True
        with pytest.raises(Overloaded):
            async for _ in following(pipeline, graph, known("One.")):
                pass
        assert graph.inside == 0 and not pipeline.said

    asyncio.run(scenario())
