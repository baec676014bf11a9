"""Flow and vocoder as functions of fixed shapes: they can be captured, cost the host a few launches a batch, and give a
row in a filled-up bucket what it gets alone."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from engines.contract import Mel
from engines.cosyvoice3 import flow, hift, noise
from engines.cosyvoice3.capture import Graphs, Recorded
from engines.cosyvoice3.finite import NotFinite
from engines.cosyvoice3.flow import FlowRow
from engines.cosyvoice3.flow_batches import bucket
from engines.cosyvoice3.launcher import Launcher
from engines.cosyvoice3.vocoder import CosyVoice3Vocoder
from tests.helpers.cosyvoice3 import distance, tiny_checkpoint  # noqa: F401
from tests.helpers.recording import replaying

LAUNCHES, SYNCS = 30, 1


def rows(prompts, tokens, seed=0) -> list[FlowRow]:
    random = torch.Generator().manual_seed(seed)
    return [
        FlowRow(
            torch.randint(0, 6561, (count,), generator=random),
            torch.randint(0, 6561, (prompt,), generator=random),
            torch.randn(2 * prompt, 80, generator=random),
            torch.randn(192, generator=random),
        )
        for prompt, count in zip(prompts, tokens, strict=True)
    ]


def bucketed() -> Launcher:
    return Launcher(torch.device("cpu"), Graphs("cpu", recorder=replaying), bucketed=True)


@pytest.fixture(scope="module")
def exact(tiny):
    return flow.load(tiny)


@pytest.fixture(scope="module")
def padded(tiny):
    network = flow.load(tiny)
    network.prepare(bucketed())
    return network


@pytest.fixture
def excitation(tiny):
    """Made anew for each test: it keeps what it drew, and a test that counts launches draws without values."""
    return noise.Excitation(tiny.numbers)


class Solve(torch.nn.Module):
    def __init__(self, network: flow.Flow, seen: flow.Seen) -> None:
        super().__init__()
        network.prepare()
        self.network, self.seen = network, seen

    def forward(self, tokens, cond, speaker, sizes):
        """Compute the two functions that are captured; one turn is as another."""
        state = self.network.begin(tokens, cond, speaker, sizes, self.seen)
        self.network.turn(state)
        return state.mel


class Sound(torch.nn.Module):
    def __init__(self, network: hift.Hift, table: torch.Tensor, final: bool) -> None:
        super().__init__()
        network.prepare()
        self.network, self.final = network, final
        self.register_buffer("table", table)

    def forward(self, mel, lengths):
        return self.network.sound(mel, lengths, self.table, self.final)


@pytest.mark.parametrize(
    "seen, dtype",
    [("all", torch.float32), ("rows", torch.float32), ("chunks", torch.float32), ("rows", torch.bfloat16)],
)
def test_the_flow_is_traced_strictly_in_fixed_shapes(tiny, seen, dtype):
    """No step of it hangs on a value, so it can be captured; and what was traced is what is computed."""
    network = flow.load(tiny, dtype=dtype)
    network.prepare(bucketed())
    inputs, _ = network._gathered(rows([20, 12], [9, 14]), [58, 52])
    with torch.no_grad():
        module = Solve(network, seen)
        traced = torch.export.export(module, tuple(inputs), strict=True)
        assert torch.equal(traced.module()(*inputs), module(*inputs))


@pytest.mark.proof
@pytest.mark.parametrize("final", [True, False])
def test_the_vocoder_is_traced_strictly_in_fixed_shapes(tiny, excitation, final):
    network = hift.load(tiny)
    inputs = torch.randn(2, 80, 64), torch.tensor([50, 64])
    with torch.no_grad():
        module = Sound(network, excitation(64 * 480), final)
        traced = torch.export.export(module, inputs, strict=True)
        assert torch.equal(traced.module()(*inputs), module(*inputs))


def test_a_function_that_looks_at_a_value_is_not_traced(tiny):
    """The test above can fail: what a captured graph may not do is refused."""

    class Asks(Solve):
        def forward(self, tokens, cond, speaker, sizes):
            if int(sizes[1].max()) > 10:
                tokens = tokens + 1
            return super().forward(tokens, cond, speaker, sizes)

    network = flow.load(tiny)
    network.prepare()
    inputs, _ = network._gathered(rows([20], [9]), [58])
    with pytest.raises(Exception, match="(?i)data.dependent|unbacked|guard"):
        torch.export.export(Asks(network, "all"), tuple(inputs), strict=True)


@pytest.mark.parametrize("chunked, final", [(False, True), (True, True), (True, False)])
def test_a_row_in_a_bucket_is_what_it_is_alone(exact, padded, chunked, final):
    several = [replace(row, chunked=chunked, final=final) for row in rows([40, 31, 45], [30, 37, 9])]
    for one, mel in zip(several, padded(several), strict=True):
        assert distance(mel, exact([one])[0]) < 1e-5
        assert distance(padded([one])[0], mel) < 1e-5


def test_rows_of_any_kind_share_a_bucket(exact, padded):
    one, two, three = rows([40, 31, 45], [30, 37, 9])
    mixed = [replace(one, chunked=True, final=False), two, replace(three, chunked=True)]
    for row, mel in zip(mixed, padded(mixed), strict=True):
        assert distance(mel, exact([row])[0]) < 1e-5


def test_the_longest_row_fills_the_noise(padded):
    ten_seconds_less = rows([7000], [490])
    with pytest.raises(ValueError, match="300 s"):
        padded(rows([7000], [501]))
    assert min(bucket(1, 14_980)[1], noise.MEL_FRAMES) == noise.MEL_FRAMES == padded._noise.shape[0]
    inputs, _ = padded._gathered(ten_seconds_less, [14_980])
    assert inputs[1].shape == (1, noise.MEL_FRAMES, 80)


@pytest.mark.parametrize("final", [True, False])
def test_a_mel_in_a_bucket_sounds_as_alone(tiny, excitation, final):
    exact, padded = hift.load(tiny), hift.load(tiny)
    padded.prepare(bucketed())
    mels = [torch.randn(80, frames, generator=torch.Generator().manual_seed(frames)) for frames in (200, 77, 131)]
    for mel, sound in zip(mels, padded(mels, excitation, final), strict=True):
        alone = exact([mel], excitation, final)[0]
        assert sound.shape == alone.shape and distance(sound, alone) < 1e-5


def test_buckets_are_few_and_waste_little():
    shapes = {bucket(rows, frames) for rows in range(1, 17) for frames in range(50, 4000)}
    assert len(shapes) < 8 * 40
    for count in range(1, 17):
        for frames in range(100, 15_000, 7):
            wide, long = bucket(count, frames)
            assert count <= wide <= 1.5 * count and frames <= long <= max(frames + 64, 1.125 * frames)


class Counted(TorchDispatchMode):
    """Counts what the host launches on the device, and where it waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[str] = []
        self.syncs: list[str] = []
        self.quiet = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if self.quiet:
            return made
        tensors = torch.utils._pytree.tree_leaves((args, kwargs, made))
        devices = {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)}
        views = not func._schema.is_mutable and any(result.alias_info for result in func._schema.returns)
        if "cuda" in devices and not views and func.namespace != "prim":
            self.launches.append(str(func))
            to_host = isinstance(made, torch.Tensor) and made.device.type == "cpu" and "cuda" in devices
            waits = not kwargs.get("non_blocking") and not (len(args) > 2 and args[-1] is True)
            if func is torch.ops.aten._local_scalar_dense.default or to_host and waits:
                self.syncs.append(str(func))
        return made


