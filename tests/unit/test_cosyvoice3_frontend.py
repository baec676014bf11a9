"""The front end against the official one: one decode, resampled views, features, tokens and embedding of a clip."""

import math

import numpy as np
import pytest
import torch

from engines.contract import Reference, Voice
from engines.cosyvoice3 import features, onnx
from engines.cosyvoice3.added_tokens import added_tokens
from engines.cosyvoice3.prompts import prompt
from engines.cosyvoice3.resample import resample
from engines.cosyvoice3.tokenizer import TextTokenizer
from engines.cosyvoice3.voice import CosyVoice3SpeakerEncoder, reference, transcript
from speech import audio
from speech.errors import InternalError, InvalidInput
from speech.utterance import Utterance
from tests.helpers.cosyvoice3 import (  # noqa: F401
    CLIP,
    TEXT,
    TRANSCRIPT,
    distance,
    golden,
    golden_directory,
    tiny_checkpoint,
)

#: A quiet band's logarithm says what the Fourier transform rounded: the official array itself is 2e-5 from the same sum
#: in float64.
QUIET = 4e-5


@pytest.fixture(scope="module")
def directory():
    torch.set_num_threads(1)
    return golden_directory()


@pytest.fixture(scope="module")
def truth():
    return golden("golden_frontend.npz")


@pytest.fixture(scope="module")
def clip() -> Reference:
    if not CLIP.is_file():
        pytest.skip("no ../shared/clips: the real recordings lie beside the repository, not in it")
    decoded = audio.decode(CLIP.read_bytes(), seconds=(3.0, 30.0))
    return reference(decoded.samples, decoded.rate, TRANSCRIPT)


def test_a_real_clip_becomes_the_official_voice(directory, truth, clip):
    (voice,) = CosyVoice3SpeakerEncoder(directory).encode([clip])
    for name in ("llm", "flow"):
        assert np.array_equal(voice.arrays["speech_tokens"], truth[f"{name}_prompt_speech_token"][0])
        assert distance(voice.arrays["embedding"], truth[f"{name}_embedding"][0]) < 1e-5
    mel, official = voice.arrays["prompt_mel"], truth["prompt_speech_feat"][0]
    assert distance(mel, official) < QUIET
    assert distance(np.exp(mel), np.exp(official)) < 1e-5
    assert (np.abs(mel - official) > 1e-5).mean() < 0.01
    assert len(mel) == 2 * len(voice.arrays["speech_tokens"]) == truth["prompt_speech_feat_len"][0]
    assert transcript(voice) == TRANSCRIPT


def test_text_and_transcript_are_the_official_ids(directory, truth):
    tokenizer = TextTokenizer(directory)
    read = prompt(Utterance(TEXT, "zh-CN"), TEXT, TRANSCRIPT)
    assert tokenizer.ids(read.before) == truth["prompt_text"][0].tolist()
    assert tokenizer.ids(read.text) == truth["text"][0].tolist()
    assert tokenizer.end_of_prompt == 151_646 in tokenizer.ids(read.before)


# The ids are what transformers 5.23's Qwen2Tokenizer gives, with the official list of added tokens.
@pytest.mark.parametrize(
    "text, ids",
    [
        ("I'll say 123  times:\n\n don't!", [40, 3278, 1977, 220, 16, 17, 18, 220, 3039, 1447, 1513, 944, 0]),
        ("报道[j][ǐ]予好评[breath]", [86227, 151797, 151913, 99944, 102959, 151647]),
        ("read[R][EH1][D] <strong>it</strong>", [878, 151730, 151694, 151690, 220, 151648, 275, 151649]),
        ("こんにちは、世界！ 안녕 Привет", [89015, 5373, 99489, 6313, 95170, 144370, 79484, 26991, 8178]),
        ("🙂🙂 [laughter] <laughter>ha</laughter>", [145080, 145080, 220, 151651, 220, 151656, 4223, 151657]),
        ("请用四川话表达。<|endofprompt|>", [14880, 11622, 102110, 57443, 102124, 1773, 151646]),
    ],
)
def test_ids_are_qwens(directory, text, ids):
    tokenizer = TextTokenizer(directory)
    assert tokenizer.ids(text) == ids
    assert tokenizer.text(ids) == text


