"""The exponential moving average of a network's weights, which is what is evaluated and shipped."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Move ``average`` towards ``network`` in place, keeping the share ``keep``; counters are copied."""
    live = network.state_dict()
    for key, value in average.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(live[key], 1 - keep)
        else:
            value.copy_(live[key])