@pytest.fixture
def counted(monkeypatch):
    """A device that is not there: shapes and devices are followed, nothing is computed."""
    counter = Counted()

    class Event:
        def record(self):
            pass

        def query(self):
            return True

        def synchronize(self):
            counter.syncs.append("event")

    def recorder(function, inputs):
        counter.quiet = True
        outputs = function(*inputs)
        counter.quiet = False
        return Recorded(inputs, outputs, lambda: counter.launches.append("replay"))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr("engines.cosyvoice3.flow.packs", lambda *_: False)
    times, _ = flow._schedule(), noise.flow(1)  # real ones, made before
    monkeypatch.setattr("engines.cosyvoice3.flow._schedule", lambda: times)
    monkeypatch.setattr("engines.cosyvoice3.flow.check_finite", lambda *_: None)
    monkeypatch.setattr("engines.cosyvoice3.hift.check_finite", lambda *_: None)
    graphs = Graphs("cpu", recorder=recorder)
    graphs.device = torch.device("cuda:0")
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield counter, Launcher(torch.device("cuda:0"), graphs)


def test_a_flow_batch_costs_the_host_few_launches_and_one_wait(tiny, counted):
    counter, launcher = counted
    with torch.device("cuda:0"):
        network = flow.Flow(tiny.numbers.flow).requires_grad_(False)
    network.prepare(launcher)
    several = rows([20, 12, 15], [9, 14, 11])
    with counter:
        network(several)  # captures
        counter.launches.clear(), counter.syncs.clear()
        mels = network(several)
    assert [mel.shape for mel in mels] == [(80, 18), (80, 28), (80, 22)]
    assert counter.launches.count("replay") == 1 + flow.STEPS
    assert len(counter.launches) <= LAUNCHES, counter.launches
    assert len(counter.syncs) <= SYNCS, counter.syncs


