"""Virtual slides: what a reader sees, and that the truth is true."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
import tifffile

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation import TRUTH_COLUMNS, VirtualSlide, load_profile, make_virtual_slide
from wsi_pipeline.simulation.layout import Layout
from wsi_pipeline.simulation.render import GRAIN_PX, draw_stain, render
from wsi_pipeline.simulation.sprites import load_sprites
from wsi_pipeline.slides import is_virtual
from wsi_pipeline.units import Box


@pytest.fixture(scope="module")
def smear(tmp_path_factory: pytest.TempPathFactory) -> VirtualSlide:
    out = tmp_path_factory.mktemp("slides") / "smear.tiff"
    return make_virtual_slide(out, profile="aml", size_px=(1500, 1100), seed=3)


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> VirtualSlide:
    out = tmp_path_factory.mktemp("slides") / "section.tiff"
    return make_virtual_slide(out, profile="section", size_px=1024, seed=3, mpp=0.5, tile_px=256)


def _truth(made: VirtualSlide) -> list[dict[str, str]]:
    with made.truth.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _pixels(made: VirtualSlide) -> np.ndarray:
    with openslide.OpenSlide(str(made.path)) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def test_openslide_reads_size_levels_and_mpp(smear: VirtualSlide, section: VirtualSlide) -> None:
    for made in (smear, section):
        with openslide.OpenSlide(str(made.path)) as slide:
            assert slide.dimensions == (made.width, made.height)
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(made.mpp, rel=1e-6)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(made.mpp, rel=1e-6)
            assert int(slide.properties["openslide.level[0].tile-width"]) in {256, 512}
    with openslide.OpenSlide(str(smear.path)) as slide:
        assert slide.level_dimensions == ((1500, 1100), (375, 275))


def test_levels_show_the_same_picture(smear: VirtualSlide) -> None:
    with tifffile.TiffFile(smear.path) as tif:
        # Brightness: colour is stored at half the resolution, which shows at the small level.
        full, small = (page.asarray() @ (0.299, 0.587, 0.114) for page in tif.pages)
    reduced = full[:1100, :1500].reshape(275, 4, 375, 4).mean(axis=(1, 3))
    error = np.abs(reduced - small).mean()
    assert error < 3.0
    assert np.abs(reduced[-3:] - small[-3:]).mean() < 4.0
    for axis in (0, 1):
        assert np.abs(reduced - np.roll(small, 1, axis)).mean() > 2 * error, "a pixel off would be seen"


def test_truth_lies_on_the_cells(smear: VirtualSlide) -> None:
    pixels = _pixels(smear).astype(float)
    yy, xx = np.mgrid[:1100, :1500] + 0.5
    rows = [row for row in _truth(smear) if row["kind"] == "white" and row["truncated"] == "false"]
    assert len(rows) > 50
    covered = np.zeros(pixels.shape[:2], bool)
    for row in rows:
        polygon = shapely.from_wkt(row["outline"])
        assert polygon.is_valid
        x0, y0, x1, y1 = (int(v) for v in polygon.bounds)
        box = (slice(max(0, y0 - 6), y1 + 7), slice(max(0, x0 - 6), x1 + 7))
        inside = shapely.contains_xy(polygon, xx[box], yy[box])
        covered[box] |= inside
        assert pixels[box][inside].mean() < 200
        assert polygon.distance(shapely.Point(float(row["x_px0"]), float(row["y_px0"]))) < 1
    # Everything as dark as a nucleus is in the truth: of the white cells, the platelets, or one cut by the edge.
    for row in _truth(smear):
        if row["kind"] == "platelet" or (row["kind"] == "white" and row["truncated"] == "true"):
            covered |= shapely.contains_xy(shapely.from_wkt(row["outline"]).buffer(2), xx, yy)
    dark = (pixels[..., 0] < 120) & (xx > 40) & (yy > 40) & (xx < 1460) & (yy < 1060)
    assert dark.sum() > 20_000
    assert (dark & ~covered).sum() < 0.002 * dark.sum()


def test_outlines_follow_the_border_of_red_cells(smear: VirtualSlide) -> None:
    """Away from other cells, a truth outline overlaps what a threshold finds with IoU above 0.8."""
    pixels = _pixels(smear).astype(float)
    glass = np.median(pixels[pixels.sum(axis=2) > np.percentile(pixels.sum(axis=2), 70)], axis=0)
    stained = (glass - pixels).sum(axis=2) > 0.10 * glass.sum()
    rows = [row for row in _truth(smear) if row["truncated"] == "false"]
    shapes = [shapely.from_wkt(row["outline"]) for row in rows]
    tree = shapely.STRtree(shapes)
    ious = []
    for row, shape in zip(rows, shapes, strict=True):
        if row["kind"] != "red" or len(tree.query(shape.buffer(6), predicate="intersects")) > 1:
            continue
        x0, y0, x1, y1 = (int(v) for v in shape.bounds)
        if x0 < 8 or y0 < 8 or x1 > 1490 or y1 > 1090:
            continue
        yy, xx = np.mgrid[y0 - 4 : y1 + 5, x0 - 4 : x1 + 5] + 0.5
        inside = shapely.contains_xy(shape, xx, yy)
        seen = stained[y0 - 4 : y1 + 5, x0 - 4 : x1 + 5]
        seen = seen | (inside & shapely.contains_xy(shape.buffer(-6), xx, yy))  # central pallor
        ious.append((inside & seen).sum() / (inside | seen).sum())
    assert len(ious) > 20
    assert np.median(ious) > 0.8


def test_truth_table_is_complete(smear: VirtualSlide, section: VirtualSlide) -> None:
    for made in (smear, section):
        rows = _truth(made)
        assert tuple(rows[0]) == TRUTH_COLUMNS
        assert len(rows) == sum(made.counts.values())
        assert len({(row["x_px0"], row["y_px0"]) for row in rows}) == len(rows)
        for row in rows:
            assert 0 <= float(row["x_px0"]) < made.width
            assert 0 <= float(row["y_px0"]) < made.height
    blasts = smear.counts["blast"] / sum(v for k, v in smear.counts.items() if k not in {"red_cell", "platelet"})
    assert blasts > 0.2
    assert (smear.specimen, section.specimen) == ("marrow_smear", "trephine")
    assert section.counts["nucleus"] > 500
    bottom = [row for row in _truth(smear) if float(row["y_px0"]) > 1050]
    assert bottom, "the last row of tiles has cells, and so has the table"


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    def digest(name: str, seed: int) -> tuple[str, str]:
        made = make_virtual_slide(tmp_path / name, profile="normal", size_px=512, seed=seed)
        return tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in (made.path, made.truth))

    first = digest("a.tiff", 7)
    assert digest("b.tiff", 7) == first
    assert digest("c.tiff", 8)[0] != first[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{stem}{end}" for stem in "abc" for end in (".tiff", ".truth.csv")
    ]


@pytest.mark.parametrize("profile", ["reactive", "section"])
def test_pixels_do_not_depend_on_the_tile_they_are_drawn_in(profile: str) -> None:
    chosen, seed = load_profile(profile), 11
    stain = draw_stain(seed, chosen.background)

    def draw(box: Box) -> np.ndarray:
        layout = Layout(chosen, load_sprites(), seed)
        return render(layout, box, seed=seed, mpp=0.25, background=chosen.background, stain=stain)

    whole = draw(Box(x0=0, y0=0, x1=768, y1=768))
    for x, y in [(512, 256), (0, 512), (256, 0)]:
        part = draw(Box(x0=x, y0=y, x1=x + GRAIN_PX, y1=y + GRAIN_PX))
        np.testing.assert_array_equal(part, whole[y : y + GRAIN_PX, x : x + GRAIN_PX])


def test_larger_slide_of_one_seed_holds_the_smaller(tmp_path: Path) -> None:
    small = make_virtual_slide(tmp_path / "s.tiff", profile="normal", size_px=512, seed=5)
    large = make_virtual_slide(tmp_path / "l.tiff", profile="normal", size_px=(1024, 600), seed=5)

    def cells(made: VirtualSlide) -> set[tuple[str, ...]]:
        return {(r["class"], r["x_px0"], r["y_px0"], r["source"]) for r in _truth(made)}

    assert cells(small) == {c for c in cells(large) if float(c[1]) < 512 and float(c[2]) < 512}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 100}, "size 100 x 100"),
        ({"size_px": (512, 10**6)}, "size 512 x 1000000"),
        ({"seed": -1}, "seed -1"),
        ({"mpp": 2.0}, "mpp 2.0"),
        ({"tile_px": 300}, "tile_px 300"),
        ({"jpeg_quality": 10}, "jpeg_quality 10"),
        ({"profile": "nothing"}, "nothing"),
    ],
)
def test_bad_requests_write_nothing(tmp_path: Path, change: dict[str, object], message: str) -> None:
    request: dict[str, object] = {"profile": "normal", "size_px": 512, "seed": 1, **change}
    with pytest.raises(ConfigError, match=message):
        make_virtual_slide(tmp_path / "x.tiff", **request)
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_height() -> None:
    """Layout squares are forgotten as the slide streams by."""
    from wsi_pipeline.simulation.scene import Scene, _Band

    scene = Scene(
        profile=load_profile("normal"), width=512, height=2048, seed=1, mpp=0.5, tile_px=512, film=False,
        stain_variation=1.0, blur_variation=1.0,
    )  # fmt: skip
    band = _Band(scene, 0, 1)
    kept = []
    for row in range(4):
        assert len(list(band.tiles(row))) == 1
        kept.append(len(band._layout._squares))
    assert kept[3] <= kept[1] * 1.2


def test_a_virtual_slide_is_known_as_such(smear: VirtualSlide, tmp_path: Path) -> None:
    assert is_virtual(smear.path)
    other = tmp_path / "other.tiff"
    with tifffile.TiffFile(smear.path) as tif:
        tifffile.imwrite(other, tif.pages.first.asarray()[:256, :256], tile=(256, 256), photometric="rgb")
    assert not is_virtual(other)
    assert not is_virtual(smear.truth)
    assert not is_virtual(tmp_path / "nowhere.tiff")
    (tmp_path / "cut.tiff").write_bytes(smear.path.read_bytes()[:100])
    assert not is_virtual(tmp_path / "cut.tiff")
