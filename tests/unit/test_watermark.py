"""The watermark in the sound, with Perth's own weights: put in, found again, and never found where there is none."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch

from cluster.demo import CLIP
from engines.contract import WeightsError
from engines.watermark import PACKAGE, Watermark
from speech import verification
from speech.encoding import encode
from speech.pcm import from_pcm, to_pcm

RATE = 24_000
FOUND = verification.WATERMARK_FOUND


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def watermark() -> Watermark:
    return Watermark()


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    """A person's voice, 24 kHz."""
    samples, rate = soundfile.read(CLIP, dtype="float32")
    return soxr.resample(samples, rate, RATE)


@pytest.fixture(scope="module")
def marked(watermark, recording) -> np.ndarray:
    return watermark.put(recording, RATE)


def test_it_is_found_where_it_is_and_not_where_it_is_not(watermark, recording, marked):
    assert watermark.find(recording, RATE) < 0.1 and watermark.find(marked, RATE) > 0.9
    assert watermark.find(from_pcm(to_pcm(marked)), RATE) > 0.9, "16 bit"


def test_it_stays_below_the_voice_and_below_2_khz(recording, marked):
    added = marked - recording
    assert marked.shape == recording.shape and marked.dtype == np.float32
    assert 10 * np.log10(np.square(recording).mean() / np.square(added).mean()) > 10
    power = np.square(np.abs(np.fft.rfft(added)))
    assert power[np.fft.rfftfreq(len(added), 1 / RATE) > 2100].sum() < 0.001 * power.sum()


@pytest.mark.parametrize("seconds", [0.4, 1.0, 2.5])
def test_chunks_of_a_stream_are_marked_as_a_whole_and_without_steps(watermark, recording, seconds):
    size = int(seconds * RATE)
    chunks = [recording[at : at + size] for at in range(0, len(recording), size)]
    streamed = np.concatenate([watermark.put(chunk, RATE) for chunk in chunks])
    assert watermark.find(streamed, RATE) > 0.9
    added = streamed - recording
    at_seams = [np.abs(added[at - 2 : at + 2]).max() for at in range(size, len(recording) - 2, size)]
    assert max(at_seams) < 0.05 * np.abs(added).max()


@pytest.mark.parametrize("name", ["flac", "mp3", "opus", "aac"])
def test_it_outlives_our_formats(watermark, marked, name):
    with av.open(io.BytesIO(encode(marked, RATE, name, None))) as file:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
        rate = file.streams.audio[0].rate
    heard = from_pcm(heard) if heard.dtype == np.int16 else heard
    assert watermark.find(heard, rate) > 0.9


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000])
def test_it_is_found_at_any_rate_and_put_in_at_any(watermark, recording, marked, rate):
    assert watermark.find(soxr.resample(marked, RATE, rate), rate) > 0.9
    other = soxr.resample(recording, RATE, rate)
    assert watermark.find(watermark.put(other, rate), rate) > 0.9 > 0.1 > watermark.find(other, rate)


@pytest.mark.parametrize("samples", [0, 1, 700, 1535])
def test_less_than_a_frame_stays_as_it_is(watermark, recording, samples):
    short = recording[:samples]
    assert watermark.put(short, RATE) is short and watermark.find(short, RATE) == 0.0


def test_silence_stays_silent_and_has_none(watermark):
    silence = np.zeros(RATE, np.float32)
    assert not watermark.put(silence, RATE).any() and watermark.find(silence, RATE) < FOUND


def test_a_rate_without_its_frequencies_has_none(watermark, marked):
    assert watermark.find(soxr.resample(marked, RATE, 3_000), 3_000) == 0.0


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name: str):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("engines.embedded.packages.distribution", missing)
    with pytest.raises(WeightsError, match=rf"{PACKAGE} is not installed.*requirements-watermark.txt"):
        Watermark()


def test_another_file_in_its_place_is_refused(monkeypatch, tmp_path):
    class Other:
        def locate_file(self, file):
            place = tmp_path / "weights"
            place.write_bytes(b"other")
            return place

    monkeypatch.setattr("engines.embedded.packages.distribution", lambda name: Other())
    with pytest.raises(WeightsError, match="damaged, or of another version"):
        Watermark()
