"""Flow following and ownership: the same cells, to the byte, however the same flows are cut."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from flow_fields import SCENES, Field, Options, all_options, discs, fields, make_field
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from wsi_pipeline.segmentation import dynamics
from wsi_pipeline.segmentation.diffusion import labels_to_flows
from wsi_pipeline.segmentation.dynamics import MIN_SEED_PIXELS, flows_to_labels
from wsi_pipeline.segmentation.instances import extract_instances
from wsi_pipeline.tiling import halo_px, plan_blocks
from wsi_pipeline.units import Box


def cut(field: Field, core_px: int, options: Options, *, extra_halo: int = 0) -> dict[tuple[int, int], tuple]:
    """Segment a field block by block and return every cell by its global seed, everything as bytes."""
    height, width = field.foreground.shape
    halo = halo_px(options.diameter_px, 1.0) + extra_halo
    cells: dict[tuple[int, int], tuple] = {}
    for block in plan_blocks((width, height), shapely.box(0, 0, width, height), core_px=core_px, halo=halo):
        window, core = block.window, block.core
        part = np.s_[window.y0 : window.y1, window.x0 : window.x1]
        flow = np.ascontiguousarray(field.flow[:, part[0], part[1]])
        foreground = np.ascontiguousarray(field.foreground[part])
        labels, seeds = flows_to_labels(
            flow * foreground, foreground, niter=options.niter, max_cell_diameter_px=options.diameter_px
        )
        found = extract_instances(
            labels,
            seeds,
            core=Box(x0=core.x0 - window.x0, y0=core.y0 - window.y0, x1=core.x1 - window.x0, y1=core.y1 - window.y0),
            flow=flow,
            foreground=foreground,
            layers=np.ascontiguousarray(field.layers[:, part[0], part[1]]),
            flow_threshold=options.flow_threshold,
            min_area_px=options.min_area_px,
            max_cell_diameter_px=options.diameter_px,
        )
        seed_order = list(zip(found.seed_y.tolist(), found.seed_x.tolist(), strict=True))
        assert seed_order == sorted(seed_order), "labels are not in seed order"
        for i in range(len(found)):
            y0, x0, y1, x1 = found.boxes[i]
            mask = found.labels[y0:y1, x0:x1] == i + 1
            assert mask.sum() == found.area_px[i]
            seed = (int(found.seed_y[i]) + window.y0, int(found.seed_x[i]) + window.x0)
            assert seed not in cells, f"two blocks own the cell at {seed}"
            cells[seed] = (
                (int(y0) + window.y0, int(x0) + window.x0, *mask.shape),
                np.packbits(mask).tobytes(),
                int(found.area_px[i]),
                found.flow_error[i].tobytes(),
                found.sums[i].tobytes(),
                found.moments[i].tobytes(),
                bool(found.too_large[i]),
            )
    return cells


def assert_same_cells(found: dict, expected: dict, what: str) -> None:
    assert found.keys() == expected.keys(), f"{what}: seeds differ at {sorted(found.keys() ^ expected.keys())[:5]}"
    differing = [seed for seed, cell in expected.items() if found[seed] != cell]
    assert not differing, f"{what}: cells differ at {sorted(differing)[:5]}"


# The property ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(fields, all_options, st.lists(st.integers(17, 120), min_size=1, max_size=2))
def test_cells_do_not_depend_on_how_the_field_is_cut(field: Field, options: Options, cores: list[int]) -> None:
    whole = cut(field, 10_000, options)
    for core_px in cores:
        assert_same_cells(cut(field, core_px, options), whole, f"core {core_px}")


@pytest.mark.parametrize("name", sorted(SCENES))
def test_every_scene_has_cells_and_survives_the_cut(name: str) -> None:
    found = 0
    for seed in range(3):
        field = make_field([name], seed, (150, 140), 0.0)
        whole = cut(field, 10_000, Options())
        found += len(whole)
        for core_px in (31, 64, 100):
            assert_same_cells(cut(field, core_px, Options()), whole, f"{name}, core {core_px}")
    assert found >= 3, "the scene tests nothing"


def test_the_scenes_hold_what_they_are_for() -> None:
    """The search is only as hard as its fields: each trait is there in what the strategies draw from."""
    found: dict[str, int] = dict.fromkeys(TRAITS, 0)
    for name in SCENES:
        for seed in range(3):
            for trait in traits_of(make_field([name], seed, (150, 140), 0.0)):
                found[trait] += 1
    assert min(found.values()) >= 2, found


TRAITS = ("giant cell", "plateau", "tie", "enclosed cell", "noise", "slide edge", "pixel that leaves")


def traits_of(field: Field) -> set[str]:
    """Name what is hard about a field."""
    options = Options()
    height, width = field.foreground.shape
    end_y, end_x = dynamics._follow(
        field.flow * field.foreground, field.foreground, options.niter, options.diameter_px // 2
    )
    counts = dynamics._histogram(end_y, end_x)
    labels, seeds = flows_to_labels(
        field.flow * field.foreground, field.foreground, niter=options.niter, max_cell_diameter_px=options.diameter_px
    )
    found = extract_instances(
        labels, seeds, core=Box(x0=0, y0=0, x1=width, y1=height), flow=field.flow, foreground=field.foreground,
        layers=field.layers, flow_threshold=0.0, min_area_px=1, max_cell_diameter_px=options.diameter_px,
    )  # fmt: skip
    around = np.pad(counts, 2)
    equal = sum(
        int((around[y : y + 5, x : x + 5] == n).sum() > 1)
        for y, x, n in zip(seeds.y, seeds.x, seeds.count, strict=True)
    )
    nested = []
    for k in range(1, len(found) + 1):
        hole = ndi.binary_fill_holes(found.labels == k) & (found.labels != k)
        nested.append(bool(found.labels[hole].any()))
    at_edge = (found.boxes[:, :2] == 0).any() or (found.boxes[:, 2:] == [height, width]).any()
    traits = {
        "giant cell": found.too_large.any(),
        "plateau": equal > 0,
        "tie": len(np.unique(seeds.count)) < len(seeds.count),
        "enclosed cell": any(nested),
        "noise": len(found) > 0 and found.flow_error.mean() > 1.0,
        "slide edge": at_edge,
        "pixel that leaves": (field.foreground & (end_y < 0)).any(),
    }
    return {name for name, there in traits.items() if there}


def test_a_wider_halo_changes_nothing() -> None:
    field = make_field(["cells", "noise", "giants"], 5, (160, 160), 0.05)
    expected = cut(field, 64, Options())
    assert len(expected) > 10
    assert_same_cells(cut(field, 64, Options(), extra_halo=13), expected, "wider halo")


def test_a_halo_too_narrow_is_noticed() -> None:
    """The property test can fail: a halo of two thirds of the design's loses the longest ways round."""
    differing = 0
    for seed in range(6):
        field = make_field(["relays"], seed, (150, 140), 0.0)
        differing += cut(field, 31, Options(), extra_halo=-22) != cut(field, 10_000, Options())
    assert differing >= 2


