"""Results as JSON that is the same, to the last digit, whenever the same study is made."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

DECIMALS = 6
"""Figures are rounded to this many decimals: what lies beyond is the order of a sum, not a finding."""


def document(value: Any) -> Any:
    """Return dataclasses, arrays and tuples as dictionaries, lists and plain numbers, in the order of their fields.

    Numbers are rounded to :data:`DECIMALS`; NaN and infinity are None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: document(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): document(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [document(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        # Adding 0 turns -0.0 into 0.0.
        return round(float(value), DECIMALS) + 0.0 if math.isfinite(value) else None
    return value
