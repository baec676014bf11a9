"""Holds what a stage has answered, and makes it again where its arrays are lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from deployments.arrays import Array, ArrayStore, InputLost
from deployments.ingress.voice_cache import CachedVoice
from deployments.wire import VoiceReply

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class StageResult(Generic[T_co]):
    """A stage's outcome, and how to make it again should its arrays be lost.

    Attributes:
        value: the outcome.
        remake: makes the outcome again.
        reported: the reply carried the stage's spans.
    """

    value: T_co
    remake: Callable[[], Awaitable[StageResult[T_co]]]
    reported: bool = True


VoiceRef = StageResult[VoiceReply] | CachedVoice  #: a voice as GENERATE_MEL takes it: just found, or known here
AnyVoice = VoiceReply | CachedVoice


class StageInput(Protocol[T_co]):
    """The input of a call: a `StageResult`, or a value that the ingress holds itself."""

    @property
    def value(self) -> T_co: ...

    def remake(self) -> Awaitable[StageInput[T_co]]:
        """Make the value again after its arrays were lost."""
        ...


@dataclass(frozen=True)
class LocalInput(Generic[T_co]):
    """A value that the ingress holds itself: there is nothing to make again."""

    value: T_co

    async def remake(self) -> LocalInput[T_co]:
        """Return the same value."""
        return self


async def unpacked(voice: VoiceRef, arrays: ArrayStore) -> dict[str, Array]:
    """Return a voice's arrays; they are made again once if they are lost. Raises InputLost if they are lost again."""
    if isinstance(voice, CachedVoice):
        return dict(voice.arrays)
    try:
        return await arrays.unpack_all(voice.value.arrays)
    except InputLost:
        return await arrays.unpack_all((await voice.remake()).value.arrays)
