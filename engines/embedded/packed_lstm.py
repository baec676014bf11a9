"""A bidirectional LSTM by oneDNN, with weights that are packed once, and steps that are computed in tiles.

torch packs an LSTM's weights for each sequence, which is a third of the time of a short one. oneDNN compiles a kernel
for each length that it meets, which is as much again. A tile goes on where the one before has stopped.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.tiles import tiles

TILES = 128, 96, 64, 32  #: steps that are computed at a time
_LSTM: Final = 2  #: among oneDNN's kinds of recurrent networks


class PackedLSTM(nn.Module):
    """Does what `blocks.BidirectionalLSTM` does, (B, T, inputs) -> (B, T, 2 hidden); takes and gives float32.

    Args:
        lstm: of one layer, in both directions, the batch first.
        dtype: that it computes in.
    """

    def __init__(self, lstm: nn.LSTM, dtype: torch.dtype) -> None:
        super().__init__()
        if not (lstm.num_layers == 1 and lstm.bidirectional and lstm.batch_first and lstm.bias):
            raise ValueError(f"{lstm} is not one layer in both directions over (B, T, inputs)")
        self._inputs, self._hidden, self._dtype = lstm.input_size, lstm.hidden_size, dtype
        self._directions = [self._packed(lstm, suffix) for suffix in ("", "_reverse")]

    def _packed(self, lstm: nn.LSTM, suffix: str) -> list[Tensor]:
        """Pack a direction's weights as oneDNN wants them, with its biases behind."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        inputs, state, *biases = (getattr(lstm, f"{kind}_l0{suffix}").detach().to(self._dtype) for kind in kinds)
        packed = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(
            inputs, state, self._hidden, False, True, False, [TILES[0], 1, self._inputs]
        )
        return [*packed, *biases]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Read x in both directions. Raises ValueError if there are lengths: nothing is padded here."""
        if lengths is not None:
            raise ValueError("a packed LSTM reads members that are not padded")
        made = [self._one(member) for member in x]
        return made[0][None] if len(made) == 1 else torch.stack(made)

    def _one(self, x: Tensor) -> Tensor:
        """Read one member, (T, inputs) -> (T, 2 hidden)."""
        steps = len(x)
        sizes = tiles(steps, TILES)
        x = F.pad(x.to(self._dtype), (0, 0, 0, sum(sizes) - steps))
        forward, backward = self._directions
        # The padding follows in both directions: what comes after the last step changes none before it.
        turned = torch.cat([x[:steps].flip(0), x[steps:]])
        made = self._direction(x, sizes, forward)[:steps], self._direction(turned, sizes, backward)[:steps].flip(0)
        return torch.cat(made, 1).float()

    def _direction(self, x: Tensor, sizes: list[int], weights: list[Tensor]) -> Tensor:
        """Read (T, inputs) from the first step to the last: (T, hidden)."""
        hidden = cell = x.new_zeros(1, self._hidden)
        # not reversed, no batch sizes, one layer with biases, in one direction, not batch first, not training
        kind: tuple[object, ...] = False, [], _LSTM, self._hidden, 1, True, False, False, False
        outputs = []
        for tile in x[:, None].split(sizes):
            output, hidden, cell, _ = torch.ops.aten.mkldnn_rnn_layer(tile, *weights, hidden, cell, *kind)
            outputs.append(output[:, 0])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def warm_up(self) -> None:
        """Have the kernel of each tile size compiled."""
        for size in TILES:
            self(torch.zeros(1, size, self._inputs))