def test_tags_and_pronunciations_are_one_token_each(tiny):
    tokenizer = TextTokenizer(tiny)
    tokens = added_tokens()
    assert len(tokens) == len(set(tokens)) == 281
    for token in tokens:
        assert len(tokenizer.ids(token)) == 1, token
    assert len(tokenizer.ids("[j][ǐ]")) == 2
    assert tokenizer.ids("[j][i\u030c]")[0] == tokenizer.ids("[j]")[0]


@pytest.mark.parametrize("rate, target", [(44_100, 16_000), (48_000, 24_000), (22_050, 24_000), (16_000, 24_000)])
def test_resampling_keeps_a_tone_below_the_band_edge_and_drops_one_above(rate, target):
    time, out = np.arange(rate) / rate, np.arange(target) / target
    low = resample(np.sin(2 * math.pi * 1000 * time).astype(np.float32), rate, target)
    assert low.dtype == np.float32 and len(low) == target
    middle = slice(200, -200)
    assert np.abs(low - np.sin(2 * math.pi * 1000 * out))[middle].max() < 5e-3
    if rate > target:
        high = resample(np.sin(2 * math.pi * 0.65 * target * time).astype(np.float32), rate, target)
        assert np.abs(high[middle]).max() < 0.02


def test_resampling_is_the_windowed_sinc_sum():
    """Against the definition, summed in float64: sinc with a Hann window over six zero crossings, edge at 0.99."""
    rate, target = 44_100, 16_000
    samples = np.random.default_rng(3).standard_normal(2000).astype(np.float32)
    band = 0.99 * target  # twice the edge in Hz
    for index in (300, 301, 402):
        lag = (index / target - np.arange(2000) / rate) * band
        weights = np.where(np.abs(lag) < 6, np.sinc(lag) * np.cos(lag * math.pi / 12) ** 2, 0) * band / rate
        assert resample(samples, rate, target)[index] == pytest.approx(weights @ samples, abs=2e-5)


@pytest.mark.parametrize(
    "length, rate, target, expected", [(1001, 44_100, 16_000, 364), (1, 16_000, 24_000, 2), (160, 16_000, 16_000, 160)]
)
def test_resampling_gives_every_sample_that_begins_inside(length, rate, target, expected):
    assert len(resample(np.ones(length, np.float32), rate, target)) == expected


def test_clips_of_any_length_are_few_convolutions(monkeypatch):
    """For each length that a convolution meets, torch keeps code; a service meets thousands."""
    convolve, lengths = torch.nn.functional.conv1d, set()
    monkeypatch.setattr(
        torch.nn.functional,
        "conv1d",
        lambda samples, *others, **named: (lengths.add(samples.shape[-1]), convolve(samples, *others, **named))[1],
    )
    whole = np.random.default_rng(0).standard_normal(4 * 24_000).astype(np.float32)
    expected = resample(whole, 24_000, 16_000)
    for length in range(3 * 24_000 + 1, 4 * 24_000, 997):
        out = resample(whole[:length], 24_000, 16_000)
        assert len(out) == math.ceil(length * 2 / 3)
        assert np.array_equal(out[:-20], expected[: len(out) - 20]), "but for the end, what stands behind is not heard"
    assert len(lengths) == 1


def test_features_have_their_frames_and_find_a_tone():
    def tone(rate):
        return (0.5 * np.sin(2 * math.pi * 2000 * np.arange(2 * rate) / rate)).astype(np.float32)

    whisper, fbank = features.whisper_mel(tone(16_000)), features.fbank(tone(16_000))
    mel = features.prompt_mel(tone(24_000))
    assert whisper.shape == (128, 200) and fbank.shape == (198, 80) and mel.shape == (100, 80)
    assert whisper.max() - whisper.min() == pytest.approx(2.0, abs=1e-5)
    assert np.abs(fbank.mean(axis=0)).max() < 1e-4
    # The band around 2 kHz: Slaney's scale has it at mel 25.1 of 45.2 (16 kHz) and of 52.7 (24 kHz) in all.
    assert abs(whisper[:, 100].argmax() / 128 - 25.1 / 45.2) < 0.02
    assert abs(mel[50].argmax() / 80 - 25.1 / 51.2) < 0.03


