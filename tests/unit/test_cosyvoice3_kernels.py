"""The decoding step's Triton kernels do what the torch operations do; here in Triton's interpreter, on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def interpreted(program: str) -> str:
    """Return what a program prints. It has a process of its own: Triton decides at its import if it interprets."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


PROGRAM = """
import torch
from engines.cosyvoice3 import kernels
from engines.cosyvoice3.qwen import KvCache, Qwen, QwenSize

def steps(dtype, usable, positions, spans):
    kernels.usable = lambda *_: usable
    torch.manual_seed(0)
    size = QwenSize(vocabulary=50, hidden=64, intermediate=96, layers=2, heads=6, kv_heads=2, head_dim=16,
                    epsilon=1e-6, theta=1e6)
    body = Qwen(size).eval().requires_grad_(False)
    for parameter in body.parameters():
        parameter.normal_(0, 0.2)
    body = body.to(dtype)
    body.fuse()
    cache = KvCache(size, 4, 300, "cpu", dtype)
    cache.store.normal_()
    before = cache.store.clone()
    made = []
    for at, span in zip(positions, spans):
        x = torch.randn(len(at), size.hidden).to(dtype)
        made.append(body.step(x, torch.tensor(at), span, cache))
    return torch.stack(made), cache, before

dtype = getattr(torch, DTYPE)
at = [[0, 63, 64], [1, 64, 65], [2, 200, 130], [7, 201, 319]]  # 319 is the spill: a row that pads the batch
spans = [128, 128, 256, 256]
with torch.inference_mode():
    ours, cache, before = steps(dtype, True, at, spans)
    theirs, other, _ = steps(dtype, False, at, spans)
assert cache.spill == 319, cache.spill
real = ours.clone(), theirs.clone()
for each in real:
    each[3, 2] = 0  # nobody looks at what a row that pads the batch is given
tolerance = 2e-5 if dtype == torch.float32 else 1e-2
difference = (real[0].float() - real[1].float()).abs().max()
assert difference < tolerance * real[1].float().abs().max(), difference
assert torch.isfinite(ours).all()
slots = cache.slots
written = {row * slots + a[row] for a in at for row in range(3)}
changed = (cache.store != before).any(-1).any(0).nonzero().flatten().tolist()
assert set(changed) == written, (changed, written)
kept = [slot for slot in range(4 * slots) if slot % slots != cache.spill]
assert (cache.store.float() - other.store.float())[:, kept].abs().max() < tolerance * 4
print("same", float(difference))
"""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_step_is_the_same_in_kernels(dtype):
    """Not in bfloat16: the interpreter multiplies it wrongly."""
    said = interpreted(f"DTYPE = {dtype!r}\n{PROGRAM}")
    assert said.startswith("same")


FLOW = """
import torch
from engines.cosyvoice3 import dit, kernels
from engines.cosyvoice3.random_checkpoint import TINY, describe
import tempfile, pathlib

with tempfile.TemporaryDirectory() as folder:
    size = describe(pathlib.Path(folder) / "sizes", TINY).numbers.flow.decoder.estimator
torch.manual_seed(0)
network = dit.Dit(size).eval().requires_grad_(False)
for parameter in network.parameters():
    parameter.normal_(0, 0.1)
network.rotary_embed.inv_freq.copy_(torch.linspace(1, 0.01, len(network.rotary_embed.inv_freq)))
network = network.half()
for block in network.transformer_blocks:
    block.attn.fuse()
n, frames = 2, 37
inputs = [torch.randn(n, frames, 80).half() for _ in range(3)]
speaker = torch.randn(n, 80).half()
modulations = network.modulations(torch.tensor([0.3, 0.3]))[:, :1]
rope = network.rotary_embed(frames)
made = []
with torch.inference_mode():
    for usable in (True, False):
        kernels.usable = lambda *_: usable
        x, mu, cond = inputs
        made.append(network.velocity(x, mu, modulations, speaker, cond, rope, dit.Visible()).float())
difference = (made[0] - made[1]).abs().max() / made[1].abs().max()
assert torch.isfinite(made[0]).all() and difference < 1e-2, difference
assert made[1].std() > 0.01
print("same", float(difference))
"""


def test_the_flow_is_the_same_in_kernels():
    said = interpreted(FLOW)
    assert said.startswith("same")


def test_they_are_not_used_on_a_cpu():
    import torch

    from engines.cosyvoice3 import kernels

    assert not kernels.usable(torch.device("cpu"), 64)


def test_each_kernel_is_tried_before_it_is_used():
    program = "import torch; from engines.cosyvoice3.kernels import _agree; print(_agree(torch.device('cpu'), 32))"
    said = interpreted(program)
    assert said.strip() == "True"
