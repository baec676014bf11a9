"""Loads state dicts strictly: every key of the network and no other, each with the right shape.

A network is built on torch's meta device, to save the initialisation, and takes its tensors from the memory-mapped
file. Weight-normalised convolutions (T. Salimans and D. Kingma, 2016) are stored as direction and length
(`parametrizations.weight.original1`, `original0`); they are multiplied out once, here.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from engines.contract import WeightsError

_LENGTH, _DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"


class NormedConv1d(nn.Conv1d):
    """A convolution whose weight the file holds in weight-normalised form."""


def read(path: Path) -> dict[str, torch.Tensor]:
    """Map the state dict of a file into memory. Raises WeightsError if it is missing, damaged or no state dict."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} can't be read as torch weights ({type(error).__name__}). It is missing, cut off "
            "or of another format: fetch the file again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no state dict (names with tensors). Fetch the file again.")
    return state


def verify(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Read the whole file of a state dict: its checksums must be right and its numbers finite.

    Loading checks neither: it maps the file into memory and reads it once, on the way to the device.

    Raises:
        WeightsError: a part of the file is damaged, or weights are not finite; the message names them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is damaged ({type(error).__name__}). Fetch the file again.") from error
    if damaged:
        raise WeightsError(f"{path} is damaged: the checksum of {damaged} in it is wrong. Fetch the file again.")
    unusable = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if unusable:
        more = f" and {len(unusable) - 3} more" if len(unusable) > 3 else ""
        raise WeightsError(f"{path} has NaN or infinity in {', '.join(unusable[:3])}{more}. Fetch the file again.")


N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Stored(Generic[N]):
    """A network and the file with its weights.

    Args:
        build: makes the network, with any weights.
        path: the file of the state dict.
        rename: turns a key in the file into this network's name for it.
        unused: keys (as renamed) that the file must have though the network does not use them, with their shapes.
        double: prefix of names of weights that are kept in float64, and multiplied out in it.
    """

    build: Callable[[], N]
    path: Path
    rename: Callable[[str], str] = str
    unused: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    double: str = "\0"

    def check(self) -> int:
        """Compare keys and shapes, then read the whole file; returns the number of keys. Raises as `load`, `verify`."""
        state = self._fitting(self._empty())
        verify(self.path, state)
        return len(state)

    def load(self) -> N:
        """Load the network with its weights, on the CPU, in evaluation mode.

        Raises:
            WeightsError: the file can't be read, or keys are unexpected, missing, or of another shape; the message
                names them.
        """
        network = self._empty()
        state = {
            key: value.to(torch.float64 if key.startswith(self.double) else torch.float32)
            for key, value in self._fitting(network).items()
            if key not in self.unused
        }
        network.load_state_dict(_multiplied_out(state), assign=True)
        return network.eval().requires_grad_(False)

    def _empty(self) -> N:
        with torch.device("meta"):
            return self.build()

    def _fitting(self, network: nn.Module) -> dict[str, torch.Tensor]:
        state = {self.rename(key): value for key, value in read(self.path).items()}
        expected = expected_shapes(network) | dict(self.unused)
        _compare(expected, {key: tuple(value.shape) for key, value in state.items()}, self.path)
        if whole := [key for key, value in state.items() if not value.is_floating_point()]:
            raise WeightsError(
                f"{self.path} has {state[whole[0]].dtype} in {whole[0]}, and weights are floating-point numbers. Fetch "
                "the file again."
            )
        return state


def expected_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return every key that the file of this network must have, with its shape."""
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    for name, module in network.named_modules():
        if isinstance(module, NormedConv1d):
            weight = shapes.pop(f"{name}.weight")
            shapes[f"{name}.{_LENGTH}"] = (weight[0], 1, 1)
            shapes[f"{name}.{_DIRECTION}"] = weight
    return shapes


def _compare(expected: dict, found: dict, path: Path) -> None:
    problems = [f"unexpected key {key}" for key in found if key not in expected]
    problems += [f"missing key {key}" for key in expected if key not in found]
    problems += [
        f"key {key} has shape {found[key]}, not {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WeightsError(
            f"{path} does not fit the network that cosyvoice3.yaml and config.json describe: "
            f"{'; '.join(problems[:5])}{more}. Are all files of one and the same release?"
        )


def _multiplied_out(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    whole = {key: value for key, value in state.items() if not key.endswith((_LENGTH, _DIRECTION))}
    for key, direction in state.items():
        if key.endswith(_DIRECTION):
            name = key.removesuffix(_DIRECTION)
            whole[f"{name}weight"] = torch._weight_norm(direction, state[f"{name}{_LENGTH}"], 0)
    return whole
