"""Readers: conventions of mask files, pairing, points, class folders, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation import pair_folders, read_class_folders, read_image, read_mask, read_points
from wsi_pipeline.taxonomies import load_taxonomy

SHAPE = (40, 60)


def cells(*values: int, dtype: type = np.uint16) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype)
    for i, value in enumerate(values):
        mask[5:15, 5 + 12 * i : 15 + 12 * i] = value
    return mask


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.npy"])
def test_instance_images(tmp_path: Path, name: str) -> None:
    labels = read_mask(save(tmp_path / name, cells(3, 700, 9)), SHAPE)
    assert labels.dtype == np.int32
    assert list(np.unique(labels)) == [0, 1, 2, 3]
    assert len(np.unique(labels[cells(3, 700, 9) == 700])) == 1


def test_touching_instances_stay_apart(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint16)
    mask[5:15, 5:15], mask[5:15, 15:25] = 1, 2
    mask[20:30, 5:15] = 4
    assert read_mask(save(tmp_path / "m.tif", mask), SHAPE).max() == 3


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
def test_binary_masks_are_split_into_components(tmp_path: Path, dtype: type) -> None:
    mask = cells(1, 1, 1, dtype=dtype) * (255 if dtype is np.uint8 else 1)
    assert read_mask(save(tmp_path / "m.npy", mask), SHAPE).max() == 3


def test_components_touch_by_sides_only_and_specks_go(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:15, 5:15] = mask[15:25, 15:25] = 255
    mask[30:33, 40:43] = 255
    assert read_mask(save(tmp_path / "m.png", mask), SHAPE).max() == 2


def test_binary_mask_saved_as_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "m.jpg"
    Image.fromarray(cells(255, 255, dtype=np.uint8)).save(path, quality=60)
    assert len(np.unique(np.asarray(Image.open(path)))) > 2
    labels = read_mask(path, SHAPE)
    assert labels.max() == 2
    assert abs(int((labels > 0).sum()) - 200) < 20


@pytest.mark.parametrize("grey", [128, 155])
@pytest.mark.parametrize("name", ["m.png", "m.jpg"])
def test_three_levels_are_nucleus_and_cytoplasm(tmp_path: Path, grey: int, name: str) -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[40:100, 40:100] = grey
    mask[55:85, 55:85] = 255
    path = tmp_path / name
    Image.fromarray(mask).save(path, **({"quality": 95} if name == "m.jpg" else {}))
    cell, nucleus = read_mask(path, (200, 200)), read_mask(path, (200, 200), part="nucleus")
    assert cell.max() == nucleus.max() == 1
    assert (cell > 0).sum() == pytest.approx(3600, rel=0.06)
    assert (nucleus > 0).sum() == pytest.approx(900, rel=0.08)


def test_eight_bit_instance_images(tmp_path: Path) -> None:
    assert read_mask(save(tmp_path / "a.png", cells(1, 2, 3, dtype=np.uint8)), SHAPE).max() == 3
    many = np.zeros((160, 160), np.uint8)
    for i in range(230):
        many[10 * (i // 16) : 10 * (i // 16) + 9, 10 * (i % 16) : 10 * (i % 16) + 9] = i + 1
    assert read_mask(save(tmp_path / "b.png", many), (160, 160)).max() == 230


def test_grey_triplicated_and_empty_masks(tmp_path: Path) -> None:
    rgb = np.repeat(cells(255, 255, dtype=np.uint8)[..., None], 3, axis=2)
    assert read_mask(save(tmp_path / "a.png", rgb), SHAPE).max() == 2
    assert read_mask(save(tmp_path / "b.png", np.zeros(SHAPE, np.uint8)), SHAPE).max() == 0
    assert read_mask(save(tmp_path / "c.npy", cells(1, 2, 3).astype(float)), SHAPE).max() == 3


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("m.png", np.zeros((10, 10), np.uint8), "its image 60 x 40"),
        ("m.npy", np.full(SHAPE, 0.5), "whole numbers"),
        ("m.npy", np.full(SHAPE, -1), "negative"),
        ("m.npy", np.zeros((2, 3, 4, 5), np.uint8), "one value a pixel"),
        ("m.png", np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8), "one value a pixel"),
    ],
)
def test_unusable_masks(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_mask(save(tmp_path / name, array), SHAPE)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["m.png", "m.npy", "m.tif", "m.jpg"])
@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n\0\0"])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_mask(tmp_path / name, SHAPE)
    if name != "m.npy":
        with pytest.raises(DataError, match="cannot be read"):
            read_image(tmp_path / name)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_mask(tmp_path / "m.npy", SHAPE)


def test_images_become_rgb(tmp_path: Path) -> None:
    grey = np.full(SHAPE, 77, np.uint8)
    rgba = np.zeros((*SHAPE, 4), np.uint8)
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(save(tmp_path / name, grey)), np.full((*SHAPE, 3), 77))
        # Fully transparent black is white.
        assert read_image(save(tmp_path / f"t{name}", rgba)).min() == 255
    with pytest.raises(DataError, match="8-bit"):
        read_image(save(tmp_path / "d.tif", np.zeros(SHAPE, np.uint16)))
    with pytest.raises(DataError, match="8-bit"):
        read_image(save(tmp_path / "d.png", np.zeros(SHAPE, np.uint16)))


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_pairs_by_stem_then_word_then_number(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "Image_00005.jpg", "b.png", "c.tif", "lonely.png", "notes.md")
    masks = touch(tmp_path / "m", "Image_Mask_00005.png", "b.npy", "c_masks.tif", "Image_Mask_00096.png")
    found = pair_folders(images, masks)
    assert {p.name: p.truth.name for p in found.pairs} == {
        "Image_00005": "Image_Mask_00005.png",
        "b": "b.npy",
        "c": "c_masks.tif",
    }
    assert [p.name for p in found.images_alone] == ["lonely.png"]
    assert [p.name for p in found.truths_alone] == ["Image_Mask_00096.png"]


def test_a_number_that_is_not_unique_pairs_nothing(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a_1.png", "b_1.png", "c.png")
    found = pair_folders(images, touch(tmp_path / "m", "x_1.png", "c.png"))
    assert [p.name for p in found.pairs] == ["c"]
    assert len(found.images_alone) == 2


def test_equal_stems_win_over_numbers(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a_1.png", "b_2.png")
    found = pair_folders(images, touch(tmp_path / "m", "b_2.png", "other_1.png"))
    assert {p.name: p.truth.name for p in found.pairs} == {"a_1": "other_1.png", "b_2": "b_2.png"}


def test_pairing_refusals(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png")
    with pytest.raises(DataError, match="not a folder"):
        pair_folders(images, tmp_path / "absent")
    with pytest.raises(DataError, match="holds no masks"):
        pair_folders(images, touch(tmp_path / "empty"))
    with pytest.raises(DataError, match="give both files one stem"):
        pair_folders(images, touch(tmp_path / "m", "b.png"))
    with pytest.raises(DataError, match="have one stem"):
        pair_folders(touch(tmp_path / "twice", "a.png", "a.jpg"), images)
    with pytest.raises(DataError, match="two folders"):
        pair_folders(images, images)


def points(tmp_path: Path, text: str) -> tuple[list[list[float]], tuple[str, ...] | None]:
    path = tmp_path / "p.txt"
    path.write_text(text, encoding="utf-8")
    found = read_points(path)
    return found.xy.tolist(), found.classes


def test_points_with_and_without_header(tmp_path: Path) -> None:
    assert points(tmp_path, "77 363 3\n147 279 12\n") == ([[77, 363], [147, 279]], ("3", "12"))
    assert points(tmp_path, "x,y\n1.5,2\n\n3,4\n") == ([[1.5, 2], [3, 4]], None)
    assert points(tmp_path, "2 3 0\n40 23 1\n94 11 1\n") == ([[40, 23], [94, 11]], ("1", "1"))
    assert points(tmp_path, "\ufeff1;2\r\n3\t4\r\n") == ([[1, 2], [3, 4]], None)
    assert points(tmp_path, "") == ([], None)


def test_a_first_point_is_not_taken_for_a_header(tmp_path: Path) -> None:
    assert points(tmp_path, "1 2\n3 4\n")[0] == [[1, 2], [3, 4]]
    # Two lines follow, but they have three columns, not nine.
    assert len(points(tmp_path, "2 9 0\n40 23 1\n94 11 1\n")[0]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\nfoo bar\n", "line 2"),
        ("1 2\n3\n", "line 2"),
        ("1 2 3 4\n", "line 1"),
        ("1 2\nnan 4\n", "line 2"),
        ("1 2 a\n3 4\n", "some have none"),
    ],
)
def test_lines_that_are_no_points(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        points(tmp_path, text)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), min_size=1, max_size=20),
    st.sampled_from([" ", ",", ";", "\t", ", "]),
    st.booleans(),
)
def test_points_round_trip(
    tmp_path_factory: pytest.TempPathFactory, xy: list[tuple[float, float]], sign: str, header: bool
) -> None:
    lines = [f"{x!r}{sign}{y!r}" for x, y in xy]
    text = "\n".join((["x y"] if header else [f"{len(xy)} 2 0"]) + lines)
    assert points(tmp_path_factory.mktemp("p"), text)[0] == [list(p) for p in xy]


def test_class_folders(tmp_path: Path) -> None:
    taxonomy = load_taxonomy("pbc-blast")
    for folder, name in (("BLA", "1.png"), ("lymphocyte", "2.jpg"), ("NIF", "3.png"), (".git", "4.png")):
        touch(tmp_path / folder, name)
    with pytest.raises(DataError, match="NIF are no classes"):
        read_class_folders(tmp_path, taxonomy)
    found = read_class_folders(tmp_path, taxonomy, skip=["NIF"])
    assert [(f.path.name, f.label) for f in found] == [("1.png", "blast"), ("2.jpg", "lymphocyte")]
    with pytest.raises(DataError, match="no folder ABC"):
        read_class_folders(tmp_path, taxonomy, skip=["ABC"])
    with pytest.raises(DataError, match="holds no images"):
        read_class_folders(touch(tmp_path / "none"), taxonomy)
    with pytest.raises(DataError, match="not a folder"):
        read_class_folders(tmp_path / "absent", taxonomy)


@pytest.mark.data
def test_real_folders_pair_and_read(data_root: Path) -> None:
    found = pair_folders(data_root / "bccd/fields", data_root / "bccd/wbc_masks")
    assert (len(found.pairs), len(found.images_alone), len(found.truths_alone)) == (364, 0, 3)
    for pair in found.pairs[::40]:
        shape = read_image(pair.image).shape[:2]
        cell, nucleus = read_mask(pair.truth, shape), read_mask(pair.truth, shape, part="nucleus")
        assert 1 <= cell.max() <= 2
        assert 0.2 < (nucleus > 0).sum() / (cell > 0).sum() < 0.97
    red = pair_folders(data_root / "rbc-masks/images", data_root / "rbc-masks/masks")
    assert sum(int(read_mask(p.truth, read_image(p.image).shape[:2]).max()) for p in red.pairs) == 633
    nuclei = pair_folders(data_root / "marrow-he/images", data_root / "marrow-he/nuclei", truth="points")
    assert sorted(len(read_points(p.truth).xy) for p in nuclei.pairs) == [292, 295, 356, 412, 419]
    assert len(read_class_folders(data_root / "pbc", load_taxonomy("pbc-blast"))) == 8473