def test_a_translated_field_gives_translated_cells() -> None:
    """Nothing knows the coordinates: white space before a field only shifts its cells."""
    field = make_field(["cells"], 3, (90, 90), 0.0)
    field.foreground[:3] = field.foreground[-3:] = False
    field.foreground[:, :3] = field.foreground[:, -3:] = False
    dy, dx = 37, 101
    pad = ((dy, 20), (dx, 20))
    moved = Field(
        flow=np.pad(field.flow, ((0, 0), *pad)),
        foreground=np.pad(field.foreground, pad),
        layers=np.pad(field.layers, ((0, 0), *pad)),
    )
    # Flows on background are zero, so no pixel leaves the field and its edges are never met.
    here, there = cut(field, 10_000, Options()), cut(moved, 10_000, Options())
    assert here
    assert {(y + dy, x + dx) for y, x in here} == set(there)
    for (y, x), cell in here.items():
        assert there[y + dy, x + dx][1:] == cell[1:]


# The single rules --------------------------------------------------------------------------------------------------


def still_field(shape: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    return np.zeros((2, *shape), np.float32), np.zeros(shape, bool)


def send(flow: np.ndarray, foreground: np.ndarray, ys: slice, xs: slice, to: tuple[int, int]) -> None:
    """Make the pixels of a box step straight onto a pixel, in one step."""
    y, x = np.mgrid[ys, xs]
    flow[0, ys, xs], flow[1, ys, xs] = to[0] - y, to[1] - x
    foreground[ys, xs] = True


def test_of_a_plateau_the_first_pixel_stands() -> None:
    flow, foreground = still_field((40, 40))
    send(flow, foreground, np.s_[5:10], np.s_[5:10], (20, 19))
    send(flow, foreground, np.s_[5:10], np.s_[12:17], (20, 20))
    labels, seeds = flows_to_labels(flow, foreground, niter=1, max_cell_diameter_px=60)
    assert (seeds.y.tolist(), seeds.x.tolist(), seeds.count.tolist()) == ([20], [19], [25])
    assert set(np.unique(labels[5:10, 5:17])) == {0, 1}
    assert (labels[5:10, 12:17] == 1).all(), "the seed extends over its plateau"


def test_seeds_are_ordered_by_count_then_place() -> None:
    flow, foreground = still_field((60, 60))
    send(flow, foreground, np.s_[0:4], np.s_[0:4], (30, 40))
    send(flow, foreground, np.s_[0:4], np.s_[8:12], (30, 10))
    send(flow, foreground, np.s_[0:4], np.s_[16:20], (20, 50))
    send(flow, foreground, np.s_[0:5], np.s_[24:29], (40, 25))
    _, seeds = flows_to_labels(flow, foreground, niter=1, max_cell_diameter_px=200)
    assert list(zip(seeds.y, seeds.x, seeds.count, strict=True)) == [
        (40, 25, 25),
        (20, 50, 16),
        (30, 10, 16),
        (30, 40, 16),
    ]


@pytest.mark.parametrize(("n", "stands"), [(MIN_SEED_PIXELS, False), (MIN_SEED_PIXELS + 1, True)])
def test_a_seed_needs_more_than_ten_pixels(n: int, stands: bool) -> None:
    flow, foreground = still_field((30, 40))
    send(flow, foreground, np.s_[5:6], np.s_[5 : 5 + n], (20, 20))
    _, seeds = flows_to_labels(flow, foreground, niter=1, max_cell_diameter_px=60)
    assert (len(seeds.y) == 1) is stands


def test_a_pixel_that_leaves_its_window_is_background() -> None:
    flow, foreground = still_field((40, 80))
    send(flow, foreground, np.s_[20:25], np.s_[10:15], (22, 34))
    for diameter, kept in ((48, 25), (44, 15), (38, 0)):
        labels, _ = flows_to_labels(flow, foreground, niter=1, max_cell_diameter_px=diameter)
        assert (labels > 0).sum() == kept, diameter


def test_masks_come_back_from_their_own_flows() -> None:
    """Round cells that lie apart: what goes in comes out, to within the odd pixel at the rim."""
    y, x = np.mgrid[:200, :200]
    truth = np.zeros((200, 200), np.int32)
    for k, (cy, cx, r) in enumerate([(30, 30, 9), (30, 90, 14), (100, 40, 4), (140, 140, 20), (95, 150, 11)], 1):
        truth[np.hypot(y - cy, x - cx) <= r] = k
    labels, seeds = flows_to_labels(labels_to_flows(truth), truth > 0, niter=200, max_cell_diameter_px=60)
    assert len(seeds.y) == 5
    for k in range(1, 6):
        found = labels == np.bincount(labels[truth == k]).argmax()
        assert (found & (truth == k)).sum() / (found | (truth == k)).sum() > 0.97


def test_the_cells_are_those_of_cellpose() -> None:
    """Against ``cellpose.dynamics.compute_masks`` on the same flows: the same cells at IoU 0.9."""
    import torch
    from cellpose.dynamics import compute_masks

    rng = np.random.default_rng(0)
    truth = discs(rng, (300, 300), 40, 12)
    for k in range(1, 41):
        parts, n = ndi.label(truth == k)
        if n and (sizes := np.bincount(parts.ravel())[1:]).max() < 60:
            truth[truth == k] = 0
        elif n > 1:
            truth[(parts > 0) & (parts != 1 + sizes.argmax())] = 0
    flow, foreground = labels_to_flows(truth), truth > 0
    theirs = compute_masks(
        5 * flow,
        np.where(foreground, 5.0, -5.0).astype(np.float32),
        niter=200,
        flow_threshold=0,
        min_size=1,
        max_size_fraction=1.0,
        device=torch.device("cpu"),
    )
    field = Field(flow=flow, foreground=foreground, layers=np.zeros((1, 300, 300), np.uint8))
    ours = cut(field, 10_000, Options(niter=200, diameter_px=60))
    matched = 0
    for (top, left, h, w), bits, *_ in ours.values():
        mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=h * w).reshape(h, w).astype(bool)
        inside = np.asarray(theirs)[top : top + h, left : left + w]
        ids = inside[mask]
        if not ids.any():
            continue
        best = np.bincount(ids[ids > 0]).argmax()
        shared = (ids == best).sum()
        matched += shared / (mask.sum() + (np.asarray(theirs) == best).sum() - shared) >= 0.9
    n = int(np.max(theirs))
    assert abs(len(ours) - n) <= 1
    assert matched >= 0.95 * n
