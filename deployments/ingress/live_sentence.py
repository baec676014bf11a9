"""A sentence of a WebSocket session, as it is sent: one `audio.start`, one file, one `audio.done`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.ingress.following import FollowedPart
from deployments.ingress.live_speech import SessionVoice
from deployments.ingress.live_utterance import LiveUtterance
from speech import pcm
from speech.encoding import FORMATS, Encoder, encode
from speech.mark import Mark
from speech.words import AudioPart, Word


class LiveSentence:
    """Makes the events and the bytes of a sentence, or of whatever a session's text is cut into.

    Args:
        utterance: the utterance that it belongs to.
        number: its number there, from 0.
        voice: the session's.
        mark: says that the speech is synthetic.
    """

    def __init__(self, utterance: LiveUtterance, number: int, voice: SessionVoice, mark: Mark) -> None:
        self.utterance = utterance
        self._format = voice.request.response_format
        self._rate = voice.sample_rate
        self._mark = mark
        self._encoder = Encoder(self._format, self._rate, mark) if utterance.form.chunked else None
        self._samples: list[np.ndarray] = []  # of a file that is sent whole
        self._words: tuple[Word, ...] = ()  # that wait for their audio
        self._bytes = self._chunks = 0
        self._seconds = self._sent_s = 0.0
        self._place = {"utterance_index": utterance.index, "sentence_index": number}
        self._number = number

    def start(self) -> dict[str, Any]:
        """Return the event before the audio."""
        return {
            "type": "audio.start",
            **self._place,
            "sentence_text": self.utterance.sentences[self._number],
            "format": self._format,
            "sample_rate": self._rate,
            "channels": 1,
            "trace_id": self.utterance.ctx.trace_id,
            "aigc": self._mark.value(),
        }

    async def add(self, part: FollowedPart) -> tuple[bytes, float]:
        """Add audio; returns the bytes to send, maybe none, and the seconds of audio in them."""
        samples = part.audio.samples
        self._seconds += len(samples) / self._rate
        if self._encoder is None:
            self._samples.append(samples)
            data = await self._whole() if part.ends else b""
        else:
            data = await asyncio.to_thread(self._encoder.add, pcm.from_pcm(samples))
            if part.ends:
                data += await asyncio.to_thread(self._encoder.finish)
        self._bytes += len(data)
        seconds, self._sent_s = (self._seconds - self._sent_s, self._seconds) if data else (0.0, self._sent_s)
        return data, seconds

    async def _whole(self) -> bytes:
        samples = np.concatenate(self._samples)
        self._samples = []
        if self._format == "wav":
            return pcm.wav(samples, self._rate, self._mark)
        return await asyncio.to_thread(
            encode, pcm.from_pcm(samples), self._rate, FORMATS[self._format].name, self._mark
        )

    def chunk(self, data: bytes, seconds: float, part: FollowedPart) -> dict[str, Any] | None:
        """Return the event with a part of the file, where audio goes inside of JSON; None: there is nothing to send.

        An encoder gives no bytes for some parts, and a file that is sent whole none before its end. Their words wait.
        """
        self._words += part.audio.words
        if not data and not (part.ends and self._words):
            return None
        words, self._words = self._words, ()
        number, self._chunks = self._chunks, self._chunks + 1
        return {
            "type": "audio.chunk",
            **self._place,
            "chunk_id": number,
            "chunk_start_ms": round((self._sent_s - seconds) * 1000),
            "chunk_end_ms": round(self._sent_s * 1000),
            "sample_rate": self._rate,
            "channels": 1,
            "audio_b64": base64.b64encode(data).decode(),
            "timestamps": self._times(words) or None,
        }

    def words(self, part: AudioPart) -> dict[str, Any]:
        """Return the event with the times of words, where audio goes in frames of its own."""
        return {"type": "audio.words", **self._place, "timestamps": self._times(part.words)}

    def _times(self, words: Sequence[Word]) -> list[dict[str, Any]]:
        """Return the fields of words.

        Times count from the utterance's first sample, offsets are positions in the sentence's text.
        """
        return [
            {
                "word": word.text,
                "start": word.start,
                "end": word.end,
                "start_ms": round(word.start_s * 1000),
                "end_ms": round(word.end_s * 1000),
            }
            for word in words
        ]

    def done(self, error: bool = False) -> dict[str, Any]:
        """Return the event after the audio."""
        return {
            "type": "audio.done",
            **self._place,
            "total_bytes": self._bytes,
            "seconds": round(self._seconds, 4),
            "error": error,
        }
