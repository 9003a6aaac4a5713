"""All features of all cells of an image: against plain references, and what must hold for any image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import color, measure

from tests.cells.shapes import blob, disc, ellipse, lobes
from wsi_pipeline.cells.features import FEATURES, NAMES, features_table
from wsi_pipeline.cells.morphology import STAINS, label_boxes, measure_morphology
from wsi_pipeline.errors import DataError

DOCS = Path(__file__).parents[2] / "docs" / "morphology.md"
SHAPE = list(NAMES[: NAMES.index("nucleus_area_um2")])
NUCLEUS = [n for n in NAMES if n.startswith("nucleus_")]
CYTOPLASM = [n for n in NAMES if n.startswith("cytoplasm_")]
PALLOR = [n for n in NAMES if n.startswith("pallor_")]


def columns(table):
    return dict(zip(NAMES, table.T, strict=True))


def field(seed=0, n=12, side=34):
    """A row of blobs that touch their neighbours' boxes and the image's edges, every second with a nucleus."""
    rng = np.random.default_rng(seed)
    labels = np.hstack([np.where(blob(seed * 100 + i, side), i + 1, 0) for i in range(n)]).astype(np.int32)
    nucleus = np.hstack([np.full((side, side), i % 2 == 0) for i in range(n)])
    nucleus &= ndimage.gaussian_filter(rng.normal(size=labels.shape), 3) > 0
    pixels = np.clip(ndimage.gaussian_filter(rng.normal(150, 90, (*labels.shape, 3)), (1, 1, 0)), 0, 255)
    return labels, pixels.astype(np.uint8), nucleus


def paint(mask, *, nucleus=None, seed=0):
    """One cell of smooth texture."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(150, 60, (*mask.shape, 3)), (1.5, 1.5, 0))
    return mask.astype(np.int32), noise.clip(0, 255).astype(np.uint8), nucleus


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_means_shapes_and_counts_equal_plain_references(seed):
    labels, pixels, nucleus = field(seed)
    mpp, light = 0.25, np.array([240, 235, 228])
    found = columns(measure_morphology(labels, pixels, mpp=mpp, background=light, nucleus=nucleus))
    density = -np.log10(np.maximum(pixels, 1) / light)
    inverse = np.linalg.inv(np.vstack([STAINS, np.cross(*STAINS)]))
    stains = density @ inverse
    expected = {name: [] for name in (
        "area_um2", "perimeter_um", "nc_ratio", "nucleus_od", "nucleus_od_sd", "cell_od_green",
        "cytoplasm_azure", "cytoplasm_eosin", "cytoplasm_od_sd",
    )}  # fmt: skip
    with np.errstate(invalid="ignore"):
        for k in range(1, labels.max() + 1):
            cell = labels == k
            inner, outer = cell & nucleus, cell & ~nucleus
            none = not inner.any()
            grey = density.mean(axis=2)
            for name, value in {
                "area_um2": cell.sum() * mpp**2,
                "perimeter_um": measure.perimeter_crofton(cell) * mpp,
                "nc_ratio": np.nan if none else inner.sum() / cell.sum(),
                "nucleus_od": np.nan if none else grey[inner].mean(),
                "nucleus_od_sd": np.nan if none else grey[inner].std(),
                "cell_od_green": density[cell][:, 1].mean(),
                "cytoplasm_azure": stains[outer][:, 0].mean(),
                "cytoplasm_eosin": stains[outer][:, 1].mean(),
                "cytoplasm_od_sd": grey[outer].std(),
            }.items():
                expected[name].append(value)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_stains_are_those_of_scikit_image():
    np.testing.assert_allclose(STAINS, color.rgb_from_bex[:2])


def test_a_cell_of_pure_stain_shows_that_stain_alone():
    mask = disc(10)
    for i, names in enumerate((("cytoplasm_azure", "cytoplasm_eosin"), ("cytoplasm_eosin", "cytoplasm_azure"))):
        pixels = np.full((*mask.shape, 3), np.rint(255 * 10 ** (-0.4 * STAINS[i])), np.uint8)
        found = columns(measure_morphology(mask.astype(np.int32), pixels, mpp=0.25))
        assert found[names[0]][0] == pytest.approx(0.4, abs=0.01)
        assert found[names[1]][0] == pytest.approx(0.0, abs=0.01)


