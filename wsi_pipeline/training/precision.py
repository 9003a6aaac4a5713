"""The precision that networks are trained in: bfloat16 products where the device has them, else single."""

from __future__ import annotations

import torch

from wsi_pipeline.segmentation.precision import resolve_precision


def training_autocast(device: str) -> torch.autocast:
    """Return a context for a training's forward passes on ``device``.

    bfloat16 where the device computes in it. A processor that must imitate it takes many times longer than in float32.
    """
    return torch.autocast(
        device_type=torch.device(device).type,
        dtype=torch.bfloat16,
        enabled=resolve_precision("auto", device) == "bf16",
    )
