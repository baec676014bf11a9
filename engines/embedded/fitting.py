"""Fits a steered voice to its speaker: the steps of an optimiser, through vocoder and decoder, toward the embeddings.

A fit starts from the steered voice and changes its timbre alone: the acoustic half of the style, and a delta for every
output of the style layers (deltas.py). Durations, melody and loudness of the speech stay. Each step speaks a passage of
1.6 s and follows the gradient of

    1 - cosine(embedding of the passage, embedding of the reference clip), for each of two speaker encoders: the
        d-vector's (speaker.py) and CAM++ (campplus.py)
    + a penalty on the distance from the stock voices, which keeps the speech natural
    + a penalty on changes of loudness and on peaks: the encoders do not hear the level, so it would drift upward
    + a penalty on a flatter spectrum, so that noise of the clip is not taken over
    + a penalty on harmonics that stand out less: a voice that is nearer to both encoders may be hoarse all the same
    + a penalty on bands that fade or swell: the d-vector hears powers, so it hardly hears the weak bands above 1 kHz,
      and they would fade until the voice is dull

Every few steps the voice is listened to on passages that are not fitted. The nearest one that passes the check
(fit_check.py) is the result. If none does, voices between the steered and the last one are checked, nearer and nearer
to the steered one; if none of them passes either, the steered voice stays.

    fit = VoiceFitter().begin(voice)
    while fit.outcome is None:
        fit.advance()  # between any two of these a fit can be dropped, or stored by its state
    fit.outcome.voice

Accent, rhythm, melody and emotion of the speaker are not taken over.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.contract import Arrays, FitOutcome, Reference, Voice
from engines.embedded import campplus, deltas, fit_check, speaker, text, vocoder
from engines.embedded.fit_check import LIMITS, Limits, Sound
from engines.embedded.mapper import StyleMapper
from engines.embedded.passages import Passage, Studio
from engines.embedded.text import TextFrontEnd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitSettings:
    """The schedule and the weights of a fit. docs/speed.md has the measurements behind them."""

    steps: int = 6
    frames: int = 64  #: of 25 ms in a passage: one window of the speaker encoder
    style_rate: float = 0.2  #: Adam's rate for the style's coordinates, in standard deviations of the stock voices
    delta_rate: float = 0.15  #: the same for the deltas
    betas: tuple[float, float] = (0.9, 0.98)
    last_rate: float = 0.2  #: share of the rates at the end; they fall to it by a cosine
    style_penalty: float = 0.02
    style_free: float = 0.6  #: mean square of the coordinates that costs nothing
    style_limit: float = 3.0  #: a coordinate beyond it costs more
    delta_penalty: float = 0.1
    level_penalty: float = 0.1  #: for a change by 6 dB, and for a peak 6 dB above the limit
    peak_limit_db: float = -1.0
    flatness_penalty: float = 0.3  #: for a spectrum that is flatter by 3 dB more than is free
    flatness_free_db: float = 0.3
    balance_penalty: float = 0.5  #: for bands that fade by 6 dB more than is free, or swell by as much
    fading_free_db: float = 2.0
    swelling_free_db: float = 4.0
    clarity_penalty: float = 0.05  #: for harmonics that stand out less by 0.015 nepers, and drown by 1.5 dB, each
    look_every: int = 6  #: steps between two looks at the passages that are not fitted
    close_enough: float = 0.92  #: similarity at a look that ends the fit
    least_gain: float = 0.003  #: a look that gains less ends the fit
    limits: Limits = LIMITS  #: of the check
    back_off: tuple[float, ...] = (0.75, 0.5)  #: shares of the change that are checked where the whole of it fails


@dataclass(frozen=True)
class Listener:
    """A speaker encoder that a fit follows."""

    target: str  #: the name of the speaker's embedding in the voice's arrays
    embed: Callable[[Tensor], Tensor]  #: samples (n,) at 16 kHz -> embedding of unit length, with gradients
    weight: float = 1.0


#: the sentences as (language, phonemes in Kokoro's alphabet); no measurement of the engine uses one of them
FITTED = (
    ("en", "ðə fˈɛɹi lˈivz ði ˈIlənd ʃˈɔɹtli ˈæftəɹ sˈʌnɹˌIz."),  # The ferry leaves the island shortly after sunrise.
    ("en", "mˌI ɡɹˈændmˌʌðəɹ kˈips ɐ ʤˈɑɹ ʌv hˈʌni ˌɔn ðə kˈɪʧᵊn ʃˈɛlf."),
    ("en", "hˌi lˈæft sˌO lˈWdli ðæt ˈɛvɹiwən ɪn ðə kæfˈA tˈɜɹnd əɹˈWnd."),
)
UNFITTED = (
    ("en", "pˌʊt ðə blˈu fˈOldəɹ bˈæk wˌɛɹ ju fˈWnd ɪt, plˈiz."),
    ("zh", "mi↗ŋtʰjɛ→n ɕja↘u↓ wo↓mən ʦai↘ tʰu↗ʂu→kwa↓n ʨjɛ↘nmjɛ↘n pa."),  # 明天下午我们在图书馆见面吧。
)


#: the reasons to stop, and none
STOPS = ("", "all_steps", "close_enough", "no_gain")


class VoiceFitter:
    """An `engines.contract.VoiceFitter`: the networks, which one fit after another uses.

    Args:
        device: torch device of the networks.
        threads: torch threads of this process.
        settings: for measurements; a fit can only be taken up with the settings that it began with.
        listeners: for measurements; None follows the d-vector and CAM++.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: int = 1,
        settings: FitSettings | None = None,
        listeners: Sequence[Listener] | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._settings = settings or FitSettings()
        self._mapper = StyleMapper.load()
        bf16 = torch.device(device).type == "cpu" and vocoder.has_bf16_instructions()
        self._studio = Studio(self._mapper, device, bf16)
        self._campplus = campplus.load_network(device)
        self._listeners = listeners or [
            Listener("dvector", speaker.load_network(device).requires_grad_(False).embed),
            Listener(campplus.TARGET, self._campplus.embed),
        ]
        self._text = text.load([])

    def begin(self, voice: Voice, state: Arrays | None = None, clip: Callable[[], Reference] | None = None) -> VoiceFit:
        """Begin the fit of a steered voice, or take one up.

        A stored voice has no embedding by CAM++, since a request does without it: it is computed here from the clip.
        Where there is no clip either, the fit follows the d-vector alone.

        Raises:
            ValueError: the state is of another version.
            SpeechError: `clip` failed.
        """
        missing = {one.target for one in self._listeners} - voice.arrays.keys()
        if campplus.TARGET in missing and clip is not None:
            samples = speaker.without_pauses(np.asarray(clip().views[speaker.RATE], np.float32))
            voice = Voice({**voice.arrays, campplus.TARGET: self._campplus.of_clip(samples)})
        listeners = [one for one in self._listeners if one.target in voice.arrays]
        if len(listeners) < len(self._listeners):
            log.warning(
                "a fit follows %d of %d speaker encoders: its clip is gone", len(listeners), len(self._listeners)
            )
        fit = VoiceFit(self._studio, listeners, self._text, voice, self._settings)
        if state is not None:
            fit.restore(state)
        return fit


