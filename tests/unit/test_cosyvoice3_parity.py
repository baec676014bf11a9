"""The networks against what the official code computed from the same tiny checkpoint: tokens identical, arrays 1e-5."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.cosyvoice3 import flow, hift, noise, speech_lm
from engines.cosyvoice3.decoder import Decoder, Job
from engines.cosyvoice3.flow import FlowRow
from engines.cosyvoice3.sampling import Sampler
from engines.cosyvoice3.streaming import SpeechStream
from tests.helpers.cosyvoice3 import distance, golden, golden_directory

WITHIN = 1e-5
#: Audio made of a mel that itself differs by rounding (3e-6): the source sums the pitch up over the whole row, so that
#: such a difference grows. How much is shown by `test_why_audio_through_both_networks_has_more_room`.
THROUGH_BOTH = 1e-4


@pytest.fixture(scope="module")
def directory():
    torch.set_num_threads(1)
    return golden_directory()


@pytest.fixture(scope="module")
def truth():
    return golden()


@pytest.fixture(scope="module")
def lm(directory):
    return speech_lm.load(directory)


@pytest.fixture(scope="module")
def mel_maker(directory):
    return flow.load(directory)


@pytest.fixture(scope="module")
def vocoder(directory):
    return hift.load(directory)


@pytest.fixture(scope="module")
def excitation(directory):
    return noise.Excitation(directory.numbers)


def row(truth, tokens) -> FlowRow:
    return FlowRow(
        *(
            torch.from_numpy(array)
            for array in (tokens, truth["prompt_token"][0], truth["prompt_feat"][0], truth["embedding"][0])
        )
    )


def spoken(lm, truth, settings, parity: bool) -> tuple[list[int], list[np.ndarray]]:
    """Tokens, and the log-probabilities they were picked from."""
    seen = []

    class Watched(Sampler):
        def _pick(self, log_probabilities):
            seen.append(log_probabilities.copy())
            return super()._pick(log_probabilities)

    text = truth["text"].shape[1]
    sampler = Watched(settings, lm.speech_tokens, seed=1234, least=2 * text, parity=parity)
    decoder = Decoder(lm, rows=2, positions=256)
    found = decoder.submit(
        Job(
            [*truth["prompt_text"][0].tolist(), *truth["text"][0].tolist()],
            truth["prompt_token"][0].tolist(),
            sampler,
            20 * text,
        )
    )
    decoder.run()
    return found.tokens, seen


@pytest.mark.parametrize("name", ["greedy", "ras"])
def test_the_language_model_says_the_same_tokens(lm, directory, truth, name):
    settings = directory.numbers.llm.sampling if name == "ras" else None
    tokens, seen = spoken(lm, truth, settings, parity=True)
    assert tokens == truth[f"tok_{name}"].tolist()
    ours, theirs = np.stack(seen[:4]), truth[f"logp_{name}"]
    assert np.array_equal(np.isinf(ours), np.isinf(theirs))
    assert distance(ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]) < WITHIN


def test_without_parity_the_least_length_is_kept(lm, directory, truth):
    least = 2 * truth["text"].shape[1]
    assert len(truth["tok_ras"]) < least, "the official code stopped too early here"
    tokens, _ = spoken(lm, truth, directory.numbers.llm.sampling, parity=False)
    assert len(tokens) >= least


def test_the_fixed_noises(truth, excitation):
    assert np.array_equal(noise.flow(2000), truth["flow_rand_noise_head"][0])
    assert np.array_equal(excitation.phase, truth["hift_rand_ini"])
    assert np.array_equal(excitation(1000), truth["hift_sine_noise_head"][0, :1000])
    assert np.array_equal(excitation(144_000), truth["hift_sine_noise_head"][0]), "grown in blocks, and the same"


def test_the_estimator(mel_maker, truth):
    x, mu, cond = (torch.from_numpy(truth[f"est0_{name}"]).transpose(1, 2) for name in ("x", "mu", "cond"))
    time, speaker = torch.from_numpy(truth["est0_t"]), torch.from_numpy(truth["est0_spks"])
    with torch.inference_mode():
        velocity = mel_maker.decoder.estimator(x, mu, time, speaker, cond)
    assert distance(velocity.transpose(1, 2), truth["est0_out"]) < WITHIN


def test_the_estimator_is_the_same_with_what_is_made_of_the_time_beforehand(mel_maker, truth):
    """The first step's table row against the time that the official code gave, two rows of it as there."""
    mel_maker.prepare()
    with torch.inference_mode():
        made = mel_maker.decoder.estimator.modulations(torch.from_numpy(truth["est0_t"]).expand(2))
    assert torch.equal(made[:, :1], mel_maker._modulations[0])
    assert torch.equal(made[:, 1:], mel_maker._modulations[0]), "both rows of guidance have the same"


