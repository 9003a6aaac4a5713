"""Counts told twice, as percent and absolute: contradictions found, what is missing derived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.counts.analytes import Analyte, Part
from wsi_pipeline.predictions.counts.findings import Findings

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TOLERANCE_G_L = 0.05
TOLERANCE_SHARE = 0.05
"""Percent and absolute count contradict each other beyond this plus this share of the white cells. Our choice: room
for rounding and for a differential read by eye beside an analyser's."""

_MIN_PERCENT = 5.0
_SAME = 1.1


@dataclass(kw_only=True)
class PartEvidence:
    """How often a column of absolute counts exceeds the white cells, in one centre."""

    rows: int = 0
    exceeds: int = 0
    over_100: int = 0

    def observe(self, raw: Floats, whole: Floats) -> None:
        """Add values as written ``(n,)`` and the white cells in G/L ``(n,)``; NaN: none."""
        both = ~np.isnan(raw) & ~np.isnan(whole) & (raw > 0)
        self.rows += int(both.sum())
        self.exceeds += int((both & (raw > whole + tolerance(whole))).sum())
        self.over_100 += int((both & (raw > 100)).sum())

    def holds_percent(self) -> bool:
        """Return whether the column holds percentages: a fifth of 5 or more exceed the white cells, none 100."""
        return self.rows >= 5 and self.exceeds > 0.2 * self.rows and self.over_100 == 0

    def holds_absolute(self) -> bool:
        """Return whether a column without unit can be taken as absolute: of 10 or more hardly any exceeds."""
        return self.rows >= 10 and self.exceeds <= 0.05 * self.rows


def tolerance(whole: Floats) -> Floats:
    """Return by how much, in G/L, a part may differ from its share of the white cells."""
    return TOLERANCE_G_L + TOLERANCE_SHARE * whole


@dataclass(frozen=True, kw_only=True)
class _Trio:
    """Positions of one count among the analytes, and the names people see."""

    percent: int
    absolute: int
    whole: int
    percent_name: str
    absolute_name: str
    whole_name: str


def reconcile(
    values: Floats,
    refused: Bools,
    analytes: Sequence[Analyte],
    parts: Sequence[Part],
    written: Mapping[str, str],
    out: Findings,
) -> None:
    """Find contradictions and derive what is missing, in place.

    Parameters
    ----------
    values, refused
        ``(n, len(analytes))`` in canonical units.
    written
        Column of the file by analyte.

    Notes
    -----
    An absolute count above the white cells is refused. Where percent, absolute count and white cells contradict each
    other, the percentage is taken as a fraction if that settles it; else nothing shows which is wrong, and both
    percent and absolute count are refused rather than one kept by chance. Where two or more counts agree on
    another number of white cells, that number is the one refused.
    """
    place = {analyte.name: position for position, analyte in enumerate(analytes)}
    trios = [
        _Trio(
            percent=place[part.percent],
            absolute=place[part.absolute],
            whole=place[part.whole],
            percent_name=written.get(part.percent, part.percent),
            absolute_name=written.get(part.absolute, part.absolute),
            whole_name=written.get(part.whole, part.whole),
        )
        for part in parts
    ]
    if not trios:
        return
    told = ~np.isnan(values[:, [trio.absolute for trio in trios]]).all(axis=1)
    _wrong_whole(values, refused, trios, out)
    for trio in trios:
        contradicted = _contradictions(values, refused, trio, out)
        _derive(values, refused, ~contradicted, trio, out)
    _sums(values[:, [trio.percent for trio in trios]], told, out)


def _wrong_whole(values: Floats, refused: Bools, trios: Sequence[_Trio], out: Findings) -> None:
    """Refuse white cells that several counts contradict in the same way."""
    column = trios[0].whole
    white = values[:, column]
    percent = np.stack([values[:, trio.percent] for trio in trios], axis=1)
    absolute = np.stack([values[:, trio.absolute] for trio in trios], axis=1)
    told = (percent >= _MIN_PERCENT) & (absolute > 0)
    implied = np.where(told, 100 * absolute / np.where(told, percent, 1), np.nan)
    apart = np.abs(absolute - percent / 100 * white[:, None]) > tolerance(white)[:, None]
    low = np.where(told, implied, np.inf).min(axis=1)
    high = np.where(told, implied, -np.inf).max(axis=1)
    elsewhere = (low > _SAME * white) | (_SAME * high < white)
    wrong = elsewhere & ((apart & told).sum(axis=1) >= 2) & (high <= _SAME * low)
    out.each(
        np.flatnonzero(wrong),
        trios[0].whole_name,
        "inconsistent",
        None,
        lambda row: (
            f"{white[row]:.6g} G/L, but percentages and absolute counts agree on {low[row]:.4g} G/L; it is refused"
        ),
    )
    refused[wrong, column] = True
    values[wrong, column] = np.nan