def test_what_is_not_there_is_nan():
    labels, pixels, nucleus = field()
    found = columns(measure_morphology(labels, pixels, mpp=0.25, nucleus=nucleus))
    with_nucleus = np.array([(nucleus & (labels == k)).any() for k in range(1, labels.max() + 1)])
    assert 0 < with_nucleus.sum() < len(with_nucleus)
    deep = {"nucleus_chromatin", "cytoplasm_granularity"}  # also NaN where all is edge
    for name in set(NUCLEUS) - deep:
        np.testing.assert_array_equal(np.isfinite(found[name]), with_nucleus, err_msg=name)
    for name in ("pallor_area_share", "pallor_depth"):
        assert np.isfinite(found[name]).all(), name
    for name in set(SHAPE + CYTOPLASM) - deep:
        assert np.isfinite(found[name]).all(), name
    all_nucleus = columns(measure_morphology(labels, pixels, mpp=0.25, nucleus=labels > 0))
    for name in CYTOPLASM:
        assert np.isnan(all_nucleus[name]).all(), name


def test_concavities_of_the_nucleus_are_those_of_its_parts_and_not_of_its_holes():
    cell = np.ones((90, 170), bool)
    nucleus = np.zeros_like(cell)
    nucleus[10:50, 10:50] = True
    nucleus[10:26, 26:34] = False  # a notch of 8 um
    nucleus[30:40, 20:40] = False  # a hole
    nucleus[10:50, 80:150] = True
    nucleus[10:12, 100:106] = False  # a notch of 1 um, as deep as asked
    nucleus[48:50, 100:106] = False
    nucleus[10, 120:126] = False  # half a micron
    labels, pixels, _ = paint(cell)
    for mpp, expected in ((0.5, 3), (0.25, 1), (0.4, 1)):
        found = columns(measure_morphology(labels, pixels, mpp=mpp, nucleus=nucleus))
        assert found["nucleus_concavities"][0] == expected, mpp
    disc_only = np.pad(disc(15), 10)
    found = columns(measure_morphology(*paint(disc_only)[:2], mpp=0.5, nucleus=disc_only))
    assert found["nucleus_concavities"][0] == 0


def test_empty_images_and_missing_labels():
    blank = np.full((20, 20, 3), 200, np.uint8)
    assert measure_morphology(np.zeros((20, 20), np.int32), blank, mpp=0.5).shape == (0, len(NAMES))
    assert measure_morphology(np.zeros((0, 0), np.int32), np.zeros((0, 0, 3), np.uint8), mpp=1).shape[0] == 0
    labels = np.zeros((20, 20), np.int32)
    labels[4:8, 4:8] = 3
    table = measure_morphology(labels, blank, mpp=0.5)
    assert np.isnan(table[:2]).all()
    assert columns(table)["area_um2"][2] == 4


def test_cells_of_one_pixel():
    labels = np.zeros((5, 6), np.int32)
    labels[0, 0], labels[4, 5], labels[2, 2], labels[2, 3] = 1, 2, 3, 4
    nucleus = labels >= 3
    table = measure_morphology(labels, np.full((5, 6, 3), 90, np.uint8), mpp=0.25, nucleus=nucleus)
    found = columns(table)
    np.testing.assert_array_equal(found["area_um2"], 0.0625)
    np.testing.assert_array_equal(found["solidity"], 1)
    np.testing.assert_array_equal(found["shape_axis_ratio"], 1)
    np.testing.assert_array_equal(found["shape_hull_defects"], 0)
    np.testing.assert_array_equal(found["nucleus_lobes"], [np.nan, np.nan, 0, 0])  # 0.25 um is no lobe
    assert np.isnan(found["cell_glcm_contrast"]).all()
    assert np.isfinite(table[:, : NAMES.index("nucleus_area_um2")]).all()


def test_cells_at_the_edge_read_as_in_the_middle():
    mask = blob(3)
    rows, cols = (slice(*(np.flatnonzero(mask.any(axis=a))[[0, -1]] + [0, 1])) for a in (1, 0))
    labels, pixels, nucleus = paint(np.pad(mask, 5), nucleus=np.pad(blob(4), 5))
    inner = (slice(rows.start + 5, rows.stop + 5), slice(cols.start + 5, cols.stop + 5))
    whole = measure_morphology(labels, pixels, mpp=0.25, nucleus=nucleus)
    cropped = measure_morphology(labels[inner], pixels[inner], mpp=0.25, nucleus=nucleus[inner])
    np.testing.assert_allclose(cropped, whole, rtol=1e-6, atol=1e-7)


def test_a_cell_reads_alike_alone_and_among_others():
    labels, pixels, nucleus = field(4)
    table = measure_morphology(labels, pixels, mpp=0.25, nucleus=nucleus)
    rng = np.random.default_rng(0)
    for k in (1, 6, 12):
        alone = np.where(labels == k, 1, 0).astype(np.int32)
        other = np.where((labels == k)[..., None], pixels, rng.integers(0, 255, pixels.shape)).astype(np.uint8)
        np.testing.assert_array_equal(measure_morphology(alone, other, mpp=0.25, nucleus=nucleus)[0], table[k - 1])


