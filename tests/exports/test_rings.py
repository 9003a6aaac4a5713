"""Points on straight lines go, and nothing else changes."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsi_pipeline.exports.rings import corners

_step = st.tuples(st.integers(-4, 4), st.integers(-4, 4))
_ring = st.lists(_step, min_size=3, max_size=14)


@settings(max_examples=400, deadline=None)
@given(rings=st.lists(_ring, min_size=1, max_size=4), at=st.sampled_from([0.0, 1e5, 9e8]))
@example(rings=[[(0, 0), (0, 0), (1, 0), (2, 0), (2, 2), (2, 2), (0, 2), (0, 1)]], at=0.0)
@example(rings=[[(1, 0), (2, 0), (2, 2), (0, 2), (0, 0)]], at=0.0)
@example(rings=[[(-4, 0), (0, 0), (2, 3), (0, 2)]], at=0.0)
def test_rings_cover_the_same_points_with_fewer(rings: list[list[tuple[int, int]]], at: float) -> None:
    closed = [np.array([*ring, ring[0]], float) / 100 + at for ring in rings]
    starts = np.concatenate([[0], np.cumsum([len(ring) for ring in closed])])
    xy, left = corners(np.concatenate(closed), starts)
    assert len(left) == len(starts)
    for number, ring in enumerate(closed):
        found = xy[left[number] : left[number + 1]]
        assert np.array_equal(found[0], found[-1])
        assert {tuple(p) for p in found} <= {tuple(p) for p in np.rint(ring * 100) / 100}
        # In units of the grid, where points on a straight line are so exactly.
        before = shapely.Polygon(np.rint(ring * 100))
        if not before.is_valid or before.area == 0:
            continue
        after = shapely.Polygon(np.rint(found * 100))
        assert after.is_valid
        assert after.equals(before)
        simplest = shapely.simplify(before, 0).normalize()
        assert len(found) <= len(simplest.exterior.coords)