@pytest.mark.parametrize(
    "name, count, chunked, final",
    [("mel", None, False, True), ("mel_stream_mask", None, True, True), ("mel_chunk_notfinal", 53, True, False)],
)
def test_the_flow(mel_maker, truth, name, count, chunked, final):
    (mel,) = mel_maker([replace(row(truth, truth["tok"][0, :count]), chunked=chunked, final=final)])
    assert distance(mel, truth[name][0]) < WITHIN


def test_the_vocoder_and_what_it_sings_on(vocoder, excitation, truth):
    f0 = vocoder.pitch(torch.from_numpy(truth["mel"]))
    assert distance(f0, truth["f0"]) < WITHIN
    source = vocoder.m_source(f0.float(), excitation(truth["source"].shape[2]))
    assert distance(source.detach(), truth["source"][0]) < WITHIN
    mel = torch.from_numpy(truth["mel"][0])
    assert distance(vocoder([mel], excitation)[0], truth["wav"][0]) < WITHIN
    assert distance(vocoder([mel], excitation, final=False)[0], truth["wav_notfinal"][0]) < WITHIN


def test_what_is_given_early_is_the_beginning_of_the_whole(vocoder, excitation, truth):
    mel = torch.from_numpy(truth["mel"][0])
    whole, early = vocoder([mel], excitation)[0], vocoder([mel[:, :100]], excitation, final=False)[0]
    assert len(early) == (100 - vocoder.held_back) * 480
    assert distance(early, whole[: len(early)]) < 1e-6


def test_ready_made_tokens_to_audio(mel_maker, vocoder, excitation, truth):
    (mel,) = mel_maker([row(truth, truth["src_tok"][0])])
    assert distance(vocoder([mel], excitation)[0], truth["src_offline_wav"][0]) < THROUGH_BOTH


def test_why_audio_through_both_networks_has_more_room(vocoder, excitation, truth):
    """The official mel with the flow's float32 rounding laid over it is no nearer to its own audio than ours is."""
    mel = torch.from_numpy(truth["mel"][0])
    rounding = 3e-6 * (2 * torch.rand(mel.shape, generator=torch.Generator().manual_seed(1)) - 1)
    moved = distance(vocoder([mel + rounding], excitation)[0], truth["wav"][0])
    assert WITHIN < moved < 1e-4


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_stream_gives_the_official_chunks(mel_maker, vocoder, excitation, truth, at_once):
    stream = SpeechStream(mel_maker, vocoder, excitation, row(truth, truth["src_tok"][0]), parity=True)
    tokens, chunks = truth["src_tok"][0].tolist(), []
    for start in range(0, len(tokens), at_once):
        chunks += stream.add(tokens[start : start + at_once])
    chunks.append(stream.finish())
    assert [len(chunk) for chunk in chunks] == truth["src_stream_lens"].tolist()
    assert distance(torch.cat(chunks), truth["src_stream_wav"][0]) < THROUGH_BOTH


def test_without_parity_a_stream_is_its_streaming_reference_to_the_end(directory, excitation, truth):
    # In float64: what is left then is no rounding, but a difference in what is computed.
    mel_maker, vocoder = flow.load(directory, dtype=torch.float64), hift.load(directory).double()
    voice = row(truth, truth["src_tok"][0])
    stream = SpeechStream(mel_maker, vocoder, excitation, voice)
    chunks = [*stream.add(truth["src_tok"][0].tolist()), stream.finish()]
    (mel,) = mel_maker([replace(voice, chunked=True)])
    assert distance(torch.cat(chunks), vocoder([mel], excitation)[0]) < WITHIN
    assert distance(torch.cat(chunks), truth["src_stream_wav"][0]) > 1e-3, "parity would change nothing"


def test_a_short_stream_is_one_chunk_of_its_own_state(mel_maker, vocoder, excitation, truth):
    for _ in range(2):  # the second as the first: nothing is kept from stream to stream
        stream = SpeechStream(mel_maker, vocoder, excitation, row(truth, truth["tok_greedy"]), parity=True)
        assert stream.add(truth["tok_greedy"].tolist()) == []
        assert distance(stream.finish(), truth["e2e_stream_wav"][0]) < 2e-5
    with pytest.raises(ValueError, match="no tokens"):
        SpeechStream(mel_maker, vocoder, excitation, row(truth, truth["tok_greedy"])).finish()
