"""The front end's ONNX models in torch: the results of onnxruntime, several clips in a run, and what is refused."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bench.gpu.front_end import TINY, write_campplus, write_tokenizer
from engines.cosyvoice3 import onnx as models
from engines.cosyvoice3.onnx_graph import OnnxGraph, Unsupported
from tests.helpers.cosyvoice3 import distance, golden_directory, tiny_checkpoint  # noqa: F401

FRAMES = (300, 337, 314, 351)


def mels(*frames: int, seed: int = 0) -> list[np.ndarray]:
    dice = np.random.default_rng(seed)
    return [dice.standard_normal((128, count)).astype(np.float32) for count in frames]


def banks(*frames: int, seed: int = 0) -> list[np.ndarray]:
    return [np.ascontiguousarray(mel[:80].T) for mel in mels(*frames, seed=seed)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("front_end")
    write_tokenizer(folder / "speech_tokenizer_v3.onnx", TINY)
    write_campplus(folder / "campplus.onnx", TINY)
    return folder


def in_torch(path, samples, lengths, same):
    return models._Torch(path, models._Session(path, 1 + lengths, "cpu", 1), "cpu", samples, lengths, same)


@pytest.fixture(scope="module")
def tokenizer(files):
    return in_torch(files / "speech_tokenizer_v3.onnx", mels(*FRAMES), True, models._same_tokens)


@pytest.fixture(scope="module")
def embedder(files):
    return in_torch(files / "campplus.onnx", banks(*FRAMES), False, models._same_voice)


def test_the_tokenizer_gives_the_tokens_of_onnxruntime(files, tokenizer):
    session = models._Session(files / "speech_tokenizer_v3.onnx", 2, "cpu", 1)
    for mel in mels(64, 333, 1000, seed=5):
        values = models._values([mel], True)
        ours, theirs = tokenizer.start(*values)(), session.start(*values)()
        assert ours.shape == theirs.shape == (1, -(-mel.shape[1] // 4)) and len(set(ours[0])) > 10
        assert np.array_equal(ours, theirs)


def test_campplus_gives_the_embedding_of_onnxruntime(files, embedder):
    session = models._Session(files / "campplus.onnx", 1, "cpu", 1)
    for bank in banks(64, 333, 1000, seed=5):
        assert distance(embedder.start(bank[None])(), session.start(bank[None])()) < 1e-5


def test_the_golden_checkpoint_computes_the_same_in_torch():
    directory = golden_directory()
    for name, sample, lengths in (
        ("speech_tokenizer_v3.onnx", mels(*FRAMES), True),
        ("campplus.onnx", banks(*FRAMES), False),
    ):
        session = models._Session(directory / name, 1 + lengths, "cpu", 1)
        runner = in_torch(directory / name, sample, lengths, np.array_equal if lengths else models._same_voice)
        for each in sample:
            values = models._values([each], lengths)
            assert distance(runner.start(*values)(), session.start(*values)()) < 1e-6


def model_of(runner, lengths):
    model = models._Model.__new__(models._Model)
    model.runner, model._lengths = runner, lengths
    return model


def test_clips_of_any_length_share_a_run_of_the_tokenizer(tokenizer, monkeypatch):
    assert tokenizer.stacks and tokenizer.pads
    model, clips = model_of(tokenizer, True), mels(150, 1001, 140, 977, seed=3)
    alone = [model.run([clip])[0] for clip in clips]
    real, runs = tokenizer.start, []
    monkeypatch.setattr(tokenizer, "start", lambda *values: runs.append(len(values[0])) or real(*values))
    for one, other in zip(model.run(clips), alone, strict=True):
        assert np.array_equal(one, other)
    assert runs == [3, 1], "as many as little padding allows"


def test_clips_of_equal_length_share_a_run_of_campplus_and_others_do_not(embedder, monkeypatch):
    assert embedder.stacks and not embedder.pads
    model, clips = model_of(embedder, False), banks(300, 401, 300, seed=3)
    alone = [model.run([clip])[0] for clip in clips]
    real, runs = embedder.start, []
    monkeypatch.setattr(embedder, "start", lambda *values: runs.append(len(values[0])) or real(*values))
    for one, other in zip(model.run(clips), alone, strict=True):
        assert distance(one, other) < 1e-5
    assert sorted(runs) == [1, 2]


def small(path, nodes, inputs, constants=(), output="y"):
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in dict(constants).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def test_a_model_whose_rows_touch_each_other_runs_clip_by_clip(tmp_path):
    """A mean over the batch: two clips together get what neither gets alone."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["level"], axes=[0], keepdims=1),
        helper.make_node("Add", ["x", "level"], ["sum"]),
        helper.make_node("ReduceMean", ["sum"], ["y"], axes=[1], keepdims=0),
    ]
    path = small(tmp_path / "mixes.onnx", nodes, [("x", TensorProto.FLOAT, ["B", "T", 80])])
    runner = in_torch(path, banks(*FRAMES), False, models._same_voice)
    assert not runner.stacks and not runner.pads
    assert model_of(runner, False)._shares(banks(300, 300)) == [[0], [1]]


