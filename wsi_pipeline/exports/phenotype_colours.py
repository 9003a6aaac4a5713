"""Colours of phenotypes, the same in reports and in QuPath."""

from __future__ import annotations

# Okabe and Ito's, apart for the colour-blind, on pink and purple.
_COLOURS = ("#e69f00", "#0072b2", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#000000")


def phenotype_colour(number: int) -> str:
    """Return the colour of a phenotype by its place among the model's, ``#rrggbb``; beyond eight they repeat."""
    return _COLOURS[number % len(_COLOURS)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of ``#rrggbb``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
