"""Flow fields to test the engines with: scenes that are hard on seeds, windows, holes and edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from scipy import ndimage as ndi

from wsi_pipeline.segmentation.diffusion import labels_to_flows

DIAMETER_PX = 24


@dataclass(frozen=True)
class Field:
    """What a network says of a slide: flows, foreground and layers to sum."""

    flow: npt.NDArray[np.float32]
    foreground: npt.NDArray[np.bool_]
    layers: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Options:
    niter: int = 60
    flow_threshold: float = 0.0
    min_area_px: int = 1
    diameter_px: int = DIAMETER_PX


def discs(rng: np.random.Generator, shape: tuple[int, int], n: int, largest: float) -> npt.NDArray[np.int32]:
    """Overlapping ellipses, some over the slide's edge; later ones cover earlier ones."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for k in range(1, n + 1):
        cy, cx = rng.uniform(-4, shape[0] + 4), rng.uniform(-4, shape[1] + 4)
        a, b = rng.uniform(2, largest, 2)
        angle = rng.uniform(0, np.pi)
        u = (y - cy) * np.cos(angle) + (x - cx) * np.sin(angle)
        v = -(y - cy) * np.sin(angle) + (x - cx) * np.cos(angle)
        labels[(u / a) ** 2 + (v / b) ** 2 <= 1] = k
    return labels


def cells_scene(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    labels = discs(rng, shape, int(rng.integers(5, 60)), 10)
    return labels_to_flows(labels), labels > 0


def giants_scene(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cells beyond the largest diameter, whose pixels run out of their window."""
    labels = discs(rng, shape, 6, 34)
    return labels_to_flows(labels), labels > 0


def nested_scene(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rings around cells and around background, at every place."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for k in range(12):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        distance = np.hypot(y - cy, x - cx)
        outer = rng.uniform(5, 11)
        labels[distance <= outer] = 3 * k + 1
        labels[distance <= outer - 3] = 3 * k + 2 if rng.random() < 0.5 else 0
    return labels_to_flows(labels), labels > 0


def attractors_scene(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Whole-pixel steps to the points of a grid: equal counts everywhere, so every order is a tie."""
    spacing = int(rng.integers(5, 14))
    y, x = np.mgrid[: shape[0], : shape[1]]
    dy = np.sign(spacing // 2 - y % spacing)
    dx = np.sign(spacing // 2 - x % spacing)
    return np.stack([dy, dx]).astype(np.float32), np.ones(shape, bool)


def plateaus_scene(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows that drain into lines, along which counts are equal."""
    spacing = int(rng.integers(12, 26))
    y, x = np.mgrid[: shape[0], : shape[1]]
    along_y = rng.random() < 0.5
    line = np.sign(spacing // 2 - (y if along_y else x) % spacing).astype(np.float32)
    still = np.zeros(shape, np.float32)
    return np.stack([line, still] if along_y else [still, line]), rng.random(shape) < 0.97


def streams_scene(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One direction everywhere: pixels leave their window, or pile up at the slide's edge."""
    angle = rng.uniform(0, 2 * np.pi)
    flow = np.empty((2, *shape), np.float32)
    flow[0], flow[1] = np.sin(angle), np.cos(angle)
    foreground = ndi.gaussian_filter(rng.normal(size=shape), 4) > rng.normal(0, 0.05)
    return flow, foreground


def relays_scene(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Patches that jump away from their seed to a relay pixel, which throws them back: the longest ways round."""
    flow, foreground = np.zeros((2, *shape), np.float32), np.zeros(shape, bool)
    reach = int(rng.choice([4, 4 + DIAMETER_PX // 3, DIAMETER_PX // 2]))
    inside = np.array(shape) - 1
    for _ in range(60):
        seed = rng.integers(0, shape)
        away = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)][rng.integers(4)]) * (reach - 2)
        relay = seed + 2 * away
        patch = np.stack(np.mgrid[-1:2, -2:2], -1).reshape(-1, 2) + seed + away
        if (relay < 0).any() or (relay > inside).any() or (patch < 0).any() or (patch > inside).any():
            continue
        flow[:, patch[:, 0], patch[:, 1]] = (relay - patch).T
        foreground[patch[:, 0], patch[:, 1]] = True
        flow[:, relay[0], relay[1]] = seed - relay
        flow[:, seed[0], seed[1]] = 0
        foreground[[relay[0], seed[0]], [relay[1], seed[1]]] = True
    return flow, foreground


def noise_scene(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Random fields of a random grain and strength, whirls among them."""
    grain = float(rng.choice([0.0, 1.5, 4.0, 9.0]))
    flow = rng.normal(size=(2, *shape))
    if grain:
        flow = np.stack([ndi.gaussian_filter(f, grain) for f in flow])
        flow /= np.abs(flow).max() + 1e-9
    flow *= rng.choice([0.3, 1.0, 2.5])
    foreground = ndi.gaussian_filter(rng.normal(size=shape), 2) > rng.choice([-1.0, 0.0, 0.1])
    return flow.astype(np.float32), foreground


SCENES = {
    "cells": cells_scene,
    "giants": giants_scene,
    "nested": nested_scene,
    "attractors": attractors_scene,
    "plateaus": plateaus_scene,
    "streams": streams_scene,
    "relays": relays_scene,
    "noise": noise_scene,
}


def make_field(names: list[str], seed: int, shape: tuple[int, int], jitter: float) -> Field:
    """Lay scenes beside each other in random stripes, add noise to the flows, and make random layers."""
    rng = np.random.default_rng(seed)
    flow = np.zeros((2, *shape), np.float32)
    foreground = np.zeros(shape, bool)
    stripes = np.sort(rng.integers(0, shape[1] + 1, len(names) - 1))
    edges = [0, *stripes.tolist(), shape[1]]
    for name, x0, x1 in zip(names, edges[:-1], edges[1:], strict=True):
        one_flow, one_foreground = SCENES[name](rng, shape)
        flow[..., x0:x1], foreground[:, x0:x1] = one_flow[..., x0:x1], one_foreground[:, x0:x1]
    if jitter:
        flow += rng.normal(0, jitter, flow.shape).astype(np.float32)
    return Field(flow=flow, foreground=foreground, layers=rng.integers(0, 256, (3, *shape), dtype=np.uint8))


fields = st.builds(
    make_field,
    st.lists(st.sampled_from(sorted(SCENES)), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(20, 170), st.integers(20, 170)),
    st.sampled_from([0.0, 0.0, 0.05, 0.4]),
)
all_options = st.builds(
    Options,
    niter=st.sampled_from([1, 20, 80]),
    flow_threshold=st.sampled_from([0.0, 0.4, 1.0]),
    min_area_px=st.sampled_from([1, 15]),
    diameter_px=st.sampled_from([9, DIAMETER_PX, 25]),
)