def test_what_torch_cannot_compute_is_named_and_onnxruntime_takes_it(tmp_path, tiny, caplog, monkeypatch):
    nodes = [helper.make_node("Hardmax", ["x"], ["y"])]
    path = small(tmp_path / "odd.onnx", nodes, [("x", TensorProto.FLOAT, ["B", "T", 80])])
    with pytest.raises(Unsupported, match=r"Hardmax \(1 x\)"):
        OnnxGraph(path, "cpu")
    with caplog.at_level(logging.WARNING):
        model = models._Model(path, "cuda", 1, banks(*FRAMES), False, models._same_voice)
    assert isinstance(model.runner, models._Session)
    assert "odd.onnx can't run in torch (Hardmax (1 x)): onnxruntime runs it" in caplog.text


def test_a_result_that_differs_from_onnxruntime_is_refused(files, monkeypatch):
    from engines.cosyvoice3 import onnx_operators

    monkeypatch.setitem(onnx_operators.OPERATORS, "Sigmoid", lambda attributes, x: torch.sigmoid(x) + 0.01)
    with pytest.raises(Unsupported, match="differs from onnxruntime's"):
        in_torch(files / "campplus.onnx", banks(*FRAMES), False, models._same_voice)


def test_a_speaker_encoder_on_torch_gives_the_voices_of_onnxruntime(files, tiny, monkeypatch):
    """The whole stage, with torch on the CPU as if it were a device: eight clips, some failing, as without it."""
    from engines.cosyvoice3 import voice

    class Folder:
        def __truediv__(self, name):
            return files / name

    clips = [
        voice.reference(
            np.random.default_rng(seed).normal(0, 0.1, round(seconds * 24_000)).astype(np.float32), 24_000, None
        )
        for seed, seconds in enumerate((3.0, 4.1, 3.0, 5.5))
    ]
    expected = voice.CosyVoice3SpeakerEncoder(Folder()).encode(clips)
    monkeypatch.setattr(models, "_is_cpu", lambda device: False)
    encoder = voice.CosyVoice3SpeakerEncoder(Folder())
    assert isinstance(encoder._tokenizer.model.runner, models._Torch)
    for one, other in zip(encoder.encode(clips), expected, strict=True):
        assert np.array_equal(one.arrays["speech_tokens"], other.arrays["speech_tokens"])
        assert distance(one.arrays["embedding"], other.arrays["embedding"]) < 1e-4
        assert np.array_equal(one.arrays["prompt_mel"], other.arrays["prompt_mel"])


