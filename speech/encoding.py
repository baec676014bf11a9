"""Encodes speech as a file of the requested format, whole or as it grows.

`encode` writes a file with a complete header. An `Encoder` gives out the same audio piece by piece. It never goes back
to a header that it has given out, so lengths in the header are left open (see `FORMATS`), and the bytes given out so
far always play. Formats other than wav and pcm are FFmpeg's (PyAV), with muxers writing into memory.

Every file says that its speech is synthetic: each caller hands over the mark (`speech/mark.py`), which goes to the head
of the file, into a WAV file's INFO chunk, Vorbis comments (flac, opus) or an ID3 tag (mp3, aac). Raw pcm has no place
for one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import av
import numpy as np
import soxr

from speech.errors import InvalidInput
from speech.mark import FIELD, Mark
from speech.pcm import to_pcm, to_wav
from speech.wav_header import wav_header

_ANY_RATE: tuple[int, ...] = ()
_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_AAC_RATES = (*_MP3_RATES, 64_000, 88_200, 96_000)
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)


@dataclass(frozen=True)
class Format:
    """A format of `FORMATS`."""

    name: str  #: as requested: `mp3`
    media_type: str  #: for `Content-Type`
    extension: str  #: of a file name, without the dot
    #: The most seconds by which decodable audio lags behind added audio: the codec's look-ahead, a frame that is not
    #: full, a resampler, and for opus a page of Ogg. `finish` brings the rest.
    delay_s: float = 0.0
    codec: str = ""  #: FFmpeg's encoder; none for wav and pcm
    container: str = ""  #: FFmpeg's muxer
    samples: str = ""  #: FFmpeg's sample format
    bit_rate: int | None = None  #: bits a second; None if the format is lossless
    rates: tuple[int, ...] = _ANY_RATE  #: Hz that it can hold; other audio is resampled to the next one above
    codec_options: Mapping[str, str] = field(default_factory=dict)
    stream_options: Mapping[str, str] = field(default_factory=dict)  #: options of the muxer if it can't go back
    marked_options: Mapping[str, str] = field(default_factory=dict)  #: options of the muxer if there is a mark

    def rate(self, rate: int) -> int:
        """Return the rate in Hz at which audio of `rate` Hz is written."""
        if not self.rates or rate in self.rates:
            return rate
        return min((held for held in self.rates if held > rate), default=self.rates[-1])


#: By the name that clients send. Bit rates are for one voice of 24 kHz: mp3 and aac at 64 kbit/s, opus at 32 kbit/s
#: (RFC 6716, 2.1.1: 28 to 40 for full-band speech). A stream of mp3, and aac always, has no field for the number of
#: samples that the codec puts in front (mp3 1,105, aac 1,024), so a player plays them. A whole mp3 and opus have one.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Format("wav", "audio/wav", "wav"),
            Format("pcm", "audio/pcm", "pcm"),
            Format("flac", "audio/flac", "flac", 0.12, "flac", "flac", "s16"),
            Format(
                "mp3",
                "audio/mpeg",
                "mp3",
                0.15,
                "libmp3lame",
                "mp3",
                "fltp",
                64_000,
                _MP3_RATES,
                stream_options={"write_xing": "0", "id3v2_version": "0"},
                marked_options={"id3v2_version": "3"},
            ),
            # A page of Ogg costs 28 bytes: with one for each frame of 20 ms, every fourth byte would be a header.
            Format(
                "opus",
                "audio/ogg",
                "opus",
                0.2,
                "libopus",
                "ogg",
                "flt",
                32_000,
                _OPUS_RATES,
                codec_options={"application": "audio", "frame_duration": "20"},
                stream_options={"page_duration": "60000"},
            ),
            # ADTS has no metadata of its own; an ID3 tag before it is what HLS does, and players skip it.
            Format(
                "aac",
                "audio/aac",
                "aac",
                0.15,
                "aac",
                "adts",
                "fltp",
                64_000,
                _AAC_RATES,
                marked_options={"write_id3v2": "1"},
            ),
        )
    }
)


def format_named(name: str) -> Format:
    """Return the format called `name`. Raises InvalidInput (param `response_format`) for any other name."""
    found = FORMATS.get(name)
    if found is None:
        raise InvalidInput(
            f"The field 'response_format' must be one of {', '.join(FORMATS)}.",
            param="response_format",
            code="response_format_unknown",
        )
    return found


def encode(samples: np.ndarray, rate: int, format: str, mark: Mark | None) -> bytes:
    """Encode mono float32 `samples` (n,) in ±1 at `rate` Hz as a whole file; louder samples are clipped.

    Args:
        samples: the audio.
        rate: Hz.
        format: one of `FORMATS`.
        mark: says that the speech is synthetic; None for audio that is not.

    Raises:
        InvalidInput: the format is unknown.
        ValueError: a sample is NaN or infinite.
    """
    found, samples = format_named(format), checked(samples)
    if found.name == "wav":
        return to_wav(samples, rate, mark)
    if not found.codec:
        return to_pcm(samples).tobytes()
    file = io.BytesIO()
    codec = _Codec(found, rate, file, {}, mark)
    try:
        codec.add(samples)
        codec.finish()
    finally:
        codec.close()
    return file.getvalue()


class Encoder:
    """A file that is given out while it grows: the results of `add` and then `finish`, put together, are the file.

    Two threads must not use it at a time; encoders share nothing with each other. An unfinished encoder frees its
    memory at `close`, at the end of a `with` block, or with its last reference.

    Args:
        format: one of `FORMATS`.
        rate: Hz.
        mark: says that the speech is synthetic; None for audio that is not.

    Raises:
        InvalidInput: the format is unknown.
    """

    _codec: _Codec | None = None

    def __init__(self, format: str, rate: int, mark: Mark | None) -> None:
        self.format = format_named(format)
        self._pipe = _Pipe()
        self._finished = False
        if self.format.codec:
            self._codec = _Codec(self.format, rate, self._pipe, self.format.stream_options, mark)
        if self.format.name == "wav":
            self._pipe.write(wav_header(rate, mark))

    def add(self, samples: np.ndarray) -> bytes:
        """Add mono float32 `samples` (n,) in ±1 and return the file's next bytes, maybe none; louder ones are clipped.

        Raises:
            ValueError: a sample is NaN or infinite (a defect of the engine, which silence would hide), or the file is
                finished.
        """
        if self._finished:
            raise ValueError("the file is finished")
        samples = checked(samples)
        if self._codec:
            self._codec.add(samples)
        else:
            self._pipe.write(to_pcm(samples).tobytes())
        return self._pipe.taken()

    def finish(self) -> bytes:
        """Return the last bytes of the file; none on a second call."""
        if self._codec and not self._finished:
            self._codec.finish()
        self.close()
        return self._pipe.taken()

    def close(self) -> None:
        self._finished = True
        if self._codec:
            self._codec.close()

    def __del__(self) -> None:
        # PyAV's container and its streams refer to each other: they would keep megabytes, which the garbage collector
        # does not see, until it runs.
        self.close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def checked(samples: np.ndarray) -> np.ndarray:
    """Return the samples as float32 (n,). Raises ValueError for another shape and for values that are not finite."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"samples must be mono of shape (n,), not {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError("the samples hold values that are not numbers")
    return samples


class _Pipe:
    """A buffer that keeps written bytes until they are taken. It has no `seek`, so a muxer can't go back."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def taken(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class _Codec:
    """FFmpeg's encoder and muxer, which write to `sink` as soon as a frame is full."""

    def __init__(
        self, format: Format, rate: int, sink: io.BytesIO | _Pipe, options: Mapping[str, str], mark: Mark | None
    ) -> None:
        self._rate = format.rate(rate)
        self._resampler = soxr.ResampleStream(rate, self._rate, 1, dtype="float32") if self._rate != rate else None
        self._format = format
        # bitexact: the same samples give the same bytes; without it Ogg would draw a serial number.
        self._container = av.open(
            sink,
            "w",
            format=format.container,
            options={
                "flush_packets": "1",
                "fflags": "bitexact",
                "metadata_header_padding": "0",
                **options,
                **(format.marked_options if mark else {}),
            },
        )
        if mark is not None:
            self._container.metadata[FIELD] = mark.value()
        stream = self._container.add_stream(
            format.codec, rate=self._rate, layout="mono", options={"flags": "bitexact", **format.codec_options}
        )
        assert isinstance(stream, av.AudioStream), "FORMATS names codecs of audio alone"
        self._stream = stream
        self._stream.format = format.samples
        self._stream.codec_context.thread_count = 1  # each thread would hold a frame back
        if format.bit_rate:
            self._stream.bit_rate = format.bit_rate
        self._added = 0

    def add(self, samples: np.ndarray) -> None:
        self._encode(self._resampler.resample_chunk(samples) if self._resampler else samples)

    def finish(self) -> None:
        if self._resampler:
            self._encode(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        if self._format.bit_rate and not self._added:
            self._encode(np.zeros(1, np.float32))  # without a frame no player would open the file
        self._container.mux(self._stream.encode(None))

    def close(self) -> None:
        self._container.close()

    def _encode(self, samples: np.ndarray) -> None:
        if not len(samples):
            return
        values = to_pcm(samples) if self._format.samples == "s16" else np.clip(samples, -1.0, 1.0)
        frame = av.AudioFrame.from_ndarray(values[None], format=self._format.samples, layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._added
        self._added += len(samples)
        self._container.mux(self._stream.encode(frame))
