"""Labels of smear fields: what a person or the shape vouches for is labelled, the rest is unknown."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.training.segmentation import smear_labels
from wsi_pipeline.training.segmentation.data import IGNORE, SMEAR_KINDS, fold_of, read_rgb, split_of
from wsi_pipeline.training.segmentation.smear_labels import bccd_sample, rbc_sample, read_boxes

RED, PLATELET = SMEAR_KINDS.index("red"), SMEAR_KINDS.index("platelet")
GLASS, CELL, PURPLE = (235, 232, 228), (205, 150, 150), (120, 70, 150)


def field(discs: list[tuple[int, int, int, tuple[int, int, int]]], shape: tuple[int, int] = (480, 640)) -> np.ndarray:
    rgb = np.full((*shape, 3), GLASS, np.uint8)
    for x, y, radius, colour in discs:
        cv2.circle(rgb, (x, y), radius, colour, -1)
    noise = np.random.default_rng(0).integers(-2, 3, rgb.shape)
    return np.clip(cv2.GaussianBlur(rgb, (0, 0), 1).astype(int) + noise, 0, 255).astype(np.uint8)


def write_rbc(root: Path, stem: str, rgb: np.ndarray, points: list[tuple[int, int]]) -> None:
    (root / "rbc-morphology" / "images").mkdir(parents=True, exist_ok=True)
    (root / "rbc-morphology" / "points").mkdir(exist_ok=True)
    cv2.imwrite(str(root / "rbc-morphology" / "images" / f"{stem}.png"), rgb[..., ::-1])
    text = "".join(f"{x} {y} 1\n" for x, y in points)
    (root / "rbc-morphology" / "points" / f"{stem}.txt").write_text(text)


MARKED = [(60 + 90 * i, 60, 20, CELL) for i in range(6)]
UNMARKED_ONE = (100, 200, 20, CELL)
UNMARKED_PAIR = [(300, 200, 20, CELL), (330, 200, 20, CELL)]
MARKED_PAIR = [(450, 200, 20, CELL), (482, 200, 20, CELL)]
BLUE_CELL = (100, 330, 28, PURPLE)
SMALL_BLUE = (300, 330, 7, PURPLE)


@pytest.fixture
def partial(tmp_path: Path):
    rgb = field([*MARKED, UNMARKED_ONE, *UNMARKED_PAIR, *MARKED_PAIR, BLUE_CELL, SMALL_BLUE])
    points = [(x, y) for x, y, _, _ in [*MARKED, *MARKED_PAIR]]
    write_rbc(tmp_path, "partial", rgb, points)
    return rbc_sample(tmp_path, "partial")


def test_marked_cells_and_single_shapes_are_red_cells(partial) -> None:
    for x, y, _, _ in [*MARKED, UNMARKED_ONE, *MARKED_PAIR]:
        assert partial.labels[y, x] > 0
        assert partial.kinds[y, x] == RED
        assert partial.known[y, x]
    a, b = (partial.labels[y, x] for x, y, _, _ in MARKED_PAIR)
    assert a != b


def test_what_nobody_vouches_for_is_unknown(partial) -> None:
    for x, y, _, _ in [*UNMARKED_PAIR, BLUE_CELL]:
        assert partial.labels[y, x] == 0
        assert not partial.known[y, x]
        assert partial.kinds[y, x] == IGNORE


def test_a_small_bluer_thing_is_a_platelet_and_glass_is_glass(partial) -> None:
    x, y, _, _ = SMALL_BLUE
    assert partial.kinds[y, x] == PLATELET
    assert partial.known[240, 20]
    assert partial.kinds[240, 20] == 0


def test_a_mark_that_swallows_its_neighbour_is_not_trusted(tmp_path: Path) -> None:
    points = [(x, y) for x, y, _, _ in [*MARKED, MARKED_PAIR[0]]]
    write_rbc(tmp_path, "swallowed", field([*MARKED, *MARKED_PAIR]), points)
    sample = rbc_sample(tmp_path, "swallowed")
    for x, y, _, _ in MARKED_PAIR:
        assert sample.labels[y, x] == 0
        assert not sample.known[y, x]


def test_complete_fields_take_every_point_at_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smear_labels, "COMPLETE_RBC_FIELDS", ("full",))
    write_rbc(tmp_path, "full", field([*MARKED, UNMARKED_ONE]), [(x, y) for x, y, _, _ in MARKED])
    sample = rbc_sample(tmp_path, "full")
    assert len(np.unique(sample.labels)) - 1 == len(MARKED)
    assert not sample.known[UNMARKED_ONE[1], UNMARKED_ONE[0]]


def voc(boxes: list[tuple[str, int, int, int, int]]) -> str:
    items = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for n, a, b, c, d in boxes
    )
    return f"<annotation>{items}</annotation>"


def test_overlapping_red_cells_are_told_apart_by_their_boxes(tmp_path: Path) -> None:
    for name in ("fields", "boxes", "wbc_masks"):
        (tmp_path / "bccd" / name).mkdir(parents=True)
    centres = [(200, 200), (280, 200), (450, 300), (100, 380), (560, 100), (560, 380)]
    discs = [(x, y, 50, CELL) for x, y in centres]
    rgb = field(discs)
    cv2.imwrite(str(tmp_path / "bccd" / "fields" / "B_00001.jpg"), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    boxes = [("RBC", x - 50, y - 50, x + 50, y + 50) for x, y in centres[:4]]
    (tmp_path / "bccd" / "boxes" / "B_00001.xml").write_text(voc(boxes))
    sample = bccd_sample(tmp_path, "B_00001")
    at = [sample.labels[y // 2, x // 2] for x, y in centres]
    assert len(set(at[:4])) == 4
    assert min(at[:4]) > 0
    assert at[4:] == [0, 0]
    assert not sample.known[50, 280]
    area = (sample.labels == at[2]).sum()
    assert area == pytest.approx(np.pi * 25**2, rel=0.12)


def test_boxes_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"a\.xml cannot be read"):
        read_boxes(tmp_path / "a.xml")
    with pytest.raises(DataError, match=r"b\.xml cannot be read"):
        read_boxes(tmp_path / "b.xml")


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png"):
        read_rgb(tmp_path / "a.png")


def test_folds_are_even_and_keep_near_duplicates_together() -> None:
    names = [f"bccd/fields/BloodImage_{i:05d}.jpg" for i in range(364)]
    counts = np.bincount([fold_of(n, 3) for n in names], minlength=3)
    assert counts.min() > 90
    pair = ("bccd/fields/BloodImage_00037.jpg", "bccd/fields/BloodImage_00038.jpg")
    assert len({fold_of(n, 7) for n in pair}) == len({split_of(n) for n in pair}) == 1
