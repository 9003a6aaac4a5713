"""The out-of-distribution score: calibrated on validation cells, the same in any company, true to its formula."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.cells.out_of_distribution import CUT_OFF, OutOfDistribution, fit_out_of_distribution

D, CLASSES = 12, 3


def _cells(seed: int, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    embedding = rng.normal(size=(n, D)) * np.linspace(0.3, 2, D) + 6 * np.eye(CLASSES, D)[labels] + shift
    p = rng.dirichlet(np.ones(CLASSES) * 0.3, n)
    return labels, p.astype(np.float32), embedding.astype(np.float16)


@pytest.fixture(scope="module")
def score() -> OutOfDistribution:
    labels, _, train = _cells(0, 3000)
    _, p, val = _cells(1, 2000)
    return fit_out_of_distribution(train, labels, p, val)


def test_the_percentile_of_new_cells_of_the_same_kind_is_uniform(score: OutOfDistribution) -> None:
    _, p, embedding = _cells(2, 4000)
    found = score.percentile(p, embedding)
    assert found.dtype == np.float32
    for level in (0.1, 0.5, 0.9, CUT_OFF):
        assert (found <= level).mean() == pytest.approx(level, abs=0.03)


def test_cells_far_away_are_unusual_and_still_ranked(score: OutOfDistribution) -> None:
    _, p, near = _cells(3, 200, shift=6)
    _, _, far = _cells(3, 200, shift=9)
    low, high = score.percentile(p, near), score.percentile(p, far)
    assert (low > CUT_OFF).mean() > 0.95
    assert (high >= low).all()
    assert (high <= 1).all()
    assert score.score(p, far).mean() > score.score(p, near).mean()


def test_doubt_alone_raises_the_score(score: OutOfDistribution) -> None:
    _, _, embedding = _cells(4, 50)
    sure = np.tile(np.array([1, 0, 0], np.float32), (50, 1))
    torn = np.full((50, 3), 1 / 3, np.float32)
    assert (score.score(torn, embedding) > score.score(sure, embedding)).all()


def test_the_distance_is_mahalanobis_where_all_directions_are_kept(score: OutOfDistribution) -> None:
    labels, _, train = _cells(0, 3000)
    wide = train.astype(np.float64)
    means = np.stack([wide[labels == c].mean(axis=0) for c in range(CLASSES)])
    residual = wide - means[labels]
    inverse = np.linalg.inv(residual.T @ residual / len(residual))
    _, _, new = _cells(5, 40)
    off = new.astype(np.float64)[:, None] - means
    squared = np.einsum("ncd,de,nce->nc", off, inverse, off).min(axis=1)
    np.testing.assert_allclose(score._distance(new), 0.5 * np.log(squared), rtol=2e-3)


def test_a_cell_scores_the_same_in_any_company(score: OutOfDistribution) -> None:
    _, p, embedding = _cells(6, 600)
    whole = score.score(p, embedding)
    np.testing.assert_array_equal(whole[300:307], score.score(p[300:307], embedding[300:307]))
    assert score.score(p[:0], embedding[:0]).shape == (0,)


def test_it_survives_being_stored(score: OutOfDistribution) -> None:
    _, p, embedding = _cells(7, 20)
    again = OutOfDistribution.of_tensors(score.to_tensors())
    np.testing.assert_array_equal(again.percentile(p, embedding), score.percentile(p, embedding))
    with pytest.raises(KeyError):
        OutOfDistribution.of_tensors({"means": score.means})
