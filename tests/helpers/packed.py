"""The precisions that a CPU can have; tests skip those that this one has not."""

import pytest
import torch

from engines.embedded.direct_convolution import takes_packed

PRECISIONS = [
    pytest.param(
        "bfloat16",
        marks=pytest.mark.skipif(not takes_packed(torch.bfloat16), reason="oneDNN takes no bfloat16 on this CPU"),
    ),
    pytest.param("int8", marks=pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no VNNI")),
]
