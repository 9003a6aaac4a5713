"""A cohort of trephines on a plane, and a new sample on it.

The features of every sample (its megakaryocytes, phenotypes, arrangement, cellularity) are standardised, what is
missing is the cohort's median, and the first two principal components are the axes (Pearson, Philos. Mag. 2:559, 1901).
Or, where that is asked for, UMAP lays the samples out (McInnes et al., arXiv 1802.03426): of it the places are kept and
nothing else, and a new sample lies among its neighbours as in UMAP's own start (:func:`placed_among`). Around the
samples of a class run the contours of their kernel density (Gaussian, Scott's width) that enclose 50 and 90 % of it. A
map like this is the output of Sirinukunwattana et al., Blood Adv 4:3284, 2020. It shows who is like whom; it is no
test, and two components leave out most of what there is: how much they keep is in the file. On a UMAP how far groups
lie apart means little.

The map is one JSON file beside its model, ``NAME.slides.map.json``; reference samples have a class and a place there,
no name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from wsi_pipeline.errors import DataError, ModelError
from wsi_pipeline.predictions.trephines.parts import Number, Part
from wsi_pipeline.predictions.trephines.window import FloatArray

FORMAT = "wsi-pipeline cohort map 1"
SHARES = (0.5, 0.9)
"""Of the density of a class that its contours enclose."""
LEAST_OF_CLASS = 5
"""Samples of a class that contours need."""
NEAREST = 5
"""Reference samples that are named for a new one."""
MapMethod = Literal["pca", "umap"]
LEAST_FOR_UMAP = 30
"""Samples; UMAP's picture of fewer would be chance."""
_UMAP_NEIGHBOURS = 15
_GRID = 80
_LEAST_KNOWN = 0.5
_SAME = 1e-9
"""Standard deviations under which two samples are one."""
_SHOWN_LOADINGS = 5
_MAX_BYTES = 20_000_000


class MapClass(Part):
    """A class of the task: code, name for people."""

    code: str
    name: str


class MapSample(Part):
    """A reference sample: its class, place on the map, and standardised features."""

    code: str
    x: Number
    y: Number
    z: tuple[Number, ...]


class MapContour(Part):
    """Lines ``(x, y)`` that enclose ``share`` of the density of a class."""

    code: str
    share: Annotated[float, Field(gt=0, lt=1)]
    paths: tuple[tuple[tuple[Number, Number], ...], ...]


class MapAxis(Part):
    """A principal component: share of the variance, and the features that weigh most, with their loadings."""

    explained: Annotated[float, Field(ge=0, le=1)]
    loadings: tuple[Number, ...]
    main: tuple[tuple[str, Number], ...]


