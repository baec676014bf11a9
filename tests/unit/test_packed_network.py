"""The acoustic model with packed layers: words and melody stay, members are as alone, and nothing is compiled."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engines.contract import Voice
from engines.embedded import acoustic, packed_network
from engines.embedded.blocks import ResidualBlock
from engines.embedded.packed_layers import PackedConv1d, PackedLinear, Precision
from engines.embedded.packed_lstm import PackedLSTM
from engines.embedded.packed_network import fastest
from engines.embedded.packed_residual import PackedResidualBlock
from engines.embedded.stages import EmbeddedAcousticModel
from speech.utterance import Utterance
from tests.helpers.packed import PRECISIONS

ROOT = Path(__file__).parents[2]
LEAST_SNR_DB = {"bfloat16": 30, "int8": 15}


@pytest.mark.parametrize(
    "amx, vnni, options, expected",
    [
        (True, True, {}, "bfloat16"),
        (False, True, {}, "int8"),
        (False, False, {}, "float32"),
        (True, True, {"bf16": False}, "int8"),
        (True, True, {"int8": False}, "bfloat16"),
        (True, True, {"bf16": False, "int8": False}, "float32"),
        (True, True, {"int8": True}, "int8"),
        (False, False, {"int8": True}, "int8"),
        (False, True, {"bf16": True}, "bfloat16"),
        (False, True, {"bf16": True, "int8": True}, "int8"),
    ],
)
def test_a_cpu_computes_as_it_is_fastest_or_as_it_is_told(amx, vnni, options, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(packed_network, "takes_packed", lambda dtype: True)
    assert fastest(**options) == expected


def test_bfloat16_is_for_a_cpu_that_has_it(monkeypatch):
    monkeypatch.setattr(packed_network, "takes_packed", lambda dtype: False)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert fastest(bf16=True) == "float32"


def test_without_onednn_it_is_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert fastest(bf16=True, int8=True) == "float32"


@pytest.fixture(params=PRECISIONS)
def precision(request) -> Precision:
    return request.param


@pytest.mark.optional
def test_small_layers_stay_as_they_are(precision):
    lstm = nn.LSTM(9, 9, bidirectional=True, batch_first=True)
    network = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(300, 300), nn.Conv1d(300, 300, 1)), lstm)
    network.append(ResidualBlock(512, 512))
    packed_network.put_into(network, precision)
    assert [type(layer) for layer in network] == [nn.Linear, nn.Sequential, PackedLSTM, PackedResidualBlock]
    assert [type(layer) for layer in network[1]] == [PackedLinear, PackedConv1d]
    assert [type(norm.fc) for norm in network[3].norms] == [PackedLinear, PackedLinear]


@pytest.mark.optional
def test_the_decoder_s_features_are_nearly_the_same(precision):
    torch.manual_seed(0)
    decoder = acoustic.load().decoder
    packed = copy.deepcopy(decoder)
    packed_network.put_into(packed, precision)
    text, energy, style = torch.randn(1, 512, 60), torch.randn(1, 1, 120), torch.randn(1, 128) * 0.3
    pitch = torch.full((1, 1, 120), 150.0)
    with torch.inference_mode():
        plain, made = (one(text, pitch, energy, style, None, None) for one in (decoder, packed))
    assert 20 * math.log10(float(plain.norm() / (made - plain).norm())) > LEAST_SNR_DB[precision]


@pytest.mark.optional
def test_no_length_of_text_has_a_kernel_compiled(precision):
    """oneDNN says of each primitive whether it had to make it."""
    program = """
import sys, torch
from engines.embedded import acoustic
network = acoustic.load("cpu", sys.argv[1])
print("loaded", flush=True)
for length in (3, 40, 77, 150, 333):
    ids, lengths = acoustic.pad([torch.randint(1, 170, (length,)).tolist()])
    network(ids, lengths, torch.zeros(1, 256), 1.1)
print("done", flush=True)
"""
    environment = {**os.environ, "ONEDNN_VERBOSE": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512"}
    said = subprocess.run(
        [sys.executable, "-c", program, precision], env=environment, capture_output=True, text=True, check=True
    ).stdout
    before, after = said.split("loaded\n")
    assert "create:cache_miss" in before and "exec" in after and after.endswith("done\n")
    products = [line for line in after.splitlines() if "create:cache_miss" in line and "convolution" not in line]
    assert products == []


@pytest.fixture(scope="module")
def models() -> dict[str, EmbeddedAcousticModel]:
    return {}


@pytest.fixture
def model(models):
    """Load a model of a precision once."""

    def load(precision: Precision) -> EmbeddedAcousticModel:
        if precision not in models:
            models[precision] = EmbeddedAcousticModel(threads=1, precision=precision)
        return models[precision]

    return load


@pytest.mark.optional
def test_a_text_takes_as_long_and_its_melody_moves_as_much(model, precision):
    jobs = [
        (Utterance(text, dialect), voice(hz))
        for text, dialect in (
            ("Please put the blue folder back where you found it, and tell me when you are done.", "en-US"),
            ("明天下午我们在图书馆见面，然后一起去吃饭。", "zh-CN"),
            ("来年の夏は家族と一緒に海へ行くつもりです。", "ja-JP"),
        )
        for hz in (110, 200)
    ]
    plain, made = (model(one).generate(jobs) for one in ("float32", precision))
    for one, other in zip(plain, made, strict=True):
        assert other.seconds == pytest.approx(one.seconds, rel=0.05)
        melodies = [12 * np.log2(mel.arrays["f0"][mel.arrays["f0"] > 60]) for mel in (one, other)]
        assert np.median(melodies[1]) == pytest.approx(np.median(melodies[0]), abs=0.5)
        assert melodies[1].std() == pytest.approx(melodies[0].std(), rel=0.15)


@pytest.mark.optional
def test_a_batch_gives_exactly_what_its_members_give_alone(model, precision):
    """Rounding would make durations of tiny differences, so members are computed one by one."""
    jobs = [
        (Utterance(text, "en-US"), voice(150)) for text in ("Not today.", "It is on the table by the door.", "Yes!")
    ]
    for job, mel in zip(jobs, model(precision).generate(jobs), strict=True):
        [alone] = model(precision).generate([job])
        for name, array in alone.arrays.items():
            np.testing.assert_array_equal(mel.arrays[name], array)


@pytest.mark.optional
@pytest.mark.parametrize("amx, computing", [(True, 1), (False, 2)])
def test_one_thread_computes_where_products_wait_for_their_weights(amx, computing, monkeypatch):
    if not packed_network.takes_packed(torch.bfloat16):
        pytest.skip("oneDNN takes no bfloat16 on this CPU")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    before = torch.get_num_threads()
    try:
        EmbeddedAcousticModel(threads=2, precision="bfloat16")
        assert torch.get_num_threads() == computing
    finally:
        torch.set_num_threads(before)


def voice(hz: float) -> Voice:
    return Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([math.log(hz)], np.float32)})
