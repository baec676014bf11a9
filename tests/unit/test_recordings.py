"""Recordings as phones, browsers and recorders write them: decoded and counted, and no header believed."""

import io
import struct
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from speech import audio, encoding, recording, wav_sizes
from speech.decoder import Decoder, DecoderFailed
from speech.errors import InvalidInput
from speech.mark import Mark
from tests.helpers.serving import tone

RECORDINGS = Path(__file__).with_name("recordings")
RATE = 24_000
MARK = Mark("Example", "ab" * 16)


def refused(data: bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        audio.decode(data)
    assert caught.value.param == "prompt_audio"
    return caught.value


def file_of(samples: np.ndarray, format: str, **settings) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=format, **settings)
    return file.getvalue()


def muxed(
    container: str, codec: str, path: Path | None = None, streams: int = 1, seconds: float = 4.0, **options
) -> bytes:
    """A file of `streams` tracks of the same tone, by FFmpeg; `path` where it must read what it wrote."""
    file = str(path) if path else io.BytesIO()
    wave = 0.3 * np.sin(np.arange(int(48_000 * seconds)) * 0.05).astype(np.float32)
    with av.open(file, "w", format=container, options=options) as out:
        tracks = [out.add_stream(codec, rate=48_000, layout="mono") for _ in range(streams)]
        for track in tracks:
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate = 48_000
            out.mux(track.encode(frame))
            out.mux(track.encode(None))
    return path.read_bytes() if path else file.getvalue()


@pytest.mark.parametrize(
    "name, format, seconds",
    [
        ("vbr-no-xing.mp3", "mp3", 3.6),
        ("own-stream.flac", "flac", 3.84),
        ("wav-size-80000000-arecord-pipe.wav", "wav", 3.6),
        ("phone.m4a", "m4a", 3.6),
        ("browser.webm", "webm", 3.6),
    ],
)
def test_what_recorders_write_is_taken_and_counted(name, format, seconds):
    clip = audio.decode((RECORDINGS / name).read_bytes())
    assert clip.format == format and clip.seconds == pytest.approx(seconds, abs=0.06)
    assert audio.speech_seconds(clip.samples, clip.rate) > 2


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus", "aac"])
@pytest.mark.parametrize("stream", [False, True])
def test_our_own_answers_are_clips_whole_and_streamed(name, stream):
    wave = 0.3 * np.sin(np.arange(RATE * 4) * 0.05).astype(np.float32)
    if stream:
        encoder = encoding.Encoder(name, RATE, MARK)
        data = encoder.add(wave) + encoder.finish()
    else:
        data = encoding.encode(wave, RATE, name, MARK)
    assert audio.decode(data).seconds == pytest.approx(4.0, abs=0.1)


# WAV and its sizes

PLACEHOLDERS = (
    *(0, 0xFFFF_FFFF, 0xFFFF_FFFE, 0x7FFF_FFFF, 0x7FFF_F000, 0x7FFF_FFDB, 0x8000_0000, 0x8000_0024),
    *(0xFFFF_FF00, 0xFFFF_FFDB, 80_000_000, 0x7FFF_FFFF - 36, 0x4000_0000, 512, 4096),
)


def wav_with(size: int, riff: int | None = None, head: bytes = b"RIFF", behind: bytes = b"") -> bytes:
    data = bytearray(tone(seconds=4) + behind)
    assert data[36:40] == b"data"
    struct.pack_into("<I", data, 40, size)
    struct.pack_into("<I", data, 4, size if riff is None else riff)
    data[:4] = head
    return bytes(data)


@pytest.mark.parametrize("size", PLACEHOLDERS, ids=hex)
@pytest.mark.parametrize("riff", [None, 0, 0xFFFF_FFFF, 36])
def test_a_size_that_a_wav_file_cannot_have_is_a_placeholder(size, riff):
    assert audio.read(wav_with(size, riff)).frames == RATE * 4
    assert audio.decode(wav_with(size, riff)).seconds == 4.0


