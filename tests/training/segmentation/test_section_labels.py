"""Labels of section fields, and virtual fields: known kinds, unknown doubt, no reserved image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation import is_reserved
from wsi_pipeline.training.segmentation import section_labels, virtual_fields
from wsi_pipeline.training.segmentation.data import IGNORE, SECTION_KINDS, Sample
from wsi_pipeline.training.segmentation.section_labels import section_sample
from wsi_pipeline.training.segmentation.virtual_fields import virtual_sections


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = tmp_path / "tissue-nuclei"
    (base / "images").mkdir(parents=True)
    (base / "labels").mkdir()
    rgb = np.full((200, 240, 3), (238, 234, 240), np.uint8)
    labels = np.zeros((200, 240), np.uint16)
    places = [(40, 40, 10), (90, 40, 10), (140, 40, 10), (190, 40, 10), (60, 120, 26), (160, 120, 26)]
    for k, (x, y, r) in enumerate(places, 1):
        cv2.circle(rgb, (x, y), r, (110, 60, 150), -1)
        cv2.circle(labels, (x, y), r, k, -1)
    cv2.imwrite(str(base / "images" / "field.png"), rgb[..., ::-1])
    cv2.imwrite(str(base / "labels" / "field.png"), labels)
    monkeypatch.setitem(section_labels.MEGAKARYOCYTES, "field", (5,))
    monkeypatch.setitem(section_labels.DOUBTFUL, "field", (6,))
    return tmp_path


def test_kinds_of_a_section(root: Path) -> None:
    sample = section_sample(root, "field")
    assert sample.kinds[40, 40] == SECTION_KINDS.index("nucleus")
    assert sample.kinds[120, 60] == SECTION_KINDS.index("megakaryocyte")
    assert sample.kinds[120, 160] == IGNORE
    assert sample.known.all()
    assert sample.mpp == pytest.approx(7 / 21, rel=0.05)


def test_a_missing_instance_map(root: Path) -> None:
    (root / "tissue-nuclei" / "labels" / "field.png").unlink()
    with pytest.raises(DataError, match="instance map is missing"):
        section_sample(root, "field")


def test_virtual_sections_show_cells_of_training_fields_only(root: Path) -> None:
    sample = section_sample(root, "field")
    training = Sample(**{**vars(sample), "split": "train"})
    fields = virtual_sections([training], 2)
    assert {f.split for f in fields} == {"train"}
    for field in fields:
        assert field.labels.max() > 20
        assert ((field.kinds > 0) == (field.labels > 0)).all()
    assert any((f.kinds == SECTION_KINDS.index("megakaryocyte")).any() for f in fields)
    again = virtual_sections([training], 2)
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(fields, again, strict=True))
    with pytest.raises(Exception, match="nucleus"):
        virtual_sections([Sample(**{**vars(sample), "split": "test"})], 1)


@pytest.mark.data
def test_virtual_smears_are_made_of_training_images(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_fields, "_IMAGES_PER_CLASS", 2)
    sprites = list(virtual_fields._smear_sprites(data_root))
    assert {s.kind for s in sprites} == {"white", "red", "platelet"}
    assert not any(is_reserved(s.source) for s in sprites)
    (field,) = virtual_fields.virtual_smears(data_root, 1)
    assert field.name == "virtual/0"
    assert field.labels.max() > 10
    assert set(np.unique(field.kinds)) <= {0, 1, 2, 3, 4, IGNORE}
    assert (field.kinds[field.labels == 0] == 0).all()
