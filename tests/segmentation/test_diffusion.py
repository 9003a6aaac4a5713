"""Flows of masks: Cellpose's where cells lie apart, and the cell's alone where they touch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from wsi_pipeline.segmentation.diffusion import bounding_boxes, labels_to_flows, mask_flow

Labels = npt.NDArray[np.int32]


def ellipses(shape: tuple[int, int], cells: list[tuple[float, float, float, float]]) -> Labels:
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for k, (cy, cx, ry, rx) in enumerate(cells, 1):
        labels[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = k
    return labels


def cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating], where: npt.NDArray[np.bool_]) -> np.ndarray:
    return (a * b).sum(axis=0)[where] / np.maximum(1e-9, np.hypot(*a)[where] * np.hypot(*b)[where])


def cellpose_flows(labels: Labels, niter: int | None = None) -> npt.NDArray[np.float32]:
    import torch
    from cellpose import dynamics

    return np.asarray(dynamics.masks_to_flows_gpu(labels, device=torch.device("cpu"), niter=niter)[0])


# As many steps as Cellpose takes for the largest of the image: equal sizes, so that both take the same number.
SEPARATE = ellipses((120, 150), [(20, 25, 12, 12), (25, 90, 12, 12), (80, 30, 12, 12), (85, 110, 12, 12)])
MIXED = ellipses((120, 150), [(20, 25, 12, 12), (25, 90, 15, 8), (80, 30, 6, 20), (85, 110, 20, 18), (50, 60, 3, 3)])


def test_equal_separate_cells_have_cellposes_flows() -> None:
    ours, theirs = labels_to_flows(SEPARATE), cellpose_flows(SEPARATE)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_separate_cells_of_any_size_have_cellposes_flows_but_for_the_number_of_steps() -> None:
    """Ours takes as many steps as the cell needs, Cellpose as many as its largest neighbour needs."""
    ours, theirs = labels_to_flows(MIXED), cellpose_flows(MIXED)
    for k in range(1, 6):
        same = cosine(ours, theirs, k == MIXED)
        # All but the centre, which stands still in one and hardly moves in the other.
        assert np.sort(same)[3:].min() > 0.99, k
        assert np.median(same) > 0.999, k


def test_a_cells_flow_does_not_depend_on_its_neighbours() -> None:
    """The deliberate difference: with a giant beside it, or touching it, a cell keeps its flow to the bit."""
    alone = ellipses((90, 140), [(30, 30, 12, 9)])
    beside = alone.copy()
    beside[20:80, 90:138] = 2
    touching = alone.copy()
    touching[5:60, 39:60][touching[5:60, 39:60] == 0] = 2
    cell = alone == 1
    expected = labels_to_flows(alone)[:, cell]
    np.testing.assert_array_equal(labels_to_flows(beside)[:, cell], expected)
    np.testing.assert_array_equal(labels_to_flows(touching)[:, cell], expected)
    assert not np.array_equal(cellpose_flows(beside)[:, cell], cellpose_flows(alone)[:, cell])


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(0, 25), st.integers(0, 25), st.integers(0, 25), st.integers(0, 25)),
)
def test_a_cells_flow_does_not_depend_on_its_place(seed: int, pad: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    cells = [(*rng.uniform(0, 50, 2), *rng.uniform(1.5, 12, 2)) for _ in range(4)]
    labels = ellipses((50, 50), cells)
    padded = np.pad(labels, (pad[:2], pad[2:]))
    moved = labels_to_flows(padded)[:, pad[0] : pad[0] + 50, pad[2] : pad[2] + 50]
    np.testing.assert_array_equal(moved, labels_to_flows(labels))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_flows_are_unit_vectors_on_cells_and_zero_elsewhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = ellipses((60, 60), [(*rng.uniform(0, 60, 2), *rng.uniform(1, 14, 2)) for _ in range(6)])
    for k in range(1, 7):
        # Heat never reaches a fragment that does not touch the rest.
        if ndi.label(labels == k, np.ones((3, 3)))[1] > 1:
            labels[labels == k] = 0
    flow = labels_to_flows(labels)
    assert flow.dtype == np.float32
    length = np.hypot(*flow)
    assert (length[labels == 0] == 0).all()
    on = length[labels > 0]
    assert np.all(np.isclose(on, 1, atol=1e-5) | (on == 0))
    assert (on == 0).sum() <= 6 * 4, "only a cell's centre may stand still"


def test_a_ring_is_followed_around_its_hole() -> None:
    """The centre of mass lies outside the mask: heat starts at the nearest mask pixel and flows along the ring."""
    y, x = np.mgrid[:40, :40]
    distance = np.hypot(y - 20, x - 20)
    ring = (distance < 14) & (distance > 9)
    flow = mask_flow(ring)
    opposite = ring & (np.hypot(*flow) > 0)
    assert opposite.sum() >= ring.sum() - 4
    # Nothing points into the hole for good: the flow at the far side runs along the ring.
    tangent = np.stack([x - 20, -(y - 20)]) / np.maximum(distance, 1)
    assert np.abs((flow * tangent).sum(axis=0))[ring].mean() > 0.6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_any_integer_labels(dtype: type) -> None:
    np.testing.assert_array_equal(labels_to_flows(MIXED.astype(dtype)), labels_to_flows(MIXED))


def test_no_cells_no_flow() -> None:
    assert not labels_to_flows(np.zeros((5, 7), np.int32)).any()
    assert labels_to_flows(np.zeros((0, 0), np.int32)).shape == (2, 0, 0)


def test_bounding_boxes_are_those_of_scipy() -> None:
    labels = MIXED.copy()
    labels[labels == 2] = 0
    boxes = bounding_boxes(labels, 6)
    for k, slices in enumerate(ndi.find_objects(labels, 6), 1):
        if slices is None:
            assert boxes[k, 2] <= boxes[k, 0]
        else:
            assert boxes[k].tolist() == [slices[0].start, slices[1].start, slices[0].stop, slices[1].stop]
