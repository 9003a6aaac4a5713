"""Reference cells: nearest neighbours, places on the map, pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wsi_pipeline.cells.reference import THUMB_PX, Reference, picture_sheet
from wsi_pipeline.errors import DataError


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(0)
    m = 70
    grey = np.linspace(20, 235, m).astype(np.uint8)
    embedding = rng.normal(size=(m, 3)).astype(np.float16)
    unit = embedding / np.linalg.norm(embedding.astype(np.float64), axis=1, keepdims=True)
    return Reference(
        embedding=embedding,
        place=((unit[:, :2] + 1) / 2).astype(np.float32),
        class_index=rng.integers(0, 2, m).astype(np.uint8),
        source_index=np.zeros(m, np.uint8),
        sheet=picture_sheet(np.broadcast_to(grey[:, None, None, None], (m, THUMB_PX, THUMB_PX, 3))),
        classes=("blast", "lymphocyte"),
        sources=("pbc",),
    )


def test_neighbours_are_those_of_brute_force(reference: Reference) -> None:
    new = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float16)
    found = reference.neighbours(new, 4)
    a, b = new.astype(np.float64), reference.embedding.astype(np.float64)
    cosine = 1 - (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    np.testing.assert_array_equal(found.index, np.argsort(cosine, axis=1)[:, :4])
    np.testing.assert_allclose(found.distance, np.sort(cosine, axis=1)[:, :4], atol=1e-6)
    np.testing.assert_array_equal(found.classes, reference.class_names[found.index])
    share = found.agreement(np.full(300, "blast"))
    np.testing.assert_allclose(share, (reference.class_index[found.index] == 0).mean(axis=1))


def test_a_reference_cell_lies_next_to_its_own_place(reference: Reference) -> None:
    own = reference.places(reference.embedding)
    others = reference.places(-reference.embedding)
    apart = [np.linalg.norm(found - reference.place, axis=1).mean() for found in (own, others)]
    assert apart[0] < apart[1] / 2
    assert ((own >= 0) & (own <= 1)).all()
    np.testing.assert_array_equal(own[5:6], reference.places(reference.embedding[5:6]))


def test_pictures(reference: Reference) -> None:
    picture = reference.picture(40)
    assert picture is not None
    assert picture.shape == (THUMB_PX, THUMB_PX, 3)
    assert abs(int(picture.mean()) - int(np.linspace(20, 235, 70)[40])) <= 2
    assert replace(reference, sheet=np.zeros(0, np.uint8)).picture(40) is None


@pytest.mark.parametrize("k", [0, 71])
def test_impossible_numbers_of_neighbours(reference: Reference, k: int) -> None:
    with pytest.raises(DataError, match="1 to 70 are possible"):
        reference.neighbours(reference.embedding, k)