def test_a_vocoder_batch_costs_the_host_few_launches_and_one_wait(tiny, excitation, counted):
    counter, launcher = counted
    with torch.device("cuda:0"):
        network = hift.Hift(tiny.numbers.hift).requires_grad_(False)
    network.prepare(launcher)
    network.pitch = lambda mel: mel[:, 0].double()  # its weights would have to be float64
    mels = [torch.zeros(80, frames) for frames in (100, 60, 90)]
    with counter:
        network(mels, excitation)
        counter.launches.clear(), counter.syncs.clear()
        sounds = network(mels, excitation)
    assert [len(sound) for sound in sounds] == [48_000, 28_800, 43_200]
    assert counter.launches.count("replay") == 1
    assert len(counter.launches) <= LAUNCHES, counter.launches
    assert len(counter.syncs) <= SYNCS, counter.syncs


def test_the_counter_notices_a_wait_and_a_launch(counted):
    counter, _ = counted
    x = torch.zeros(4, device="cuda:0")
    with counter:
        (x + 1).cpu()
        x[:2].view(2, 1)
    assert len(counter.launches) == 2 and len(counter.syncs) == 1


def test_noise_is_uploaded_once_and_grows(tiny, excitation):
    device = torch.device("meta")
    first = excitation.on(device, 1000)
    assert excitation.on(device, 500).untyped_storage() is first.untyped_storage() or len(first) == 1000
    grown = excitation.on(device, 1001)
    assert len(excitation._resident[device]) == 2000 and len(grown) == 1001


def test_positions_stay_exact_in_half_precision(tiny):
    one, half = flow.load(tiny), flow.load(tiny, dtype=torch.bfloat16)
    for network in (one, half):
        network.prepare()
    assert half._rope.dtype == torch.float32 and torch.equal(one._rope, half._rope)


def test_a_flow_that_is_started_gives_its_result_when_asked(exact):
    several = rows([20, 12], [9, 14])
    pending = exact.launch(several)
    assert pending.done()
    for one, other in zip(pending.result(), exact(several), strict=True):
        assert torch.equal(one, other)


def test_warming_up_captures_the_buckets_that_are_asked_for(tiny, excitation, monkeypatch):
    mel_maker, vocoder = flow.load(tiny), hift.load(tiny)
    for network, warm in (
        (mel_maker, lambda: mel_maker.warm_up([(3, 100), (3, 120), (1, 200)], chunked=(False, True))),
        (vocoder, lambda: vocoder.warm_up([(3, 100), (3, 120), (1, 200)], excitation, final=(True, False))),
    ):
        network.prepare(bucketed())
        warm()
        assert len(network._launcher.graphs) == 4


def test_on_a_cpu_warming_up_does_nothing(exact, excitation, tiny, monkeypatch):
    monkeypatch.setattr(flow.Flow, "forward", lambda *_: 1 / 0)
    exact.warm_up([(3, 100)])


def test_a_network_that_was_used_and_then_changed_makes_its_tables_anew(tiny, excitation):
    one, mel = rows([20], [9])[0], torch.randn(80, 30, generator=torch.Generator().manual_seed(0))
    used, fresh = flow.load(tiny), flow.load(tiny, dtype=torch.float64)
    used([one])
    assert distance(used.double()([one])[0], fresh([one])[0]) == 0
    sounding, silent = hift.load(tiny), hift.load(tiny).double()
    sounding([mel], excitation)
    assert distance(sounding.double()([mel], excitation)[0], silent([mel], excitation)[0]) == 0


def _damaged(network, name: str):
    """A network with one weight that is no number."""
    weight = dict(network.named_parameters())[name]
    weight.view(-1)[0] = float("nan")
    return network


def test_a_flow_that_gives_no_numbers_says_so(tiny):
    network = _damaged(flow.load(tiny), "pre_lookahead_layer.conv1.weight")
    with pytest.raises(NotFinite, match="the flow's mel.*flow.pt.*check.*float32"):
        network(rows([20], [9]))


def test_a_vocoder_that_gives_no_numbers_says_so(tiny, excitation):
    network = _damaged(hift.load(tiny), "conv_post.weight")
    with pytest.raises(NotFinite, match="the vocoder's audio.*hift.pt"):
        network([torch.zeros(80, 20)], excitation)


def test_one_row_of_no_numbers_is_an_error_and_the_other_is_not(tiny, exact, excitation):
    """A mel of no numbers can only come out of the stage before; the vocoder takes nobody with it."""
    vocoder = CosyVoice3Vocoder(tiny)
    good = exact(rows([20], [9]))[0].numpy()
    bad = good.copy()
    bad[:, 3] = float("nan")
    mels = [Mel({"mel": mel, "parts": np.array([mel.shape[1]])}, 1.0) for mel in (bad, good)]
    first, second = vocoder.vocode(mels)
    assert isinstance(first, NotFinite) and first.code == "model_not_finite" and first.status == 500
    assert distance(second, vocoder.vocode(mels[1:])[0]) == 0
