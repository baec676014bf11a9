"""Audio in every format, whole and as a stream: what comes out is decoded again and compared with what went in."""

from __future__ import annotations

import io
import wave
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import psutil
import pytest
import soundfile
import soxr

from speech.audio import decode as decode_clip
from speech.encoding import FORMATS, Encoder, encode
from speech.errors import InvalidInput
from speech.mark import Mark
from speech.pcm import to_pcm, to_wav

RATE = 24_000
MARK = Mark("Example", "ab" * 16)
LOSSLESS = ("wav", "pcm", "flac")
LOSSY = ("mp3", "opus", "aac")
#: Samples at the file's rate that a decoder shows before the first that was added.
LEAD = {("stream", "mp3"): 1105, ("stream", "aac"): 1024, ("whole", "aac"): 1024}


def voice(seconds: float, rate: int = RATE) -> np.ndarray:
    """A glide with harmonics, breath and syllables."""
    time = np.arange(int(seconds * rate)) / rate
    pitch = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * time)) / rate
    tones = sum(np.sin(k * pitch) / k**1.5 for k in range(1, 20))
    noise = np.random.default_rng(7).standard_normal(len(time)) * 0.01
    return ((0.2 * tones + noise) * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def streamed(name: str, samples: np.ndarray, rate: int, step: int) -> list[bytes]:
    with Encoder(name, rate, MARK) as encoder:
        chunks = [encoder.add(samples[at : at + step]) for at in range(0, len(samples), step)]
        return [*chunks, encoder.finish()]


def decoded(name: str, data: bytes, rate: int = RATE) -> tuple[np.ndarray, int]:
    if name == "pcm":
        return np.frombuffer(data[: len(data) // 2 * 2], "<i2") / np.float32(32768), rate
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
        samples = np.concatenate(frames) if frames else np.zeros(0, np.float32)
        scale = np.float32(32768) if samples.dtype == np.int16 else np.float32(1)
        return samples / scale, file.streams.audio[0].rate


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def made(how: str, name: str, samples: np.ndarray, rate: int) -> bytes:
    return encode(samples, rate, name, MARK) if how == "whole" else b"".join(streamed(name, samples, rate, rate // 3))


@pytest.mark.parametrize("how", ["whole", "stream"])
@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_lossy_formats_give_the_same_speech_at_the_same_place(how, name, rate):
    samples = voice(1.5, rate)
    heard, at = decoded(name, made(how, name, samples, rate))
    assert at == (48_000 if name == "opus" else rate)
    lead = LEAD.get((how, name), 0)
    expected = soxr.resample(samples, rate, at)
    excess = len(heard) - lead - len(expected)
    assert -2 <= excess <= 2 * 1152, "at most the frames that the codec fills up"
    assert correlation(heard[lead : lead + len(expected)], expected[: len(heard) - lead]) > 0.99


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_a_whole_file_says_how_long_it_is(name):
    data = encode(voice(1.5), RATE, name, MARK)
    assert len(soundfile.read(io.BytesIO(data))[0]) == pytest.approx(1.5 * RATE, abs=1)


@pytest.mark.parametrize("how", ["whole", "stream"])
@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_lossless_formats_give_the_samples_of_the_wav_file(how, name, rate):
    edges = np.array([1.0, -1.0, 0.99999, -0.99999, 1.7, -3.0, 0.5 / 32768, -0.5 / 32768, 1e-12, -1e-12], np.float32)
    samples = np.concatenate([voice(1.3, rate), edges])
    expected = np.frombuffer(to_wav(samples, rate)[44:], "<i2")
    heard, at = decoded(name, made(how, name, samples, rate), rate)
    assert at == rate
    assert np.array_equal((heard * 32768).astype(np.int16), expected)
    assert np.array_equal(to_pcm(samples), expected)


@pytest.mark.parametrize("name", [*FORMATS])
@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_what_was_handed_out_plays_up_to_the_codecs_delay(name, rate):
    samples, given, behind = voice(3.0, rate), b"", []
    with Encoder(name, rate, MARK) as encoder:
        for second in range(3):
            given += encoder.add(samples[second * rate : (second + 1) * rate])
            heard, at = decoded(name, given, rate)
            behind.append(second + 1 - len(heard) / at)
    assert max(behind) <= FORMATS[name].delay_s


@pytest.mark.parametrize("name", LOSSY)
def test_a_stream_keeps_to_its_bit_rate(name):
    # 28 bytes of a page of Ogg for every 60 ms are 3.7 kbit/s.
    assert len(made("stream", name, voice(4), RATE)) * 8 / 4 < FORMATS[name].bit_rate * 1.15 + 3_700


@pytest.mark.parametrize("name", ["flac", "mp3", "opus", "aac"])
def test_the_same_samples_give_the_same_bytes_however_they_come(name):
    samples = voice(1.5)
    small, large = (b"".join(streamed(name, samples, RATE, step)) for step in (777, RATE))
    assert small == large


def test_a_wav_stream_is_read_to_its_end_by_those_who_know_no_length():
    samples = voice(3.2)
    data = made("stream", "wav", samples, RATE)
    assert data[4:8] == data[data.index(b"data") + 4 :][:4] == b"\xff\xff\xff\xff"
    assert len(soundfile.read(io.BytesIO(data))[0]) == len(samples)
    assert len(decode_clip(data).samples) == len(samples)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        assert len(file.readframes(RATE * 10)) == 2 * len(samples)


@pytest.mark.parametrize("name", [*FORMATS])
@pytest.mark.parametrize("how", ["whole", "stream"])
def test_no_samples_make_a_file_that_opens(how, name):
    data = made(how, name, np.zeros(0, np.float32), RATE)
    heard, at = decoded(name, data)
    # A codec fills its one frame up, and a stream shows what it puts in front.
    assert len(heard) <= (3 * 1024 if name in LOSSY else 0)
    assert np.abs(heard).max(initial=0) < 1e-3


def test_an_added_nothing_changes_nothing():
    with Encoder("pcm", RATE, MARK) as encoder:
        assert encoder.add(np.zeros(0, np.float32)) == b""
        assert encoder.add(np.full(2, 0.5, np.float32)) == b"\x00\x40\x00\x40"
        assert encoder.finish() == b""


@pytest.mark.parametrize("name", LOSSY)
def test_too_loud_is_clipped_and_does_not_wrap(name):
    loud = 3 * voice(1.0) / np.abs(voice(1.0)).max()
    heard, at = decoded(name, encode(loud, RATE, name, MARK))
    expected = soxr.resample(np.clip(loud, -1, 1), RATE, at)
    lead = LEAD.get(("whole", name), 0)
    assert correlation(heard[lead : lead + len(expected)], expected[: len(heard) - lead]) > 0.98


@pytest.mark.parametrize("name", [*FORMATS])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(name, value):
    samples = voice(0.1)
    samples[100] = value
    with pytest.raises(ValueError, match="not numbers"):
        encode(samples, RATE, name, MARK)
    with Encoder(name, RATE, MARK) as encoder, pytest.raises(ValueError, match="not numbers"):
        encoder.add(samples)


@pytest.mark.parametrize("name", ["wav", "mp3"])
def test_stereo_is_refused_and_so_is_more_after_the_end(name):
    with pytest.raises(ValueError, match="mono"):
        encode(np.zeros((10, 2), np.float32), RATE, name, MARK)
    encoder = Encoder(name, RATE, MARK)
    encoder.add(voice(0.2))
    assert name == "wav" or encoder.finish()
    assert encoder.finish() == b""
    with pytest.raises(ValueError, match="finished"):
        encoder.add(voice(0.2))


@pytest.mark.parametrize("name", ["ogg", "", "MP3", "Sekret"])
@pytest.mark.parametrize(
    "make", [lambda name: encode(voice(0.1), RATE, name, MARK), lambda name: Encoder(name, RATE, MARK)]
)
def test_an_unknown_format_is_told_the_known_ones(name, make):
    with pytest.raises(InvalidInput) as caught:
        make(name)
    error = caught.value
    assert (error.param, error.code) == ("response_format", "response_format_unknown")
    assert all(known in error.message for known in FORMATS) and "Sekret" not in error.message


def test_media_types():
    assert {name: (entry.media_type, entry.extension) for name, entry in FORMATS.items()} == {
        "wav": ("audio/wav", "wav"),
        "pcm": ("audio/pcm", "pcm"),
        "flac": ("audio/flac", "flac"),
        "mp3": ("audio/mpeg", "mp3"),
        "opus": ("audio/ogg", "opus"),
        "aac": ("audio/aac", "aac"),
    }


def test_encoders_beside_each_other_do_not_mix():
    voices = {name: voice(1.0) * scale for name, scale in zip(FORMATS, np.linspace(0.3, 1, len(FORMATS)), strict=True)}
    alone = {name: b"".join(streamed(name, samples, RATE, 1000)) for name, samples in voices.items()}
    with ThreadPoolExecutor(12) as pool:
        runs = [(name, pool.submit(streamed, name, voices[name], RATE, 1000)) for name in [*FORMATS] * 4]
        assert all(b"".join(run.result()) == alone[name] for name, run in runs)


@pytest.mark.parametrize("end", ["finish", "forget"])
def test_encoders_leave_no_memory_behind(end):
    samples, process = voice(0.1, 22_050), psutil.Process()

    def use(times: int) -> None:
        for index in range(times):
            encoder = Encoder(list(FORMATS)[index % len(FORMATS)], 22_050, MARK)
            encoder.add(samples)
            if end != "forget":
                getattr(encoder, end)()

    use(60)
    before = process.memory_info().rss
    use(200)
    assert process.memory_info().rss - before < 4 * 2**20