def test_views_are_not_sent_along(clip):
    assert dict(clip.views) == {} and set(clip.arrays) == {"whisper_mel", "fbank", "prompt_mel"}
    assert all(array.dtype == np.float32 for array in clip.arrays.values())


def test_a_bad_clip_fails_alone(tiny):
    rng = np.random.default_rng(0)
    clips = (rng.standard_normal(72_000).astype(np.float32) / 10 for _ in range(2))
    good, other = (reference(clip, 24_000, said) for clip, said in zip(clips, (None, "hi"), strict=True))
    short = Reference({}, {**good.arrays, "prompt_mel": good.arrays["prompt_mel"][:1]})
    broken = Reference({}, {**good.arrays, "fbank": np.zeros((3, 7), np.float32)})
    encoder = CosyVoice3SpeakerEncoder(tiny)
    found = encoder.encode([short, good, broken, other])
    assert isinstance(found[0], InvalidInput) and isinstance(found[2], InternalError)
    (alone,) = encoder.encode([other])
    assert all(np.array_equal(alone.arrays[name], found[3].arrays[name]) for name in alone.arrays)
    assert "transcript" not in found[1].arrays and transcript(found[1]) is None and transcript(found[3]) == "hi"


def _clips(*seconds: float) -> list[Reference]:
    random = np.random.default_rng(0)
    return [reference(random.normal(0, 0.1, int(each * 24_000)).astype(np.float32), 24_000, None) for each in seconds]


def test_clips_of_equal_length_share_a_call_and_are_what_they_are_alone(tiny, monkeypatch):
    encoder = CosyVoice3SpeakerEncoder(tiny)
    calls = []
    session = encoder._embedder.model.runner.session
    monkeypatch.setattr(encoder._embedder.model.runner, "session", Watched(session, calls))
    clips = _clips(3, 4, 3)
    together = encoder.encode(clips)
    assert calls == [(2, 298, 80), (1, 398, 80)]
    for clip, voice in zip(clips, together, strict=True):
        (alone,) = encoder.encode([clip])
        assert np.array_equal(alone.arrays["speech_tokens"], voice.arrays["speech_tokens"])
        assert np.array_equal(alone.arrays["prompt_mel"], voice.arrays["prompt_mel"])
        assert distance(alone.arrays["embedding"], voice.arrays["embedding"]) < 1e-5


class Watched:
    """A session that keeps the shapes it is run with."""

    def __init__(self, session, calls) -> None:
        self._session, self._calls = session, calls

    def run(self, names, feeds):
        self._calls.append(next(iter(feeds.values())).shape)
        return self._session.run(names, feeds)


def test_a_clip_that_the_models_fail_on_fails_alone(tiny):
    one, other = _clips(3, 4)
    broken = Reference({}, {**one.arrays, "fbank": np.zeros((3, 7), np.float32)}, None)
    found = CosyVoice3SpeakerEncoder(tiny).encode([one, broken, other])
    assert isinstance(found[1], InternalError) and isinstance(found[0], Voice) and isinstance(found[2], Voice)


def test_on_a_gpu_onnxruntime_computes_there_exactly_or_says_that_it_can_not(tiny, monkeypatch, caplog):
    onnx.SpeakerEmbedder(tiny, "cuda:1")
    assert "campplus.onnx runs on the CPU" in caplog.text and "onnxruntime-gpu" in caplog.text
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: available)
    (name, settings), last = onnx._providers("cuda:1")
    assert (name, last) == tuple(available)
    assert settings["device_id"] == "1" and settings["use_tf32"] == "0"
    assert onnx._providers("cuda")[0][1]["device_id"] == "0"
    assert onnx._providers("cpu") == ["CPUExecutionProvider"]