@pytest.mark.parametrize("turn", ["90", "180", "270", "mirror"])
def test_turns_and_mirrors_change_nothing(turn):
    labels, pixels, nucleus = field(5)
    move = np.fliplr if turn == "mirror" else lambda a: np.rot90(a, int(turn) // 90)
    before = measure_morphology(labels, pixels, mpp=0.25, nucleus=nucleus)
    after = measure_morphology(move(labels), move(pixels), mpp=0.25, nucleus=move(nucleus))
    np.testing.assert_allclose(after, before, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("angle", [0.2, 0.5, 0.9, 1.4])
def test_an_ellipse_reads_alike_at_every_angle(angle):
    """Within what pixels of 0.25 um allow for a cell of 8 by 5 um."""

    def found(a):
        mask = ellipse(16, 10, a)
        return columns(measure_morphology(mask.astype(np.int32), np.full((*mask.shape, 3), 90, np.uint8), mpp=0.25))

    still, turned = found(0.0), found(angle)
    for name, within in {
        "area_um2": 0.03 * 31, "perimeter_um": 0.5, "shape_axis_ratio": 0.025, "circularity": 0.06,
        "solidity": 0.015, "shape_convexity": 0.02, "shape_hull_defects": 0, "shape_fourier_2": 0.01,
        "shape_fourier_3": 0.02, "shape_fourier_4": 0.01,
    }.items():  # fmt: skip
        assert turned[name][0] == pytest.approx(still[name][0], abs=within), name


def drawn(mpp):
    """A white cell of 10 by 8 um with a nucleus of two lobes and waves of 1.5 um; a doughnut of 7.5 um."""
    y, x = np.mgrid[-6 : 6 + mpp / 2 : mpp, -6 : 18 + mpp / 2 : mpp]
    labels = np.where((x / 5) ** 2 + (y / 4) ** 2 <= 1, 1, np.where((x - 12) ** 2 + y**2 <= 3.75**2, 2, 0))
    nucleus = np.minimum((x - 1.9) ** 2, (x + 1.9) ** 2) + y**2 <= 1.75**2
    nucleus |= (abs(y) < 0.4) & (abs(x) < 2)
    grey = 150 + 40 * np.sin(2 * np.pi * x / 1.5) * np.sin(2 * np.pi * y / 1.5)
    grey = np.where(labels == 2, np.where((x - 12) ** 2 + y**2 <= 1.5**2, 200, 120), np.where(nucleus, grey - 60, grey))
    return labels.astype(np.int32), np.rint(grey)[..., None].repeat(3, axis=2).astype(np.uint8), nucleus


def test_figures_in_microns_do_not_depend_on_the_resolution():
    """One drawing at 0.125 and 0.25 um; not checked is co-occurrence, whose diagonals round to other lengths."""
    fine, coarse = (
        columns(measure_morphology(labels, pixels, mpp=mpp, nucleus=nucleus))
        for mpp in (0.125, 0.25)
        for labels, pixels, nucleus in [drawn(mpp)]
    )
    for name in [n for n in NAMES if "glcm" not in n]:
        # A staircase is up to a pixel deep.
        depth = 0.25 if name == "shape_hull_defect_depth_um" else 0.02
        within = depth + 0.05 * np.nanmax(np.abs(fine[name]))
        of = slice(1, 2) if name in PALLOR else slice(None)  # of a cell with a nucleus the pallor means nothing
        np.testing.assert_allclose(coarse[name][of], fine[name][of], atol=within, err_msg=name)
    np.testing.assert_array_equal(fine["nucleus_lobes"], [2, np.nan])
    assert fine["pallor_area_share"][1] == pytest.approx((1.5 / 3.75) ** 2, abs=0.02)
    assert fine["pallor_depth"][1] == pytest.approx(1 - np.log(200 / 255) / np.log(120 / 255), abs=0.03)


def test_granularity_sees_granules_and_not_the_blurred_edge_of_the_nucleus():
    cell, nucleus = disc(30), np.pad(disc(12, 0), 21)
    smooth = ndimage.gaussian_filter(np.where(nucleus, 90.0, np.where(cell, 180.0, 235.0)), 0.8)
    dots = np.zeros(cell.shape)
    dots[::5, ::5] = 1
    granular = smooth - 400 * ndimage.gaussian_filter(dots, 1.0) * ~nucleus
    without, with_ = (
        columns(
            measure_morphology(
                cell.astype(np.int32), np.rint(grey)[..., None].repeat(3, 2).astype(np.uint8), mpp=0.25, nucleus=nucleus
            )
        )["cytoplasm_granularity"][0]
        for grey in (smooth, granular)
    )
    assert with_ > 0.01
    assert without < 0.15 * with_


def test_a_neutrophil_has_its_lobes():
    nucleus = lobes(3, 7, 18, 3)  # lobes of 3.5 um
    cell = disc(30)
    inner = np.zeros_like(cell)
    y, x = (np.array(cell.shape) - nucleus.shape) // 2
    inner[y : y + nucleus.shape[0], x : x + nucleus.shape[1]] = nucleus
    labels, pixels, _ = paint(cell)
    found = columns(measure_morphology(labels, pixels, mpp=0.25, nucleus=inner))
    assert found["nucleus_lobes"][0] == 3
    assert found["nc_ratio"][0] == pytest.approx(inner.sum() / cell.sum(), rel=1e-5)
    assert found["nucleus_solidity"][0] < 0.9 < found["solidity"][0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), height=st.integers(1, 25), width=st.integers(1, 25), n=st.integers(1, 6),
    mpp=st.floats(0.05, 2.0), share=st.floats(0, 1),
)  # fmt: skip
def test_any_labels_give_figures_within_their_bounds(seed, height, width, n, mpp, share):
    """Labels in pieces, holes, noise: no crash, and no figure out of its range."""
    rng = np.random.default_rng(seed)
    labels = ndimage.zoom(rng.integers(0, n + 1, (max(1, height // 3), max(1, width // 3))), 3, order=0)
    labels = np.where(rng.random(labels.shape) < 0.1, 0, labels).astype(np.int32)
    pixels = rng.integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    table = measure_morphology(labels, pixels, mpp=mpp, nucleus=rng.random(labels.shape) < share)
    found = columns(table)
    there = np.array([(labels == k).any() for k in range(1, labels.max() + 1)], bool)
    assert not np.isinf(table).any()
    assert np.isnan(table[~there]).all()
    for name in SHAPE:
        assert np.isfinite(found[name][there]).all(), name
    for name in ("solidity", "shape_convexity", "circularity", "shape_axis_ratio", "nc_ratio",
                 "nucleus_solidity", "nucleus_form_factor", "cell_glcm_energy", "cell_glcm_homogeneity"):  # fmt: skip
        values = found[name][np.isfinite(found[name])]
        assert ((values > 0) & (values <= 1 + 1e-6)).all(), name
    for name in ("eccentricity", "pallor_area_share", "pallor_depth"):
        values = found[name][np.isfinite(found[name])]
        assert ((values >= 0) & (values <= 1 + 1e-6)).all(), name


def test_boxes_are_those_of_scipy():
    labels, *_ = field(1)
    expected = [(s[0].start, s[1].start, s[0].stop, s[1].stop) for s in ndimage.find_objects(labels)]
    np.testing.assert_array_equal(label_boxes(labels), expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": np.zeros((4, 4), np.int64)}, "int32"),
        ({"pixels": np.zeros((4, 5, 3), np.uint8)}, "(4, 4, 3)"),
        ({"pixels": np.zeros((4, 4, 3), np.float32)}, "uint8"),
        ({"nucleus": np.zeros((4, 4), np.uint8)}, "bool"),
        ({"boxes": np.array([[0, 0, 5, 4]])}, "within 4 x 4"),
        ({"boxes": np.zeros((2, 3), np.int64)}, "boxes"),
        ({"mpp": 0.0}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"background": (0, 200, 200)}, "background"),
    ],
)
def test_wrong_input_is_refused_with_both_sides_named(change, said):
    given_ = {"labels": np.zeros((4, 4), np.int32), "pixels": np.zeros((4, 4, 3), np.uint8), "mpp": 0.25, **change}
    labels, pixels = given_.pop("labels"), given_.pop("pixels")
    with pytest.raises(DataError, match=said.replace("(", r"\(").replace(")", r"\)")):
        measure_morphology(labels, pixels, **given_)


def test_names_are_unique_and_say_their_unit():
    assert len(set(NAMES)) == len(NAMES)
    for feature in FEATURES:
        assert feature.formula
        assert feature.source
        assert feature.name.endswith("_um2") == (feature.unit == "um2")
        assert feature.name.endswith("_um") == (feature.unit == "um")


def test_the_documents_table_is_the_registry():
    """Refresh with ``python -m wsi_pipeline.cells.features docs/morphology.md``."""
    assert features_table() in DOCS.read_text(encoding="utf-8")