@pytest.mark.parametrize("head", [b"RF64", b"BW64"])
@pytest.mark.parametrize("told", [0, 2**64 - 1, RATE * 4 * 2])
def test_rf64_with_and_without_its_sizes(head, told):
    plain = tone(seconds=4)
    ds64 = struct.pack("<4sIQQQI", b"ds64", 28, len(plain) + 28, told, told // 2, 0)
    fixed = head + b"\xff\xff\xff\xff" + b"WAVE" + ds64 + plain[12:40] + b"\xff\xff\xff\xff" + plain[44:]
    assert audio.decode(fixed).seconds == 4.0


@pytest.mark.parametrize(
    "behind", [b"LIST\x04\x00\x00\x00INFO", b"abcd\x02\x00\x00\x00zz", b"TAG" + bytes(125), bytes(7)]
)
def test_what_stands_behind_the_samples_is_not_heard(behind):
    assert audio.read(wav_with(RATE * 4 * 2, behind=behind)).frames == RATE * 4


def test_a_size_of_a_wav_file_that_is_plausible_is_held_against_it():
    whole = tone(seconds=6)
    assert refused(whole[: len(whole) // 2]).code == "clip_truncated"
    assert refused(whole[:44]).code == "clip_truncated"


# Cut off


@pytest.mark.parametrize("cut", [1, 2, 3, 17, 200])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_a_few_bytes_may_be_missing_at_the_end(format, cut):
    rng = np.random.default_rng(0)
    data = file_of(rng.normal(0, 0.1, RATE * 5).astype(np.float32), format)
    assert audio.decode(data[:-cut]).seconds == pytest.approx(5.0, abs=0.3)


@pytest.mark.parametrize("name", ["phone.m4a", "browser.webm", "own-stream.flac", "vbr-no-xing.mp3"])
@pytest.mark.parametrize("cut", [1, 60])
def test_a_few_bytes_may_be_missing_at_the_end_of_a_phones_recording(name, cut):
    data = (RECORDINGS / name).read_bytes()
    assert audio.decode(data[:-cut]).seconds > 3.4


def test_half_a_recording_is_told_as_such(tmp_path):
    index_last, index_first = muxed("mp4", "aac"), muxed("mp4", "aac", tmp_path / "a.mp4", movflags="faststart")
    assert audio.decode(index_last).seconds == pytest.approx(4.0, abs=0.1)
    assert refused(index_last[: len(index_last) // 2]).code == "clip_truncated"
    assert refused(index_first[: len(index_first) // 2]).code == "clip_truncated"
    flac = (RECORDINGS / "own-stream.flac").read_bytes()
    assert refused(flac[: len(flac) // 2]).code == "clip_too_short", "it does not say how long it is; what is heard is"


# The header lies


def test_a_flac_that_says_less_than_it_holds_is_heard_whole():
    data = bytearray(file_of(0.3 * np.sin(np.arange(RATE * 5) * 0.05), "FLAC"))
    data[21:26] = bytes([data[21] & 0xF0]) + (RATE * 3).to_bytes(4, "big")
    assert audio.decode(bytes(data)).seconds == pytest.approx(5.0, abs=0.01)


def test_an_mp3_behind_a_tag_with_a_picture():
    mp3 = file_of(0.3 * np.sin(np.arange(RATE * 4) * 0.05), "MP3")
    size = 300_000
    tag = b"ID3\x04\x00\x00" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)
    assert audio.decode(tag + mp3).seconds == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize(
    "data",
    [
        b"RIFF\0\0\0\0WAVE" + b"abcd\0\0\0\0" * 2_600_000,
        b"RIFF\0\0\0\0WAVE" + b"data\x08\0\0\0" + bytes(8) + b"abcd\0\0\0\0" * 2_600_000,
        b"ID3" + bytes(7) + (b"ID3" + bytes(7)) * 2_000_000,
    ],
    ids=["chunks before the samples", "chunks behind them", "tags"],
)
def test_millions_of_empty_chunks_or_tags_take_no_time(data):
    start = time.thread_time()
    recording.container_of(data)
    if wav_sizes.is_wav(data):
        wav_sizes.sized(data, 2**30)
    assert time.thread_time() - start < 0.5


def test_a_too_long_recording_says_how_long_it_is():
    found = audio.read(tone(seconds=60, format="FLAC"))
    assert found.frames == RATE * 60 and len(found.samples) == 15 * RATE + 1
    with pytest.raises(InvalidInput) as caught:
        audio.checked(found)
    assert caught.value.code == "clip_too_long"


# Channels


def test_channels_that_cancel_out_are_told_by_that():
    wave = 0.3 * np.sin(np.arange(RATE * 4) * 0.05)
    for other in (-wave, -0.98 * wave):
        error = refused(file_of(np.stack([wave, other], 1), "WAV"))
        assert error.code == "channels_cancel_out" and "mono" in error.message
    one_side = np.zeros((RATE * 4, 6))
    one_side[:, 2] = wave
    unrelated = np.random.default_rng(1).normal(0, 0.1, (RATE * 4, 2))
    for fine in (np.stack([wave, wave], 1), one_side, unrelated, np.stack([wave, -0.4 * wave], 1)):
        assert audio.decode(file_of(fine, "WAV")).channels == fine.shape[1]
    assert refused(file_of(np.zeros((RATE * 4, 2)), "WAV")).code == "no_speech"


# Other containers and codecs


@pytest.mark.parametrize(
    "container, codec, format",
    [
        ("mp4", "aac", "mp4"),
        ("ipod", "aac", "m4a"),
        ("ipod", "alac", "m4a"),
        ("mov", "pcm_s16le", "mov"),
        ("mp4", "libopus", "mp4"),
        ("webm", "libopus", "webm"),
        ("matroska", "libopus", "matroska"),
        ("adts", "aac", "aac"),
        ("wav", "libmp3lame", "wav"),
    ],
)
def test_containers_of_phones_and_browsers(container, codec, format):
    clip = audio.decode(muxed(container, codec))
    assert clip.format == format and clip.rate == 48_000 and clip.seconds == pytest.approx(4.0, abs=0.1)


def test_a_fragmented_mp4_as_a_browser_streams_it():
    data = muxed("mp4", "aac", movflags="frag_keyframe+empty_moov+default_base_moof", frag_duration="500000")
    assert audio.decode(data).seconds == pytest.approx(4.0, abs=0.1)


def test_pictures_without_sound_are_told_as_such():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        track = out.add_stream("mpeg4", rate=24)
        track.width = track.height = 32
        for _ in range(24):
            out.mux(track.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux(track.encode(None))
    assert refused(file.getvalue()).code == "no_sound_track"


def test_a_codec_that_is_not_read_is_named_as_the_cause():
    assert refused(muxed("mp4", "ac3")).code == "codec_unsupported"


# Files that are made to hold a replica


def test_a_file_of_many_tracks_is_refused():
    assert refused(muxed("mp4", "aac", streams=20, seconds=0.2)).code in ("format_out_of_range", "not_audio")


def test_an_index_that_unfolds_into_gigabytes_costs_the_other_process_and_not_this_one():
    data = bytearray((RECORDINGS / "phone.m4a").read_bytes())
    sizes, chunks = data.find(b"stsz"), data.find(b"stsc")
    struct.pack_into(">II", data, sizes + 8, 1, 150_000_000)  # 150 million samples of one byte
    struct.pack_into(">I", data, chunks + 16, 150_000_000)  # all of them in one chunk
    start = time.monotonic()
    assert refused(bytes(data)).code in ("clip_takes_too_long", "not_audio", "clip_truncated")
    assert time.monotonic() - start < 10
    assert audio.decode((RECORDINGS / "phone.m4a").read_bytes()).seconds > 3


def test_hours_in_a_small_file_are_refused_soon():
    silence = np.zeros(RATE * 3600 * 2, np.int16)
    data = file_of(silence, "FLAC")
    start = time.monotonic()
    assert len(data) < 20 * 2**20 and refused(data).code == "clip_too_long"
    assert time.monotonic() - start < 3


def test_a_file_that_takes_too_long_ends_the_process_and_the_next_one_is_decoded_by_another():
    decoder = Decoder(deadline_s=0.3)
    asked = {"keep_s": 15.0, "keep_values": 10**8, "count_values": 10**10}
    try:
        with pytest.raises(DecoderFailed) as caught:
            decoder.decode(file_of(np.zeros(RATE * 3600 * 10, np.int16), "FLAC"), "flac", **asked)
        assert caught.value.reason == "killed"
        decoder.deadline_s = 8.0
        assert decoder.decode((RECORDINGS / "phone.m4a").read_bytes(), "mov", **asked).frames > 3 * RATE
    finally:
        decoder.close()


def test_a_process_that_left_is_replaced():
    decoder = Decoder()
    asked = {"keep_s": 15.0, "keep_values": 10**8, "count_values": 10**8}
    data = (RECORDINGS / "phone.m4a").read_bytes()
    try:
        first = decoder.decode(data, "mov", **asked)
        decoder._process.kill()
        assert decoder.decode(data, "mov", **asked).frames == first.frames
    finally:
        decoder.close()


def test_damaged_files_are_refused_or_heard_and_never_a_defect():
    rng = np.random.default_rng(5)
    for name in ("phone.m4a", "browser.webm", "own-stream.flac", "vbr-no-xing.mp3"):
        whole = (RECORDINGS / name).read_bytes()
        for _ in range(25):
            data = bytearray(whole)
            for at in rng.integers(0, len(data) if rng.random() < 0.5 else 2000, 20):
                data[at] = rng.integers(256)
            try:
                audio.decode(bytes(data))
            except InvalidInput as error:
                assert error.param == "prompt_audio"
