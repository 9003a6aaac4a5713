"""The shipped cutouts: reserved, small, sane, and enough of them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from wsi_pipeline.simulation import is_reserved
from wsi_pipeline.simulation.sprites import ASSETS_FOLDER, load_sprites

SIZES_UM = {
    "white": (4.5, 30),
    "red": (3.4, 10.5),
    "platelet": (1.2, 10),
    "nucleus": (4, 16),
    "megakaryocyte": (13, 40),
}


def test_every_source_is_reserved() -> None:
    assert all(is_reserved(sprite.source) for sprite in load_sprites())


def test_the_assets_are_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS_FOLDER.iterdir()) < 6e6


def test_there_are_enough_of_every_class() -> None:
    counts = Counter((s.class_name, s.variant) for s in load_sprites())
    for name in ("band_neutrophil", "eosinophil", "erythroblast", "lymphocyte", "myelocyte"):
        assert counts[name, ""] >= 50
    for name in ("segmented_neutrophil", "monocyte"):
        assert counts[name, ""] >= 45
    for name, least in (("metamyelocyte", 40), ("basophil", 35), ("promyelocyte", 20), ("blast", 14)):
        assert counts[name, ""] >= least
    assert counts["red_cell", ""] >= 100
    assert counts["red_cell", "abnormal"] >= 30
    assert counts["platelet", ""] >= 30
    assert counts["platelet", "giant"] >= 12
    assert counts["artefact", "smudge"] >= 12


def test_cells_have_the_size_of_cells_and_lie_whole_in_their_box() -> None:
    for sprite in load_sprites():
        low, high = SIZES_UM[sprite.kind]
        assert low <= 2 * sprite.radius_um <= high, (sprite.source, sprite.kind, sprite.radius_um)
        rim = np.concatenate([sprite.absorbed[0], sprite.absorbed[-1], sprite.absorbed[:, 0], sprite.absorbed[:, -1]])
        assert np.abs(rim).max() < 0.5, sprite.source
