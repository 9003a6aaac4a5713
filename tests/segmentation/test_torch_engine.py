"""The engine in PyTorch against the numba engine: the same cells to the bit, here on the CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_fields import SCENES, Field, Options, all_options, fields, make_field
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from wsi_pipeline.segmentation import dynamics, instances, torch_diffusion, torch_dynamics, torch_instances
from wsi_pipeline.segmentation.instances import Instances
from wsi_pipeline.segmentation.torch_components import components
from wsi_pipeline.units import Box

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


def core_of(field: Field, share: float) -> Box:
    """Return a core in the middle of the field; a share of 1 is all of it."""
    height, width = field.foreground.shape
    y, x = int(height * (1 - share) / 2), int(width * (1 - share) / 2)
    return Box(x0=x, y0=y, x1=width - x, y1=height - y)


def by_numba(field: Field, options: Options, core: Box) -> tuple[npt.NDArray[Any], dynamics.Seeds, Instances]:
    labels, seeds = dynamics.flows_to_labels(
        field.flow * field.foreground, field.foreground, niter=options.niter, max_cell_diameter_px=options.diameter_px
    )
    found = instances.extract_instances(
        labels, seeds, core=core, flow=field.flow, foreground=field.foreground, layers=field.layers,
        flow_threshold=options.flow_threshold, min_area_px=options.min_area_px,
        max_cell_diameter_px=options.diameter_px,
    )  # fmt: skip
    return labels, seeds, found


def by_torch(
    field: Field, options: Options, core: Box, device: str
) -> tuple[npt.NDArray[Any], dynamics.Seeds, Instances]:
    flow, foreground = torch.from_numpy(field.flow).to(device), torch.from_numpy(field.foreground).to(device)
    labels, seeds = torch_dynamics.flows_to_labels(
        flow * foreground, foreground, niter=options.niter, max_cell_diameter_px=options.diameter_px
    )
    found = torch_instances.extract_instances(
        labels, seeds, core=core, flow=flow, foreground=foreground, layers=torch.from_numpy(field.layers).to(device),
        flow_threshold=options.flow_threshold, min_area_px=options.min_area_px,
        max_cell_diameter_px=options.diameter_px,
    )  # fmt: skip
    on_host = dynamics.Seeds(y=seeds.y.cpu().numpy(), x=seeds.x.cpu().numpy(), count=seeds.count.cpu().numpy())
    return labels.cpu().numpy(), on_host, found


def assert_same(field: Field, options: Options, *, device: str = "cpu", share: float = 1.0) -> int:
    """Compare everything both engines return, flow errors to the bit on the CPU; give the number of cells."""
    core = core_of(field, share)
    labels, seeds, expected = by_numba(field, options, core)
    other_labels, other_seeds, found = by_torch(field, options, core, device)
    np.testing.assert_array_equal(other_labels, labels)
    for name in ("y", "x", "count"):
        np.testing.assert_array_equal(getattr(other_seeds, name), getattr(seeds, name), err_msg=f"seeds' {name}")
    for entry in dataclasses.fields(Instances):
        got, want = getattr(found, entry.name), getattr(expected, entry.name)
        assert (got.dtype, got.shape) == (want.dtype, want.shape), entry.name
        if entry.name == "flow_error":
            np.testing.assert_allclose(got, want, rtol=0, atol=0 if device == "cpu" else 1e-9)
        else:
            np.testing.assert_array_equal(got, want, err_msg=entry.name)
    return len(expected)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=150, deadline=None)
@given(field=fields, options=all_options, share=st.sampled_from([1.0, 0.6]))
def test_both_engines_find_the_same(field: Field, options: Options, share: float, device: str) -> None:
    assert_same(field, options, device=device, share=share)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(SCENES))
def test_every_scene(name: str, device: str) -> None:
    found = sum(
        assert_same(make_field([name], seed, (150, 140), jitter), Options(flow_threshold=threshold), device=device)
        for seed, jitter, threshold in [(0, 0.0, 0.0), (1, 0.0, 0.4), (2, 0.05, 0.0)]
    )
    assert found >= 3, "the scene tests nothing"


def test_memory_bounds_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels followed, seeds extended and cells diffused a few at a time."""
    monkeypatch.setattr(torch_dynamics, "_WALKERS", 999)
    monkeypatch.setattr(torch_dynamics, "_SEEDS", 7)
    monkeypatch.setattr(torch_diffusion, "_CANVAS_PX", 2000)
    assert assert_same(make_field(["cells", "nested", "attractors"], 9, (160, 150), 0.05), Options()) > 15


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (2, 50), (7, 7)])
def test_windows_of_a_few_pixels(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    field = Field(
        flow=rng.normal(size=(2, *shape)).astype(np.float32),
        foreground=np.ones(shape, bool),
        layers=rng.integers(0, 256, (2, *shape), dtype=np.uint8),
    )
    assert_same(field, Options(niter=30))


def test_nothing_in_the_foreground() -> None:
    field = make_field(["cells"], 0, (40, 50), 0.0)
    empty = Field(flow=field.flow, foreground=np.zeros((40, 50), bool), layers=field.layers[:0])
    assert assert_same(empty, Options()) == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    n=st.integers(1, 4),
    grain=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_components_are_those_of_scipy(seed: int, shape: tuple[int, int], n: int, grain: float) -> None:
    noise = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), grain)
    classes = np.digitize(noise, np.quantile(noise, np.linspace(0, 1, n + 1)[1:-1]))
    found = components(torch.from_numpy(classes)).numpy()
    count = 0
    for value in range(n):
        parts, m = ndi.label(classes == value)
        count += m
        for part in range(1, m + 1):
            assert len(np.unique(found[parts == part])) == 1
    assert len(np.unique(found)) == count


def test_a_spiral_is_one_component() -> None:
    """The longest way from end to end: rounds of joining must follow it whole."""
    side = 61
    spiral = np.zeros((side, side), np.int64)
    y, x, dy, dx = 0, -1, 0, 1
    length = side
    while length > 0:
        for _ in range(2 if length < side else 1):
            for _ in range(length):
                y, x = y + dy, x + dx
                spiral[y, x] = 1
            dy, dx = dx, -dy
        length -= 2
    found = components(torch.from_numpy(spiral)).numpy()
    assert ndi.label(spiral)[1] == 1
    assert len(np.unique(found[spiral == 1])) == 1
