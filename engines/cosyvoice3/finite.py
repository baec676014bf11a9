"""Refuses NaN and infinity in a network's result, as an error of the stage that made them."""

from __future__ import annotations

import torch
from torch import Tensor

from speech.errors import InternalError


class NotFinite(InternalError):
    """The error of a network that gave NaN or infinity."""


def check_finite(made: Tensor, what: str, file: str) -> None:
    """Raise NotFinite unless all numbers are finite.

    Args:
        made: the result, on the host. On a GPU the check would block the caller until the device has answered.
        what: the result's name, for the message.
        file: the file with the network's weights, for the message.
    """
    if not bool(torch.isfinite(made).all()):
        raise NotFinite(
            f"The speech model made no numbers of {what} (NaN or infinity). The weights in {file} are damaged, or the "
            "dtype is too narrow for them: run `python -m engines.cosyvoice3 check` on the model directory, then try "
            "dtype float32.",
            code="model_not_finite",
        )
