"""The number format that networks run in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["bf16", "fp32"]
"""What a network really runs in."""

RequestedPrecision = Literal["auto", "bf16", "fp32"]
"""What can be asked for."""


def resolve_precision(requested: RequestedPrecision) -> Precision:
    """Return the precision that is meant: ``auto`` is bf16, on every device.

    On a CPU it is bit-identical over thread counts, which fp32 is not; on a GPU it is the faster one.
    """
    return "bf16" if requested == "auto" else requested


def dtype_of(precision: Precision) -> torch.dtype:
    """Return torch's name of a precision."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32
