"""Intervals against published values and against their definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import poisson as poisson_law

from wsi_pipeline.predictions.intervals import poisson, ratio, wilson


@pytest.mark.parametrize(
    ("k", "n", "lower", "upper"),
    # Newcombe, Stat Med 1998;17:857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published_values(k: int, n: int, lower: float, upper: float) -> None:
    assert wilson(k, n) == pytest.approx((lower, upper), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 5000), st.data())
def test_wilson_agrees_with_scipy_and_holds_the_fraction(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    confidence = data.draw(st.sampled_from([0.8, 0.95, 0.99]))
    lower, upper = wilson(k, n, confidence)
    reference = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (lower, upper) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert 0 <= lower <= k / n <= upper <= 1
    mirrored = wilson(n - k, n, confidence)
    assert mirrored == pytest.approx((1 - upper, 1 - lower), abs=1e-12)


def test_wilson_without_cells_knows_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_ends_are_exact() -> None:
    assert wilson(0, 7)[0] == 0
    assert wilson(7, 7)[1] == 1


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0), (1, 5, 0.0)])
def test_wilson_refuses_nonsense(k: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        wilson(k, n, confidence)


@settings(deadline=None)
@given(st.integers(0, 3000), st.sampled_from([0.9, 0.95]))
def test_poisson_is_exact(k: int, confidence: float) -> None:
    lower, upper = poisson(k, confidence)
    tail = (1 - confidence) / 2
    assert poisson_law.cdf(k, upper) == pytest.approx(tail, rel=1e-6)
    if k:
        assert poisson_law.sf(k - 1, lower) == pytest.approx(tail, rel=1e-6)
    else:
        assert lower == 0


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_ratio_holds_its_value(a: int, b: int) -> None:
    value, lower, upper = ratio(a, b)
    assert value == (a / b if b else None)
    assert lower >= 0
    if value is not None and upper is not None:
        assert lower <= value * (1 + 1e-9)
        assert value <= upper * (1 + 1e-9)
    # Swapping the kinds inverts the interval.
    _, swapped_lower, swapped_upper = ratio(b, a)
    if upper:
        assert swapped_lower == pytest.approx(1 / upper, rel=1e-6)
    if swapped_upper:
        assert lower == pytest.approx(1 / swapped_upper, rel=1e-6)


def test_ratio_without_a_partner_is_unbounded() -> None:
    assert ratio(5, 0)[::2] == (None, None)
    assert math.isfinite(ratio(5, 0)[1])
