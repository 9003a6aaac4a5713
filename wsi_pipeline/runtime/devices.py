"""Which device computes; a device that was asked for and is missing is an error, never a fallback."""

from __future__ import annotations

from typing import Literal

from wsi_pipeline.errors import DeviceError


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises
    ------
    DeviceError
        CUDA was asked for and PyTorch sees none.
    """
    import torch

    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise DeviceError(
            "device cuda was asked for, but PyTorch sees no CUDA GPU; check nvidia-smi and the driver, "
            "or use --device cpu"
        )
    return "cuda" if requested != "cpu" and available else "cpu"
