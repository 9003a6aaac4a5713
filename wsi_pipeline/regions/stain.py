"""Which stain a section shows, from the colours of its stained pixels: H&E, silver (reticulin), or another one.

Densities of a dye keep their ratio in red, green and blue however much of it there is (Beer and Lambert). Haematoxylin
and eosin absorb green more than the mean of red and blue; metallic silver absorbs all alike, and a toned or untoned
ground, which is gold to brown, absorbs green as the mean of the others. The limit was set on 2 trephines
(``trephine-thumbnails``) and 80 purple fields (``tissue-nuclei``), whose least ``magenta`` was 0.20, on one
immunoperoxidase field (-0.02) and on drawn silver slides; there is no real silver slide among the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.config import Stain
from wsi_pipeline.errors import WrongStainError
from wsi_pipeline.sentences import say

StainKind = Literal["he", "silver", "other", "unknown"]

_STAINED_OD = 0.08
_LEAST_PIXELS = 200
_DARKEST_PERCENT = 90
_LEAST_MAGENTA = 0.09
_BLUE_RED_SHARE = 0.42

_NAMES = {
    "he": "pink and purple, as of H&E",
    "silver": "grey, gold or black without pink or purple, as of a silver stain for reticulin",
}


@dataclass(frozen=True, kw_only=True)
class StainColours:
    """What the stained pixels of a section look like.

    Attributes
    ----------
    kind
        ``silver`` is grey, gold, brown or black; ``other`` mostly blue; ``unknown`` where too little is stained.
    magenta
        Of the darkest tenth of the stained pixels: optical density of green over the mean of red and blue, as a share
        of all three; 0 is grey.
    shares
        Of all stained pixels: optical density of red, green and blue as shares of their sum.
    n_pixels
        Stained pixels of the overview.
    """

    kind: StainKind
    magenta: float | None
    shares: tuple[float, float, float] | None
    n_pixels: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, three decimals."""
        return {
            "kind": self.kind,
            "magenta": None if self.magenta is None else round(self.magenta, 3),
            "shares": None if self.shares is None else [round(v, 3) for v in self.shares],
            "n_pixels": self.n_pixels,
        }


def find_stain(
    pixels: npt.NDArray[np.uint8], glass: tuple[int, int, int], within: npt.NDArray[np.bool_] | None = None
) -> StainColours:
    """Return the stain of a section.

    Parameters
    ----------
    pixels
        Overview, uint8 RGB of shape (h, w, 3).
    glass
        Colour of empty glass.
    within
        Pixels that count, bool of shape (h, w); None counts all.
    """
    level = np.arange(256) + 1.0
    table = np.stack([np.maximum(np.log10((g + 1.0) / level), 0) for g in glass], axis=1)
    density = np.stack([table[pixels[..., c], c] for c in range(3)], axis=-1)
    stained = density.max(axis=-1) > _STAINED_OD
    if within is not None:
        stained &= within
    n = int(stained.sum())
    if n < _LEAST_PIXELS:
        return StainColours(kind="unknown", magenta=None, shares=None, n_pixels=n)
    found = density[stained]
    largest = found.max(axis=1)
    dark = found[largest >= np.percentile(largest, _DARKEST_PERCENT)].sum(axis=0)
    red, green, blue = found.sum(axis=0) / found.sum()
    magenta = float((dark[1] - 0.5 * (dark[0] + dark[2])) / dark.sum())
    kind: StainKind = "he" if magenta >= _LEAST_MAGENTA else "silver"
    if red >= _BLUE_RED_SHARE:
        kind = "other"
    return StainColours(kind=kind, magenta=magenta, shares=(float(red), float(green), float(blue)), n_pixels=n)


def require_stain(found: StainColours, wanted: Stain, name: str) -> None:
    """Refuse a trephine that is beyond doubt of the other stain: silver where H&E is wanted, or H&E for reticulin.

    Parameters
    ----------
    wanted
        ``stain`` of the configuration.
    name
        The slide's, for the message.

    Raises
    ------
    WrongStainError
        It is; the message says what was found and which configuration to use.
    """
    refused = "silver" if wanted == "routine" else "he"
    if found.kind != refused:
        return
    shares = "/".join(f"{100 * share:.0f}" for share in found.shares or ())
    made_for, use = ("H&E", "reticulin") if wanted == "routine" else ("reticulin", "trephine")
    raise WrongStainError(
        f"{name}: its colours are {_NAMES[refused]} (of the light it absorbs, red/green/blue are {shares} %), and this "
        f"configuration is for {made_for}; run it with --config {use}, or, where the colours mislead, with "
        "--set regions.check_stain=false"
    )


def stain_warning(facts: Mapping[str, Any], wanted: Stain) -> list[str]:
    """Return a sentence when a trephine's colours are neither of H&E nor of silver; ``facts`` are its regions'."""
    if wanted == "reticulin" or facts.get("stain", {}).get("kind") != "other":
        return []
    return [say("The colours are neither those of H&E nor of a silver stain: what was found may mean something else.")]