class MapDocument(Part):
    """What the file holds; a map of ``umap`` has no axes."""

    format: Literal["wsi-pipeline cohort map 1"]
    model: str
    simulated: bool
    trained_on: str
    features: Annotated[tuple[str, ...], Field(min_length=2)]
    median: tuple[Number, ...]
    mean: tuple[Number, ...]
    spread: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    method: MapMethod = "pca"
    axes: tuple[MapAxis, MapAxis] | tuple[()]
    classes: tuple[MapClass, ...]
    samples: Annotated[tuple[MapSample, ...], Field(min_length=3)]
    contours: tuple[MapContour, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> MapDocument:
        d, codes = len(self.features), {own.code for own in self.classes}
        lengths = {len(self.median), len(self.mean), len(self.spread), *(len(a.loadings) for a in self.axes)}
        lengths |= {len(own.z) for own in self.samples}
        if lengths != {d}:
            raise ValueError(f"{d} features are named, and as many numbers of each kind are needed")
        if bool(self.axes) != (self.method == "pca"):
            raise ValueError(f"a map of {self.method} has {len(self.axes)} axes")
        if {own.code for own in self.samples} - codes or {own.code for own in self.contours} - codes:
            raise ValueError("a sample or contour is of a class that is not there")
        return self


@dataclass(frozen=True, kw_only=True)
class CohortMap:
    """A map that places samples."""

    document: MapDocument

    @cached_property
    def _reference(self) -> FloatArray:
        return np.array([own.z for own in self.document.samples])

    def place(self, names: Sequence[str], values: FloatArray) -> dict[str, Any]:
        """Return where a sample lies: ``x``, ``y``, and the ``nearest`` reference samples in all features.

        ``known`` is the share of the map's features that the sample has; the others are taken for the cohort's medians.
        Distances are root mean squares over features, in standard deviations of the cohort.

        Parameters
        ----------
        names, values
            Features of the sample, ``(m,)``, NaN where missing.

        Raises
        ------
        ModelError
            The sample has none of the map's features.
        """
        own = self.document
        there = {name: v for name, v in zip(names, values.tolist(), strict=True) if np.isfinite(v)}
        known = float(np.mean([name in there for name in own.features]))
        if known == 0:
            raise ModelError(f"the map of {own.model} reads {own.features[0]} and others, none of which the sample has")
        x_own = np.array([there.get(name, m) for name, m in zip(own.features, own.median, strict=True)])
        z = (x_own - np.asarray(own.mean)) / np.asarray(own.spread)
        gap = np.sqrt(((self._reference - z) ** 2).mean(axis=1))
        if own.method == "umap":
            x, y = placed_among(np.array([(s.x, s.y) for s in own.samples]), gap)
        else:
            x, y = (float(z @ np.asarray(axis.loadings)) for axis in own.axes)
        order = np.argsort(gap, kind="stable")[:NEAREST].tolist()
        nearest = [{"class": own.samples[i].code, "distance": float(gap[i])} for i in order]
        return {"x": x, "y": y, "known": known, "nearest": nearest}

    def drawing(self, sample: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what is drawn: classes, axes, reference places, contours and the sample; JSON values only."""
        own = self.document
        return {
            "model": own.model,
            "simulated": own.simulated,
            "trained_on": own.trained_on,
            "method": own.method,
            "classes": [c.model_dump() for c in own.classes],
            "axes": [{"explained": a.explained, "main": [list(m) for m in a.main]} for a in own.axes],
            "samples": [{"class": s.code, "x": s.x, "y": s.y} for s in own.samples],
            "contours": [
                {"class": c.code, "share": c.share, "paths": [[list(p) for p in path] for path in c.paths]}
                for c in own.contours
            ],
            "sample": None if sample is None else dict(sample),
        }


def fit_cohort_map(
    names: Sequence[str],
    values: FloatArray,
    labels: Sequence[str],
    *,
    classes: Sequence[tuple[str, str]],
    model: str,
    simulated: bool,
    trained_on: str,
    method: MapMethod = "pca",
    seed: int = 0,
) -> CohortMap | None:
    """Return the map of a cohort; None where fewer than two features vary.

    Parameters
    ----------
    names, values
        Features, and ``(n, d)`` of the samples, NaN where missing; those that half of the samples lack do not enter.
    labels
        Class of each sample.
    classes
        Code and name of each class.
    method
        ``pca``, or ``umap`` with ``seed``.

    Raises
    ------
    DataError
        ``umap`` of fewer than :data:`LEAST_FOR_UMAP` samples.
    """
    check_map(method, len(values))
    known = np.isfinite(values).mean(axis=0) >= _LEAST_KNOWN
    varies = np.array([np.unique(v[np.isfinite(v)]).size > 1 for v in values.T], bool)
    kept = np.flatnonzero(known & varies)
    if len(kept) < 2 or len(values) < 3:
        return None
    x = values[:, kept]
    median = np.nanmedian(x, axis=0)
    x = np.where(np.isfinite(x), x, median)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    z = (x - mean) / spread
    features = [names[i] for i in kept.tolist()]
    places, axes = _umap(z, seed) if method == "umap" else _principal(z, features)
    document = MapDocument(
        format=FORMAT,
        model=model,
        simulated=simulated,
        trained_on=trained_on,
        features=tuple(features),
        median=tuple(median.tolist()),
        mean=tuple(mean.tolist()),
        spread=tuple(spread.tolist()),
        method=method,
        axes=axes,
        classes=tuple(MapClass(code=code, name=name) for code, name in classes),
        samples=tuple(
            MapSample(code=label, x=float(p[0]), y=float(p[1]), z=tuple(row))
            for label, p, row in zip(labels, places, z.tolist(), strict=True)
        ),
        contours=tuple(_contours(places, np.asarray(labels), [code for code, _ in classes])),
    )
    return CohortMap(document=document)


def check_map(method: MapMethod, n: int) -> None:
    """Refuse a map that so few samples cannot have.

    Raises
    ------
    DataError
        ``umap`` of fewer than :data:`LEAST_FOR_UMAP` samples.
    """
    if method == "umap" and n < LEAST_FOR_UMAP:
        raise DataError(f"a UMAP of {n} samples would be chance: {LEAST_FOR_UMAP} are needed; use --map pca")


def placed_among(places: FloatArray, distance: FloatArray) -> tuple[float, float]:
    """Return where a sample lies among reference samples: the mean of its neighbours' places, by weight.

    The weight falls off as in UMAP: 1 for the nearest, then exponentially with what is further, measured in mean excess
    of the neighbours' distances. A sample that is one of the reference lies in its place.

    Parameters
    ----------
    places, distance
        ``(n, 2)`` of the reference samples, and ``(n,)`` from the new one to each.
    """
    near = np.argsort(distance, kind="stable")[:NEAREST]
    if distance[near[0]] < _SAME:
        return float(places[near[0], 0]), float(places[near[0], 1])
    excess = distance[near] - distance[near[0]]
    weight = np.exp(-excess / max(float(excess.mean()), 1e-9))
    x, y = (places[near] * weight[:, None]).sum(axis=0) / weight.sum()
    return float(x), float(y)


def _umap(z: FloatArray, seed: int) -> tuple[FloatArray, tuple[()]]:
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed rules out threads, which UMAP warns of
        made = UMAP(n_neighbors=_UMAP_NEIGHBOURS, min_dist=0.15, random_state=seed, n_jobs=1)
        return np.asarray(made.fit_transform(z), np.float64), ()


def _principal(z: FloatArray, features: Sequence[str]) -> tuple[FloatArray, tuple[MapAxis, MapAxis]]:
    _, sizes, axes = np.linalg.svd(z, full_matrices=False)
    axes = axes[:2]
    # The sign of a component is arbitrary: its largest loading is made positive.
    axes = axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
    explained = (sizes**2 / (sizes**2).sum())[:2]
    return z @ axes.T, (_axis(features, axes[0], explained[0]), _axis(features, axes[1], explained[1]))


def _axis(features: Sequence[str], loadings: FloatArray, explained: float) -> MapAxis:
    order = np.argsort(-np.abs(loadings), kind="stable")[:_SHOWN_LOADINGS].tolist()
    main = tuple((features[i], float(loadings[i])) for i in order)
    return MapAxis(explained=float(explained), loadings=tuple(loadings.tolist()), main=main)


def _contours(places: FloatArray, labels: npt.NDArray[np.str_], codes: Sequence[str]) -> list[MapContour]:
    from scipy.stats import gaussian_kde
    from skimage.measure import find_contours

    low, high = places.min(axis=0), places.max(axis=0)
    margin = 0.5 * (high - low) + 1e-9
    axes = [np.linspace(a - m, b + m, _GRID) for a, b, m in zip(low, high, margin, strict=True)]
    grid = np.stack([part.ravel() for part in np.meshgrid(*axes)])
    found = []
    for code in codes:
        own = places[labels == code]
        if len(own) < LEAST_OF_CLASS or np.linalg.matrix_rank(own - own.mean(axis=0)) < 2:
            continue
        density = gaussian_kde(own.T)(grid).reshape(_GRID, _GRID)
        falling = np.sort(density.ravel())[::-1]
        inside = np.cumsum(falling) / falling.sum()
        for share in SHARES:
            level = float(falling[np.searchsorted(inside, share)])
            paths = [
                tuple(
                    (float(np.interp(c, np.arange(_GRID), axes[0])), float(np.interp(r, np.arange(_GRID), axes[1])))
                    for r, c in line.tolist()
                )
                for line in find_contours(density, level)
            ]
            found.append(MapContour(code=code, share=share, paths=tuple(paths)))
    return found


def load_cohort_map(path: Path) -> CohortMap | None:
    """Return the map of a file; None where there is no such file.

    Raises
    ------
    ModelError
        It is no map, or damaged.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{path} is no cohort map: it has more than {_MAX_BYTES:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} is no cohort map: it is not readable as JSON ({str(error)[:120]})") from None
    try:
        return CohortMap(document=MapDocument.model_validate(found))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise ModelError(f"{path} is no cohort map: {place}{': ' if place else ''}{said}") from None