class VoiceFit:
    """An `engines.contract.VoiceFit`. A finished fit's outcome can be computed again from its state."""

    def __init__(
        self,
        studio: Studio,
        listeners: Sequence[Listener],
        front_end: TextFrontEnd,
        voice: Voice,
        settings: FitSettings,
    ) -> None:
        self.step = 0
        self.steps = settings.steps
        self.outcome: FitOutcome | None = None
        self._settings = settings
        self._studio = studio
        self._text = front_end
        # Neither the deltas of an earlier fit nor what only a fit needs are a part of the steered voice.
        unwanted = {deltas.OF_DECODER, deltas.OF_VOCODER, campplus.TARGET}
        self._voice = {name: array for name, array in voice.arrays.items() if name not in unwanted}
        self._listeners = [(one, studio.tensor(voice.arrays[one.target])) for one in listeners]
        self._start = studio.timbre(self._voice)
        self._timbre = self._start.clone()
        self._mean, self._square = torch.zeros_like(self._start), torch.zeros_like(self._start)  # Adam's moments
        self._best, self._best_step = self._start.clone(), 0
        #: level, flatness, harmonics (dB), cepstral peak and bands (dB) of each fitted passage in the steered voice
        self._first = np.full((len(FITTED), 4 + fit_check.BANDS), np.nan)
        self._looks: list[float] = []  # similarities at the looks, the first before any step
        self._seconds = 0.0
        self._fitted: list[Passage] = []
        self._unfitted: list[Passage] = []
        self._before: list[Sound] = []
        self._changes: dict[str, float] = {}  # of the best step; of the last one, as long as none passed the check
        self._stop = 0  # a place in STOPS

    def advance(self) -> None:
        """Compute for a second or two. Does nothing when finished."""
        if self.outcome is not None:
            return
        started = time.perf_counter()
        if not self._before:
            self._prepare()
        elif not self._stop:
            self._make_step()
            if self.step % self._settings.look_every == 0 or self.step == self.steps:
                self._look()
        self._seconds += time.perf_counter() - started
        if self._stop:
            self.outcome = self._finished()

    def state(self) -> dict[str, np.ndarray]:
        """Return all that `VoiceFitter.begin` needs to go on from here, 0.6 MB."""
        tensors = {"timbre": self._timbre, "mean": self._mean, "square": self._square, "best": self._best}
        return {
            **{name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()},
            "first": self._first.copy(),
            "looks": np.array(self._looks),
            "progress": np.array([self.step, self._seconds, self._best_step, self._stop]),
        }

    def restore(self, state: Arrays) -> None:
        """Go on from a state. Raises ValueError if it is of another version."""
        own = self.state()
        if state.keys() != own.keys() or any(state[name].shape != own[name].shape for name in own.keys() - {"looks"}):
            raise ValueError("the stored fit is of another version of the engine: begin the fit anew")
        self._timbre, self._mean, self._square, self._best = (
            self._studio.tensor(state[name]) for name in ("timbre", "mean", "square", "best")
        )
        self._first = state["first"].copy()
        self._looks = state["looks"].tolist()
        step, self._seconds, best_step, stop = state["progress"].tolist()
        self.step, self._best_step, self._stop = int(step), int(best_step), int(stop)

    def _prepare(self) -> None:
        self._fitted, self._unfitted = (
            [
                self._studio.passage(self._text.ids(phonemes), self._voice, language, self._settings.frames)
                for language, phonemes in sentences
            ]
            for sentences in (FITTED, UNFITTED)
        )
        self._before = self._listen(self._start)
        if not self._looks:
            self._looks = [_similarity(self._before)]
            with torch.no_grad():
                for which, passage in enumerate(self._fitted):
                    samples = self._studio.speak(passage, self._start)
                    measures, bands = self._measures(samples, self._studio.at_16_khz(samples))
                    self._first[which] = *(one.item() for one in measures), *bands.tolist()
        elif len(self._looks) > 1:
            taken_up = self._best if self._best_step else self._timbre
            self._changes = fit_check.changes(self._before, self._listen(taken_up))

    def _make_step(self) -> None:
        settings = self._settings
        which = self.step % len(self._fitted)
        timbre = self._timbre.clone().requires_grad_(True)
        with torch.backends.cudnn.flags(enabled=False):  # its recurrent layers have a way back only in training
            (gradient,) = torch.autograd.grad(self._loss(which, timbre), timbre)
        falling = 0.5 + 0.5 * math.cos(math.pi * self.step / self.steps)
        rate = settings.last_rate + (1 - settings.last_rate) * falling
        self.step += 1
        first, second = settings.betas
        self._mean.lerp_(gradient, 1 - first)
        self._square.lerp_(gradient.square(), 1 - second)
        mean = self._mean / (1 - first**self.step)
        deviation = (self._square / (1 - second**self.step)).sqrt() + 1e-8
        rates = torch.full_like(gradient, rate * settings.delta_rate)
        rates[: self._studio.sizes[0]] = rate * settings.style_rate
        self._timbre = self._timbre - rates * mean / deviation

    def _loss(self, which: int, timbre: Tensor) -> Tensor:
        settings = self._settings
        samples = self._studio.speak(self._fitted[which], timbre, seed=self.step)
        heard = self._studio.at_16_khz(samples)
        (level, flatness, harmonics, peak), bands = self._measures(samples, heard)
        first_level, first_flatness, first_harmonics, first_peak = self._first[which, :4].tolist()
        style, changes = timbre[: self._studio.sizes[0]], timbre[self._studio.sizes[0] :]
        too_far = torch.relu(style.square().mean() - settings.style_free)
        beyond = torch.relu(style.abs() - settings.style_limit).square().sum()
        louder = ((level - first_level) / 6).square()
        flatter = (torch.relu(flatness - first_flatness - settings.flatness_free_db) / 3).square()
        peaks = (torch.relu(_peak_db(samples) - settings.peak_limit_db) / 6).square()
        blurred = (torch.relu(first_peak - peak) / 0.015).square()
        drowned = (torch.relu(first_harmonics - harmonics) / 1.5).square()
        change = bands - self._studio.tensor(self._first[which, 4:])
        fading = torch.relu(-change - settings.fading_free_db) + torch.relu(change - settings.swelling_free_db)
        return (
            self._distance(heard)
            + settings.style_penalty * (too_far + beyond)
            + settings.delta_penalty * changes.square().mean()
            + settings.level_penalty * (louder + peaks)
            + settings.flatness_penalty * flatter
            + settings.clarity_penalty * (blurred + drowned)
            + settings.balance_penalty * (fading / 6).square().mean()
        )

    def _measures(self, samples: Tensor, heard: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """Return level, flatness, harmonics and cepstral peak of a passage, and its bands."""
        flatness, bands = self._studio.spectrum(heard)
        return (_level_db(samples), flatness, *self._studio.periodicity(heard)), bands

    def _distance(self, heard: Tensor) -> Tensor:
        """Return the weighted sum over the listeners of 1 - cosine to the speaker."""
        return torch.stack([one.weight * (1 - one.embed(heard) @ target) for one, target in self._listeners]).sum()

    def _look(self) -> None:
        sounds = self._listen(self._timbre)
        changes = fit_check.changes(self._before, sounds)
        why = fit_check.why_not(changes, self._settings.limits)
        gain = _similarity(sounds) - max(self._looks)
        self._looks.append(_similarity(sounds))
        if not why and (gain > 0 or not self._best_step):
            self._best, self._best_step, self._changes = self._timbre.clone(), self.step, changes
        elif not self._best_step:
            self._changes = changes
        self._stop = STOPS.index(self._reason_to_stop(why, gain))
        if self._stop and not self._best_step:
            self._go_back()

    def _go_back(self) -> None:
        """Look for the largest share of the change that passes the check."""
        for share in self._settings.back_off:
            timbre = torch.lerp(self._start, self._timbre, share)
            changes = fit_check.changes(self._before, self._listen(timbre))
            if not fit_check.why_not(changes, self._settings.limits):
                self._best, self._best_step, self._changes = timbre, self.step, changes
                return

    def _reason_to_stop(self, why: str, gain: float) -> str:
        # A voice that fails the check goes on: the first steps are rough, and later ones often mend them.
        if not why and self._looks[-1] >= self._settings.close_enough:
            return "close_enough"
        if gain < self._settings.least_gain:
            return "no_gain"
        return "all_steps" if self.step >= self.steps else ""

    def _finished(self) -> FitOutcome:
        kept = self._best_step > 0
        return FitOutcome(
            voice=Voice(self._studio.fitted(self._voice, self._best) if kept else self._voice),
            kept=kept,
            why="" if kept else fit_check.why_not(self._changes, self._settings.limits),
            stopped=STOPS[self._stop],
            steps=self.step,
            loss_before=1 - self._looks[0],
            loss_after=1 - self._looks[0] - self._changes["similarity"],
            seconds=self._seconds,
            changes=self._changes,
        )

    @torch.no_grad()
    def _listen(self, timbre: Tensor) -> list[Sound]:
        heard = []
        for passage in self._unfitted:
            samples = self._studio.at_16_khz(self._studio.speak(passage, timbre))
            similarity = 1 - self._distance(samples).item() / sum(one.weight for one, _ in self._listeners)
            heard.append(fit_check.listen(samples.cpu().numpy(), similarity))
        return heard


def _similarity(sounds: list[Sound]) -> float:
    return float(np.mean([sound.similarity for sound in sounds]))


def _level_db(samples: Tensor) -> Tensor:
    return 10 * torch.log10(samples.square().mean() + 1e-8)


def _peak_db(samples: Tensor) -> Tensor:
    """Return the mean of the highest millisecond: the gradient of the highest sample alone says little."""
    return 20 * torch.log10(samples.abs().topk(24).values.mean() + 1e-8)