CASES = {
    "slices backwards": (
        [helper.make_node("Slice", ["x", "a", "b", "c", "d"], ["y"])],
        {"a": np.array([-1]), "b": np.array([-100]), "c": np.array([1]), "d": np.array([-2])},
    ),
    "gathers from the end": (
        [helper.make_node("Gather", ["x", "i"], ["y"], axis=1)],
        {"i": np.array([[0, -1], [2, -3]])},
    ),
    "keeps sizes that are 0": ([helper.make_node("Reshape", ["x", "s"], ["y"])], {"s": np.array([0, -1])}),
    "pads by reflection": (
        [helper.make_node("Pad", ["x", "p"], ["y"], mode="reflect")],
        {"p": np.array([0, 0, 2, 0, 0, 3])},
    ),
    "splits unevenly": (
        [helper.make_node("Split", ["x", "s"], ["a", "y"], axis=1)],
        {"s": np.array([2, 3])},
    ),
    "pools with a rest": (
        [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[4], strides=[4], ceil_mode=1)],
        {},
    ),
    "divides whole numbers": (
        [
            helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT64),
            helper.make_node("Div", ["n", "two"], ["h"]),
            helper.make_node("Mod", ["h", "three"], ["m"]),
            helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
        ],
        {"two": np.array(2), "three": np.array(3)},
    ),
    "rounds halves to even": ([helper.make_node("Round", ["x"], ["y"])], {}),
    "pads a convolution unevenly": (
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 2], dilations=[2], kernel_shape=[3])],
        {"w": np.random.default_rng(1).standard_normal((4, 5, 3)).astype(np.float32)},
    ),
    "pads a convolution to its size": (
        [helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2], kernel_shape=[4])],
        {"w": np.random.default_rng(1).standard_normal((4, 5, 4)).astype(np.float32)},
    ),
    "clips, expands and tiles": (
        [
            helper.make_node("Clip", ["x", "low", ""], ["c"]),
            helper.make_node("Unsqueeze", ["c", "axis"], ["u"]),
            helper.make_node("Expand", ["u", "size"], ["e"]),
            helper.make_node("Tile", ["e", "times"], ["y"]),
        ],
        {
            "low": np.array(-0.5, np.float32),
            "axis": np.array([-1]),
            "size": np.array([1, 5, 7, 3]),
            "times": np.array([1, 1, 1, 2]),
        },
    ),
    "sums and norms": (
        [
            helper.make_node("ReduceL2", ["x"], ["n"], axes=[2]),
            helper.make_node("CumSum", ["x", "axis"], ["c"]),
            helper.make_node("Div", ["c", "n"], ["d"]),
            helper.make_node("LayerNormalization", ["d", "scale"], ["y"], axis=2),
        ],
        {"axis": np.array(2), "scale": np.ones(7, np.float32)},
    ),
    "branches": (
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "zero"], ["is"]),
            helper.make_node(
                "If",
                ["is"],
                ["y"],
                then_branch=helper.make_graph(
                    [helper.make_node("Neg", ["x"], ["t"])],
                    "then",
                    [],
                    [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
                ),
                else_branch=helper.make_graph(
                    [helper.make_node("Abs", ["x"], ["e"])],
                    "else",
                    [],
                    [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
                ),
            ),
        ],
        {"zero": np.array(0, np.float32)},
    ),
    "is chosen by a mask": (
        [
            helper.make_node("Less", ["x", "zero"], ["is"]),
            helper.make_node("Where", ["is", "zero", "x"], ["w"]),
            helper.make_node("Softmax", ["w"], ["y"], axis=1),
        ],
        {"zero": np.array(0, np.float32)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_does_as_in_onnxruntime(tmp_path, name):
    nodes, constants = CASES[name]
    path = small(tmp_path / "case.onnx", nodes, [("x", TensorProto.FLOAT, [1, 5, "T"])], constants)
    x = np.random.default_rng(2).standard_normal((1, 5, 7)).astype(np.float32) * 3
    x[0, 0, :4] = 0.5, 1.5, 2.5, -0.5
    expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert distance(OnnxGraph(path, "cpu")(x)[-1].numpy(), expected) < 1e-5


@pytest.mark.parametrize("device", ["meta"])
def test_sizes_and_masks_stay_on_the_host(files, device):
    """On a device without numbers, a read of a value there fails: none is read before the result."""
    graph = OnnxGraph(files / "speech_tokenizer_v3.onnx", device)
    (tokens,) = graph(np.zeros((1, 128, 300), np.float32), np.array([300], np.int32))
    assert tokens.device.type == device and tokens.shape == (1, 75)
    (voice,) = OnnxGraph(files / "campplus.onnx", device)(np.zeros((1, 300, 80), np.float32))
    assert voice.shape == (1, 192)
