"""The host's sampler and the device's pick the same, from the same probabilities and the same numbers."""

import numpy as np
import pytest
import torch

from engines.cosyvoice3.numbers import Sampling
from engines.cosyvoice3.sampling import GREEDY, DeviceSampler, Sampler, repeats

IDS, SPEECH = 6761, 6561
SETTINGS = Sampling(top_p=0.8, top_k=25, win_size=10, tau_r=0.1)
STATES, TOGETHER = 10_000, 50


def states(kind: str, random: np.random.Generator, count: int) -> torch.Tensor:
    """Log-probabilities (count, ids) float32."""
    if kind == "flat":
        logits = random.standard_normal((count, IDS)) * 0.01
    elif kind == "peaked":
        logits = random.standard_normal((count, IDS)) * 8
    elif kind == "tied":  # many ids are equally likely, across the border of the 25 likeliest too
        logits = random.integers(0, 4, (count, IDS)) * 2.0
    else:  # one id has it all, and often it was said just now
        logits = random.standard_normal((count, IDS))
        logits[np.arange(count), random.integers(0, 20, count)] += 30
    if kind != "tied":
        logits[:, SPEECH:] += random.choice([-5, 0, 5], (count, 1))
    return torch.from_numpy(logits.astype(np.float32)).log_softmax(-1)


def on_device(sampler: DeviceSampler, likely: torch.Tensor, rows: list[Sampler]) -> list[int]:
    recent = [([-1] * 10 + row.picked)[-10:] for row in rows]
    settings = [row.settings for row in rows]
    return sampler(
        likely,
        torch.cat([row.uniforms(1) for row in rows]),
        torch.tensor([len(row.picked) >= row.least for row in rows]),
        torch.tensor(recent),
        torch.tensor([each.top_p for each in settings], dtype=torch.float64),
        torch.tensor([each.top_k for each in settings]),
        torch.tensor([repeats(each) for each in settings]),
    ).tolist()


@pytest.mark.parametrize("kind", ["flat", "peaked", "tied", "sure"])
def test_host_and_device_pick_the_same(kind):
    random = np.random.default_rng(7)
    device = DeviceSampler(IDS, SPEECH, 25, "cpu")
    banned = controls = 0
    for first in range(0, STATES // 4, TOGETHER):
        likely = states(kind, random, TOGETHER)
        pairs = []
        for index in range(TOGETHER):
            settings = None if index % 10 == 9 else SETTINGS
            least = int(random.integers(0, 30))
            pair = [Sampler(settings, SPEECH, first + index, least) for _ in range(2)]
            said = random.integers(0, 20 if kind == "sure" else SPEECH, int(random.integers(0, 15))).tolist()
            if kind == "peaked" and said:
                said[-1] = int(likely[index].argmax())
            for sampler in pair:
                sampler.picked = list(said)
            pairs.append(pair)
        there = on_device(device, likely.clone(), [pair[0] for pair in pairs])
        here = [pair[1].pick(likely[index].numpy().copy()) for index, pair in enumerate(pairs)]
        assert there == here
        banned += sum(
            int(likely[index].argmax()) in pair[0].picked[-10:] and here[index] != int(likely[index].argmax())
            for index, pair in enumerate(pairs)
        )
        controls += sum(token >= SPEECH for token in here)
    if kind in ("sure", "peaked"):
        assert banned > 100, "repetitions should have been banned"
    if kind in ("flat", "peaked"):
        assert controls > 20, "control tokens should have been picked, too"


def test_numbers_drawn_one_by_one_are_those_of_the_table():
    one, table = Sampler(SETTINGS, SPEECH, 5), Sampler(SETTINGS, SPEECH, 5)
    assert torch.equal(torch.cat([one.uniforms(1) for _ in range(400)]), table.uniforms(400))


def test_a_sampler_that_resumes_draws_what_it_would_have_drawn():
    whole, later = Sampler(SETTINGS, SPEECH, 5), Sampler(SETTINGS, SPEECH, 5)
    numbers = whole.uniforms(30)
    later.resume([1] * 12)
    assert torch.equal(later.uniforms(18), numbers[12:]) and later.picked == [1] * 12
    with pytest.raises(ValueError, match="official"):
        Sampler(SETTINGS, SPEECH, parity=True).resume([1])


def test_what_is_picked_follows_the_probabilities():
    """Three ids above the nucleus' border and one below have frequencies within four standard deviations."""
    shares = np.array([0.5, 0.25, 0.15, 0.1])
    likely = torch.full((4000, IDS), -60.0)
    likely[:, [7, 5, 900, 3]] = torch.from_numpy(np.log(shares)).float()
    device = DeviceSampler(IDS, SPEECH, 25, "cpu")
    rows = [Sampler(SETTINGS, SPEECH, seed) for seed in range(4000)]
    picked = np.bincount(on_device(device, likely, rows), minlength=IDS)
    expected = np.array([0.5, 0.25, 0.15]) / 0.9
    deviation = np.sqrt(expected * (1 - expected) / 4000)
    assert np.all(np.abs(picked[[7, 5, 900]] / 4000 - expected) < 4 * deviation) and picked[3] == 0


@pytest.mark.parametrize("kind", ["flat", "peaked"])
def test_greedy_is_the_likeliest(kind):
    likely = states(kind, np.random.default_rng(1), 20)
    rows = [Sampler(None, SPEECH, seed) for seed in range(20)]
    assert all(row.settings is GREEDY for row in rows)
    assert on_device(DeviceSampler(IDS, SPEECH, 25, "cpu"), likely, rows) == likely.argmax(-1).tolist()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_probabilities_that_are_no_numbers_are_told_for_their_row_alone(wrong):
    logits = torch.randn(3, IDS)
    logits[1, 50] = wrong
    picked = on_device(DeviceSampler(IDS, SPEECH, 25, "cpu"), logits.log_softmax(-1), [Sampler(SETTINGS, SPEECH)] * 3)
    assert picked[1] == -1 and picked[0] >= 0 <= picked[2]
