"""The number format that networks run in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["bf16", "fp32"]
"""What a network really runs in."""

RequestedPrecision = Literal["auto", "bf16", "fp32"]
"""What can be asked for."""


def resolve_precision(requested: RequestedPrecision, device: str) -> Precision:
    """Return the precision that is meant: ``auto`` is bf16 where ``device`` computes in it, else fp32.

    Where it must be imitated it is the slower one: a block took seven times longer on an AVX2 processor. Where it is
    native it is faster, and on a CPU bit-identical over thread counts, which fp32 is not.
    """
    if requested != "auto":
        return requested
    return "bf16" if computes_in_bf16(device) else "fp32"


def computes_in_bf16(device: str) -> bool:
    """Tell whether a device (``cpu``, ``cuda``) has instructions for bf16."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    answers = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in answers)


def dtype_of(precision: Precision) -> torch.dtype:
    """Return torch's name of a precision."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32
