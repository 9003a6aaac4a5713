"""Fields of a user's own: what is read, what is refused, and how they are split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from own_fields import CENTRES, MPP, SIDE, draw, save, write_fields
from PIL import Image

from wsi_pipeline.errors import ConfigError, DataError, WsiPipelineError
from wsi_pipeline.training.segmentation.data import IGNORE
from wsi_pipeline.training.segmentation.fit import Recipe
from wsi_pipeline.training.segmentation.own_card import Prepared
from wsi_pipeline.training.segmentation.own_data import read_fields
from wsi_pipeline.training.segmentation.own_request import OwnTraining
from wsi_pipeline.training.segmentation.own_samples import make_samples, split_fields
from wsi_pipeline.training.segmentation.train_own import prepare, summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_fields(tmp_path / "own")


def asked(folder: Path, **changes: object) -> OwnTraining:
    about: dict[str, object] = {
        "name": "mine", "images": folder / "images", "masks": folder / "masks", "mpp": str(MPP), "kind": "white",
    }  # fmt: skip
    return OwnTraining(**{**about, **changes})  # type: ignore[arg-type]


def prepared(folder: Path, **changes: object) -> Prepared:
    return prepare(asked(folder, **changes), report=lambda _: None)


# What is refused before training -------------------------------------------------------------------------------------


def each_mask(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (folder / "masks").iterdir():
        save(path, change(np.asarray(Image.open(path))))


def no_images_folder(folder: Path) -> None:
    (folder / "images").rename(folder / "elsewhere")


def no_masks_folder(folder: Path) -> None:
    (folder / "masks").rename(folder / "elsewhere")


def empty_images_folder(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()


def other_names(folder: Path) -> None:
    for path, name in zip(sorted((folder / "masks").iterdir()), "abcdef", strict=True):
        path.rename(path.with_name(f"{name}.png"))


def image_alone(folder: Path) -> None:
    save(folder / "images" / "more.png", draw(77)[0])


def mask_alone(folder: Path) -> None:
    save(folder / "masks" / "more.png", draw(77)[1])


def other_size(folder: Path) -> None:
    save(folder / "masks" / "f1.png", draw(1)[1][:100])


def joined(folder: Path) -> None:
    """Cells that touch, in one label: a bridge joins each pair."""

    def bridge(mask: np.ndarray) -> np.ndarray:
        out = (mask > 0).astype(np.uint16)
        for cy in (30, 94):
            out[cy - 4 : cy + 10, 28:96] = 1
        return out

    each_mask(folder, bridge)


def classes(folder: Path) -> None:
    each_mask(folder, lambda mask: np.where(mask > 0, 1 + mask % 2, 0).astype(np.uint8))


def class_levels(folder: Path) -> None:
    each_mask(folder, lambda mask: np.where(mask > 0, np.where(mask % 2, 128, 255), 0).astype(np.uint8))


def inverted(folder: Path) -> None:
    each_mask(folder, lambda mask: (255 * (mask == 0)).astype(np.uint8))


def coloured(folder: Path) -> None:
    each_mask(folder, lambda mask: np.stack([mask, mask * 2, mask * 3], axis=-1).astype(np.uint8))


def no_labels(folder: Path) -> None:
    each_mask(folder, np.zeros_like)


def two_labelled_images(folder: Path) -> None:
    for number in range(2, 6):
        save(folder / "masks" / f"f{number}.png", np.zeros((SIDE, SIDE), np.uint16))


def few_cells(folder: Path) -> None:
    each_mask(folder, lambda mask: np.where(mask <= 3, mask, 0).astype(np.uint16))


def damaged_image(folder: Path) -> None:
    (folder / "images" / "f2.png").write_bytes((folder / "images" / "f2.png").read_bytes()[:900])


def damaged_mask(folder: Path) -> None:
    (folder / "masks" / "f2.png").write_bytes(b"no image")


def deep(folder: Path) -> None:
    (folder / "images" / "f3.png").unlink()
    tifffile.imwrite(folder / "images" / "f3.tif", draw(3)[0].astype(np.uint16) * 256, photometric="rgb")


def deep_png(folder: Path) -> None:
    path = folder / "images" / "f3.png"
    data = bytearray(path.read_bytes())
    data[24] = 16
    path.write_bytes(bytes(data))


def grey(folder: Path) -> None:
    save(folder / "images" / "f3.png", draw(3)[0][..., 1])


def grey_in_colour(folder: Path) -> None:
    save(folder / "images" / "f3.png", np.repeat(draw(3)[0][..., 1:2], 3, axis=2))


def constant(folder: Path) -> None:
    save(folder / "images" / "f3.png", np.full((SIDE, SIDE, 3), 200, np.uint8))


def copies(folder: Path) -> None:
    for number in range(1, 6):
        for what, pixels in zip(("images", "masks"), draw(0), strict=True):
            save(folder / what / f"f{number}.png", pixels)


def tiny(folder: Path) -> None:
    save(folder / "images" / "f3.png", draw(3)[0][:20, :20])
    save(folder / "masks" / "f3.png", draw(3)[1][:20, :20])


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "changes", "said"),
    [
        (no_images_folder, {}, ["images is not a folder"]),
        (no_masks_folder, {}, ["masks is not a folder"]),
        (empty_images_folder, {}, ["holds no images"]),
        (other_names, {}, ["f0.png", "a.png", "one stem"]),
        (image_alone, {}, ["1 images", "without a mask (more.png)", "6 others pair", "--skip-unpaired"]),
        (mask_alone, {}, ["1 masks", "without an image (more.png)", "--skip-unpaired"]),
        (other_size, {}, ["f1.png", "128 x 100", "128 x 128"]),
        (joined, {}, ["12 of 12 labels", "several cells in one", "instance mask", "--allow-any-size"]),
        (joined, {"kind": "red"}, ["12 of 12 labels", "binary mask joins them"]),
        (classes, {}, ["maps of classes", "label of its own"]),
        (class_levels, {}, ["three grey levels", "24 of 24 cells are of one level", "classes"]),
        (class_levels, {"kind": "red"}, ["three grey levels", "--kind is red"]),
        (inverted, {}, ["one label covers", "inverted"]),
        (coloured, {}, ["6 of 6", "one value a pixel"]),
        (no_labels, {}, ["none of the 6 masks", "background"]),
        (two_labelled_images, {}, ["8 cells", "on 2 images", "at least 20"]),
        (few_cells, {}, ["18 cells", "on 6 images", "at least 20"]),
        (damaged_image, {}, ["f2.png"]),
        (damaged_mask, {}, ["f2.png", "cannot be read"]),
        (deep, {}, ["f3.tif", "uint16", "8-bit"]),
        (deep_png, {}, ["f3.png", "16 bits", "8-bit"]),
        (grey, {}, ["f3.png", "mode L"]),
        (grey_in_colour, {}, ["f3.png", "greyscale"]),
        (constant, {}, ["f3.png", "every pixel is the same"]),
        (copies, {}, ["look alike"]),
        (tiny, {}, ["f3.png", "20 x 20 px"]),
        (nothing, {"mpp": None}, ["6 of 6 images state no", "f3.png, f4.png and 1 more", "--mpp"]),
        (nothing, {"mpp": "0.01"}, ["outside 0.05 to 5", "f0.png (0.01)"]),
        (nothing, {"mpp": "inf"}, ["outside 0.05 to 5"]),
        (nothing, {"mpp": "-1"}, ["must be positive"]),
        (nothing, {"mpp": "a quarter"}, ["a quarter", "image,mpp"]),
        (nothing, {"mpp": "0.073"}, ["2.0 um across", "white cells are 5 to 30 um", "--mpp is probably wrong"]),
        (nothing, {"mpp": "2"}, ["55.7 um", "binary mask joins them", "--allow-any-size"]),
        (nothing, {"kind": "megakaryocyte"}, ["7.0 um", "megakaryocytes are 10 to 100"]),
        (nothing, {"kind": "green"}, ["--kind 'green'", "white, red, platelet, nucleus, megakaryocyte"]),
        (nothing, {"kind": "nucleus", "specimens": ("blood_smear",)}, ["--kind nucleus", "blood_smear"]),
        (nothing, {"specimens": ("urine",)}, ["urine", "blood_smear"]),
        (nothing, {"kind": "megakaryocyte", "specimens": ("trephine", "marrow_smear")}, ["one resolution", "0.5"]),
        (nothing, {"kind": "megakaryocyte", "complete": False}, ["--incomplete", "megakaryocytes"]),
        (nothing, {"name": "compact-smear"}, ["compact-smear", "--start-from"]),
        (nothing, {"name": "cpsam"}, ["cpsam"]),
        (nothing, {"name": "../mine"}, ["not a path"]),
        (nothing, {"start_from": "compact-section"}, ["compact-section works at 0.5", "0.25"]),
        (nothing, {"start_from": "no-such"}, ["no-such"]),
        (nothing, {"start_from": "pbc-blast"}, ["pbc-blast", "not for segmentation"]),
    ],
)  # fmt: skip
def test_unusable_data_is_refused_before_training(
    folder: Path, spoil: Callable[[Path], None], changes: dict[str, object], said: list[str]
) -> None:
    spoil(folder)
    with pytest.raises(WsiPipelineError) as caught:
        prepared(folder, **changes)
    for words in said:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_mpp_must_list_every_image(folder: Path) -> None:
    table = folder / "mpp.csv"
    table.write_text("image,mpp\nf0.png,0.25\nf1.png,0.25\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"4 of 6 images have no row \(f2.png, f3.png, f4.png, f5.png\)"):
        prepared(folder, mpp=str(table))
    table.write_text("image,scale\nf0.png,0.25\n", encoding="utf-8")
    with pytest.raises(DataError, match="image,mpp"):
        prepared(folder, mpp=str(table))


def test_one_image_of_another_scale_is_named(folder: Path) -> None:
    small, labels = draw(2, radius=4)
    save(folder / "images" / "f2.png", np.tile(small, (1, 2, 1)))
    save(folder / "masks" / "f2.png", np.hstack([labels, np.where(labels > 0, labels + 4, 0).astype(np.uint16)]))
    with pytest.raises(DataError, match=r"1 images have no plausible size: f2.png \(1.9 um at 0.25\)"):
        prepared(folder)


# What goes on --------------------------------------------------------------------------------------------------------


def test_what_was_refused_for_doubt_can_be_allowed(folder: Path) -> None:
    image_alone(folder)
    assert len(prepared(folder, skip_unpaired=True).rows) == 6
    assert prepared(folder, skip_unpaired=True, mpp="0.1", allow_any_size=True).diameter_um == pytest.approx(2.8, 0.02)


def test_mpp_comes_from_the_image(folder: Path) -> None:
    for number in range(6):
        (folder / "images" / f"f{number}.png").unlink()
        tifffile.imwrite(
            folder / "images" / f"f{number}.tif", draw(number)[0], photometric="rgb", resolution=(40_000, 40_000),
            resolutionunit="CENTIMETER",
        )  # fmt: skip
    assert {row.mpp for row in prepared(folder, mpp=None).rows} == {0.25}
    said: list[str] = []
    found = prepare(asked(folder, mpp="0.3"), report=said.append)
    assert {row.mpp for row in found.rows} == {0.3}
    assert any("f0.tif states 0.25, 0.3 is used" in line for line in said)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_masks_of_all_formats_read_alike(folder: Path, suffix: str) -> None:
    expected = read_fields(folder / "images", folder / "masks", "0.25")
    for number in range(6):
        (folder / "masks" / f"f{number}.png").unlink()
        labels, path = draw(number)[1], folder / "masks" / f"f{number}_cp_masks{suffix}"
        if suffix == ".npy":
            np.save(path, labels)
        elif suffix == ".tif":
            tifffile.imwrite(path, labels)
        else:
            save(path, (labels > 0).astype(np.uint16))  # two values: binary, whatever the type
    for a, b in zip(expected, read_fields(folder / "images", folder / "masks", "0.25"), strict=True):
        assert np.array_equal(a.labels > 0, b.labels > 0)
        assert a.n_cells == b.n_cells == len(CENTRES)


def test_white_masks_of_three_levels_teach_the_nucleus(folder: Path) -> None:
    for number in range(6):
        rgb, labels = draw(number)
        mask = np.where(labels > 0, np.where(rgb[..., 0] < 120, 255, 128), 0).astype(np.uint8)
        save(folder / "masks" / f"f{number}.png", mask)
    found = prepared(folder)
    assert found.recipe.kinds == ("background", "cytoplasm", "white_nucleus")
    for sample in found.samples:
        assert set(np.unique(sample.kinds)) == {0, 1, 2}
        assert np.array_equal(sample.kinds > 0, sample.labels > 0)


def test_kind_and_specimens_have_defaults_that_are_said(folder: Path) -> None:
    said: list[str] = []
    found = prepare(asked(folder, kind=None), report=said.append)
    assert (found.kind, found.specimens) == ("white", ("blood_smear", "marrow_smear"))
    assert any("no --kind given" in line for line in said)
    found = prepare(asked(folder, kind=None, specimens=("trephine",)), report=said.append)
    assert (found.kind, found.recipe.mpp) == ("nucleus", 0.5)
    found = prepare(asked(folder, kind=None, start_from="compact-section"), report=said.append)
    assert (found.kind, found.recipe.kinds) == ("nucleus", ("background", "nucleus"))


def test_an_unknown_name_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError):
        prepared(folder, name="compact-section")


def test_images_without_a_label_are_said_to_be_taken_as_empty(folder: Path) -> None:
    save(folder / "masks" / "f4.png", np.zeros((SIDE, SIDE), np.uint16))
    found = prepared(folder)
    assert [row.cells for row in found.rows] == [4, 4, 4, 4, 0, 4]
    assert "1 images have no label: they are taken to show no white cells" in summary(found, complete=True)


# Split and samples ---------------------------------------------------------------------------------------------------


def test_the_split_is_by_content_and_always_has_both_sides(folder: Path, tmp_path: Path) -> None:
    fields = read_fields(folder / "images", folder / "masks", "0.25")
    sides = split_fields(fields)
    assert set(sides) == {"train", "test"}
    assert split_fields(fields[::-1]) == sides[::-1]
    for n in range(2, 6):
        assert set(split_fields(fields[:n])) == {"train", "test"}


def test_few_fields_are_split_near_the_share_whatever_their_hash(tmp_path: Path) -> None:
    folder = write_fields(tmp_path / "own", 24)
    fields = read_fields(folder / "images", folder / "masks", "0.25")
    for start in range(0, 18, 3):
        assert 1 <= split_fields(fields[start : start + 6]).count("test") <= 2
    for size in (12, 18, 24):
        assert 1 <= split_fields(fields[:size]).count("test") <= size // 3


def test_copies_stay_on_one_side(folder: Path) -> None:
    for number in range(6):
        rgb, labels = draw(number)
        save(folder / "images" / f"copy{number}x.png", np.clip(rgb.astype(int) + 2, 0, 255).astype(np.uint8))
        save(folder / "masks" / f"copy{number}x.png", labels)
    fields = read_fields(folder / "images", folder / "masks", "0.25")
    sides = dict(zip((f.name for f in fields), split_fields(fields), strict=True))
    assert all(sides[f"f{n}"] == sides[f"copy{n}x"] for n in range(6))


RECIPE = Recipe(kinds=("background", "white"), mpp=0.25, scale_range=(0.75, 1.35), side=32)


def test_large_fields_are_cut_and_few_empty_pieces_stay(folder: Path) -> None:
    for number in range(6):
        rgb, labels = draw(number)
        wide = np.full((SIDE, 5 * SIDE, 3), 230, np.uint8)
        wide[:, :SIDE] = rgb
        save(folder / "images" / f"f{number}.png", wide)
        save(folder / "masks" / f"f{number}.png", np.pad(labels, ((0, 0), (0, 4 * SIDE))))
    fields = read_fields(folder / "images", folder / "masks", "0.25")
    samples = make_samples(fields, ["train"] * 5 + ["test"], RECIPE)
    assert all(max(sample.labels.shape) <= 2.5 * 32 for sample in samples)
    filled = sum(bool(sample.labels.any()) for sample in samples)
    assert 0 < len(samples) - filled <= 0.25 * filled
    assert not any("/f5/" in sample.name for sample in samples)
    assert sum(int((s.labels > 0).sum()) for s in samples) == sum(int((f.labels > 0).sum()) for f in fields[:5])
    assert all(sample.known.all() and (sample.kinds == (sample.labels > 0)).all() for sample in samples)


def test_fine_fields_are_shrunk_with_their_labels(folder: Path) -> None:
    fields = read_fields(folder / "images", folder / "masks", "0.06")
    for sample in make_samples(fields, ["train"] * 6, RECIPE):
        assert sample.mpp == pytest.approx(0.18)
        assert sample.rgb.shape[:2] == sample.labels.shape
        assert sample.rgb[sample.labels > 0].mean() < sample.rgb[sample.labels == 0].mean() - 40


def test_what_is_stained_but_not_labelled_is_ignored_when_labels_are_incomplete(folder: Path) -> None:
    each_mask(folder, lambda mask: np.where(mask > 1, mask, 0).astype(np.uint16))
    fields = read_fields(folder / "images", folder / "masks", "0.25")
    whole = Recipe(kinds=RECIPE.kinds, mpp=0.25, scale_range=RECIPE.scale_range)
    for number, sample in enumerate(make_samples(fields, ["train"] * 6, whole, complete=False)):
        cell = draw(number)[1]
        assert not sample.known[cell == 1].any()
        assert (sample.kinds[cell == 1] == IGNORE).all()
        assert sample.known[cell > 1].all()
        assert sample.known[cell == 0].mean() > 0.6
