"""Functions of fixed shapes, called directly and from a recording: the same results, buffers that hold, few of them."""

import pytest
import torch

from engines.cosyvoice3.capture import Graphs
from tests.helpers.recording import replaying


def test_on_a_cpu_a_function_is_called_directly():
    graphs = Graphs("cpu")
    x = torch.randn(3)
    with graphs.on():
        assert graphs("itself", lambda tensor: tensor, x) is x
    assert not graphs.enabled and len(graphs) == 0 and graphs.launches == 1


def test_a_recording_gives_what_the_function_gives_and_its_outputs_are_overwritten():
    graphs = Graphs("cpu", recorder=replaying)
    one, other = torch.randn(3), torch.randn(3)
    first = graphs("double", lambda x: 2 * x, one)
    assert torch.equal(first, 2 * one)
    second = graphs("double", lambda x: 2 * x, other)
    assert second is first and torch.equal(second, 2 * other) and len(graphs) == 1


def test_each_shape_and_each_key_has_its_own_recording_and_the_oldest_is_forgotten():
    graphs = Graphs("cpu", most=2, recorder=replaying)
    for key, count in (("a", 3), ("a", 4), ("b", 3)):
        assert torch.equal(graphs(key, lambda x: x + 1, torch.ones(count)), torch.full((count,), 2.0))
    assert len(graphs) == 2
    graphs.enabled = False
    assert torch.equal(graphs("c", lambda x: x + 1, torch.ones(1)), torch.tensor([2.0])) and len(graphs) == 2


def test_state_counts_every_call_once():
    graphs = Graphs("cpu", recorder=replaying)
    count = torch.zeros(1)
    for calls in (1, 2, 3):
        seen = graphs("count", lambda step: count.add_(step).clone(), torch.ones(1), state=[count])
        assert count.item() == seen.item() == calls


def test_what_cannot_be_recorded_is_called_directly_and_named():
    def fails(function, inputs):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = Graphs("cpu", recorder=fails)
    for _ in range(2):
        assert torch.equal(graphs("sum", lambda x: x.sum(), torch.ones(4)), torch.tensor(4.0))
    assert list(graphs.failed.values()) == ["RuntimeError: operation not permitted when stream is capturing"]


def test_a_loop_is_recorded_as_one_turn():
    def begin(x):
        return x * 1, torch.zeros(1, dtype=torch.int64)

    def turn(state):
        state[0].mul_(2).add_(state[1])
        state[1].add_(1)

    def recorder(function, inputs):
        recorded.append(function)
        return replaying(function, inputs)

    recorded: list = []
    graphs, direct = Graphs("cpu", recorder=recorder), Graphs("cpu")
    for value in (1.0, 5.0):
        x = torch.full((2,), value)
        found, count = graphs("loop", begin, x, again=turn, times=3)
        expected, _ = direct("loop", begin, x, again=turn, times=3)
        assert torch.equal(found, expected) and found[0] == 8 * value + 4 and count == 3
    assert len(recorded) == 2 and len(graphs) == graphs.recordings == 1, "the beginning, and a single turn"
    graphs.enabled = False
    assert torch.equal(graphs("loop", begin, x, again=turn, times=3)[0], expected)


def test_after_closing_a_new_shape_is_called_directly_and_counted():
    graphs = Graphs("cpu", recorder=replaying)
    graphs("sum", lambda x: x + 1, torch.ones(3))
    graphs.close()
    assert torch.equal(graphs("sum", lambda x: x + 1, torch.ones(3)), torch.full((3,), 2.0)) and graphs.direct == 0
    assert torch.equal(graphs("sum", lambda x: x + 1, torch.ones(4)), torch.full((4,), 2.0)) and graphs.direct == 1
    assert len(graphs) == graphs.recordings == 1


@pytest.mark.gpu
def test_a_loop_of_cuda_graphs_gives_what_its_turns_give():
    graphs, weight = Graphs("cuda"), torch.randn(64, 64, device="cuda") / 8

    def turn(state):
        state[0].copy_((state[0] @ weight).tanh() + state[1])
        state[1].add_(1)

    for _ in range(3):
        x = torch.randn(8, 64, device="cuda")
        state = x.clone(), torch.zeros(1, device="cuda")
        for _ in range(10):
            turn(state)
        found, count = graphs("loop", lambda x: (x * 1, torch.zeros(1, device="cuda")), x, again=turn, times=10)
        assert torch.allclose(found, state[0], atol=1e-4) and count == 10
    assert len(graphs) == 1 and not graphs.failed


@pytest.mark.gpu
def test_cuda_graphs_give_what_the_function_gives():
    graphs = Graphs("cuda", priority=-1)
    weight = torch.randn(64, 64, device="cuda")
    for _ in range(3):
        x = torch.randn(8, 64, device="cuda")
        assert torch.allclose(graphs("linear", lambda each: each @ weight, x), x @ weight, atol=1e-5)
    assert len(graphs) == 1 and not graphs.failed
