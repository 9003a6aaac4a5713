"""Text from outside in tables that people open in a spreadsheet."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(text: str) -> str:
    """Return text that a spreadsheet shows and does not compute: an apostrophe goes before the start of a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
