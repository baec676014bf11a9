"""What a network gives must be numbers: NaN and infinity are an error of the stage that made them."""

from __future__ import annotations

import torch
from torch import Tensor

from speech.errors import InternalError


class NotFinite(InternalError):
    """A network gave NaN or infinity."""


def check_finite(made: Tensor, what: str, file: str) -> None:
    """Raise NotFinite, naming what was made and the file with its network's weights, unless all numbers are finite.

    Args:
        made: on the host; on a GPU the question would stop the caller until the device has answered.
    """
    if not bool(torch.isfinite(made).all()):
        raise NotFinite(
            f"The speech model made no numbers of {what} (NaN or infinity). The weights in {file} are damaged, or the "
            "dtype is too narrow for them: run `python -m engines.cosyvoice3 check` on the model directory, then try "
            "dtype float32.",
            code="model_not_finite",
        )
