"""Confidence intervals of counts and of fractions."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a fraction.

    Parameters
    ----------
    k, n
        Cells (or patients) of the kind asked about, and all counted. ``k`` need not be whole: it may be a mean over
        repeats.
    confidence
        Two-sided level, between 0 and 1.

    Returns
    -------
    lower, upper
        Fractions, 0 to 1, with ``lower <= k / n <= upper``. Without a single cell nothing is known: ``(0, 1)``.

    Raises
    ------
    ValueError
        ``k`` is not between 0 and ``n``, or ``confidence`` not between 0 and 1.

    Examples
    --------
    Five blasts among 100 cells, in percent:

    >>> [round(100 * end, 1) for end in wilson(5, 100)]
    [2.2, 11.2]

    References
    ----------
    Wilson EB. J Am Stat Assoc 1927;22:209-212. Brown, Cai, DasGupta. Stat Sci 2001;16:101-133.
    """
    if not 0 <= k <= n:
        raise ValueError(f"a count must lie between 0 and the total: {k} of {n}")
    z = _z(confidence)
    if n == 0:
        return 0.0, 1.0
    p = k / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The ends are exact where the formula is exact and rounding is not.
    lower = 0.0 if k == 0 else min(p, (centre - half) / scale)
    upper = 1.0 if k == n else max(p, (centre + half) / scale)
    return lower, upper


def ratio(a: int, b: int, confidence: float = 0.95) -> tuple[float | None, float, float | None]:
    """Return ``a / b`` and its interval, for cells of two kinds met on the same slide.

    The interval of ``a / (a + b)`` (Wilson) is carried over to the odds, which is exact since the map is monotone.

    Returns
    -------
    value, lower, upper
        None stands for infinite or undefined (``b`` is 0, or its share may be 0).
    """
    low, high = wilson(a, a + b, confidence)
    return (
        a / b if b else None,
        low / (1 - low) if low < 1 else 0.0,
        high / (1 - high) if high < 1 else None,
    )


def poisson(k: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact (Garwood) interval of the mean of a Poisson count.

    Cells that lie clumped vary more than a Poisson count, so on a bad spread this is a lower bound of the
    uncertainty.

    References
    ----------
    Garwood F. Biometrika 1936;28:437-442.
    """
    from scipy.stats import chi2

    if k < 0:
        raise ValueError(f"a count is not negative: {k}")
    _z(confidence)
    tail = (1 - confidence) / 2
    lower = 0.0 if k == 0 else float(chi2.ppf(tail, 2 * k)) / 2
    return lower, float(chi2.ppf(1 - tail, 2 * (k + 1))) / 2


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1: {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)
