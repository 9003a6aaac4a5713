"""Plain names for clusters of megakaryocytes, from where their centres lie among the training cells.

Of size, lobulation, density and cytoplasm each is named that a centre departs from the mean in by at least half a
standard deviation of the training cells; a cluster that does so in none is intermediate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.trephines.window import FloatArray

DEPARTS = 0.5
"""Standard deviations from which a quality is named."""
_BARE_SHARE = 0.5
_LOBULATION = {"nucleus_lobes": 1.0, "nucleus_concavities": 1.0, "nucleus_solidity": -1.0, "nucleus_form_factor": -1.0}
_WORDS: Sequence[tuple[str, Mapping[str, float], tuple[str, str]]] = (
    ("size", {"area_um2": 1.0}, ("small", "large")),
    ("lobulation", _LOBULATION, ("round-nucleus", "hyperlobated")),
    ("density", {"hyperchromasia": 1.0}, ("pale", "hyperchromatic")),
    ("cytoplasm", {"nc_ratio": -1.0}, ("scant-cytoplasm", "wide-cytoplasm")),
)


@dataclass(frozen=True, kw_only=True)
class NamedCluster:
    """A cluster: name in tables, in words, and the medians of its measures (None where not measured)."""

    code: str
    name: str
    medians: dict[str, float | None]


def name_phenotypes(
    centres: FloatArray,
    label: npt.NDArray[np.int64],
    features: Sequence[str],
    measures: Mapping[str, FloatArray],
) -> list[NamedCluster]:
    """Return a name for each cluster; equal ones are numbered.

    Parameters
    ----------
    centres
        ``(k, d)`` in standard deviations from the mean; the first columns are ``features``.
    label
        ``(n,)`` cluster of each training cell.
    measures
        ``(n,)`` by name, as measured; ``bare`` among them.
    """
    words = [_words(centre, features, measures["bare"][label == c]) for c, centre in enumerate(centres)]
    found = []
    for c, own in enumerate(words):
        before, times = words[:c].count(own), words.count(own)
        number = "" if times == 1 else f"-{before + 1}"
        spoken = " ".join(word.replace("-", " ") for word in own)
        found.append(
            NamedCluster(
                code="-".join(own) + number,
                name=spoken if times == 1 else f"{spoken} ({before + 1})",
                medians={name: _median(values[label == c]) for name, values in measures.items()},
            )
        )
    return found


def _words(centre: FloatArray, features: Sequence[str], bare: FloatArray) -> tuple[str, ...]:
    place = {name: i for i, name in enumerate(features)}
    told = bare[np.isfinite(bare)]
    found = ["bare"] if len(told) and told.mean() >= _BARE_SHARE else []
    for quality, signs, (low, high) in _WORDS:
        if quality == "cytoplasm" and found[:1] == ["bare"]:
            continue
        values = [sign * float(centre[place[name]]) for name, sign in signs.items() if name in place]
        if values and abs(mean := float(np.mean(values))) >= DEPARTS:
            found.append(high if mean > 0 else low)
    return tuple(found) or ("intermediate",)


def _median(values: FloatArray) -> float | None:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if len(there) else None