def _contradictions(values: Floats, refused: Bools, trio: _Trio, out: Findings) -> Bools:
    """Refuse what cannot be true together; return the rows where percent and absolute count are both refused."""
    white, share, count = (values[:, column] for column in (trio.whole, trio.percent, trio.absolute))
    more = count > white + tolerance(white)
    out.each(
        np.flatnonzero(more),
        trio.absolute_name,
        "refused",
        None,
        lambda row: f"{count[row]:.6g} G/L is more than all white cells ({white[row]:.6g} G/L); is it a percentage?",
    )
    count[more] = np.nan
    refused[more, trio.absolute] = True

    apart = np.abs(count - share / 100 * white) > tolerance(white)
    fraction = apart & (share <= 1.0) & (np.abs(count - share * white) <= tolerance(white))
    out.each(
        np.flatnonzero(fraction),
        trio.percent_name,
        "converted",
        None,
        lambda row: f"{share[row]:.6g} taken as a fraction, as {trio.absolute_name} shows: times 100 to %",
    )
    share[fraction] *= 100
    contradicted = apart & ~fraction
    out.each(
        np.flatnonzero(contradicted),
        trio.percent_name,
        "inconsistent",
        None,
        lambda row: (
            f"{share[row]:.6g} % of {white[row]:.6g} G/L is not {count[row]:.6g} G/L ({trio.absolute_name}); "
            "nothing shows which is wrong, and both are refused"
        ),
    )
    for column in (trio.percent, trio.absolute):
        values[contradicted, column] = np.nan
        refused[contradicted, column] = True
    return contradicted


def _derive(values: Floats, refused: Bools, allowed: Bools, trio: _Trio, out: Findings) -> None:
    """Compute the percentage from the absolute count, or the reverse; counts as not refused then."""
    white, share, count = (values[:, column] for column in (trio.whole, trio.percent, trio.absolute))
    known = allowed & ~np.isnan(white)
    no_share = known & np.isnan(share) & ~np.isnan(count)
    no_count = known & np.isnan(count) & ~np.isnan(share)
    share[no_share] = np.minimum(100 * count[no_share] / white[no_share], 100)
    count[no_count] = share[no_count] / 100 * white[no_count]
    refused[no_share, trio.percent] = False
    refused[no_count, trio.absolute] = False
    if no_share.any():
        n = int(no_share.sum())
        out.whole(trio.percent_name, "derived", f"computed from {trio.absolute_name} and {trio.whole_name} in {n} rows")
    if no_count.any():
        n = int(no_count.sum())
        out.whole(trio.absolute_name, "derived", f"computed from {trio.percent_name} and {trio.whole_name} in {n} rows")


def _sums(percent: Floats, told: Bools, out: Findings) -> None:
    """Report percentages ``(n, parts)`` that are too many, or so few that they may be fractions.

    ``told``: an absolute count of the row, which would have contradicted a fraction.
    """
    total = np.nansum(percent, axis=1)
    out.each(
        np.flatnonzero(total > 101),
        "",
        "inconsistent",
        None,
        lambda row: f"the percentages add up to {total[row]:.4g}; all are kept, since nothing shows which is wrong",
    )
    several = (~np.isnan(percent)).sum(axis=1) > 1
    between = ((percent > 0) & (percent < 1)).any(axis=1)
    out.each(
        np.flatnonzero(several & between & ~told & (np.nan_to_num(percent).max(axis=1) <= 1)),
        "",
        "ambiguous",
        None,
        lambda row: "no percentage is above 1; they are taken as percent, not as fractions of the white cells",
    )
