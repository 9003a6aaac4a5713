"""Make the evidence file of a cell classifier: reference cells, their map, the out-of-distribution score, its figures.

Nothing here changes a weight or an answer. The score is fitted on training cells, calibrated on validation cells and
measured on test cells; the reference cells are training cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.classifier import CellClassifier, Probabilities, load_classifier
from wsi_pipeline.cells.evidence import CARD_ENTRY, Evidence, evidence_name, write_evidence
from wsi_pipeline.cells.out_of_distribution import CUT_OFF, OutOfDistribution, fit_out_of_distribution
from wsi_pipeline.cells.reference import THUMB_PX, Reference, picture_sheet
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.predictions.assessment.auc import auroc
from wsi_pipeline.predictions.assessment.calibration import Calibration, calibration
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.training.cards import Figure, figure_of, replace_entry
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.evidence_data import check_split, packed_split
from wsi_pipeline.training.cells.held_out import HeldOut, held_out_classes, held_out_figures, small_recipe
from wsi_pipeline.weights import file_sha256, load_weights

PER_CLASS = 72
"""Reference cells of a class, its data sets as even as they come."""

_FITTED_ON = 500
_MIN_FOR_UMAP = 50
_BLUR_UM = 1.5
_TEST_CELLS = 2500


def make_evidence(
    weights: Path,
    cells: PackedCells,
    split: npt.NDArray[np.str_],
    groups: npt.NDArray[np.int64],
    out: Path,
    *,
    pictures: bool = True,
    held_out: Sequence[HeldOut] = (),
    device: str = "cpu",
    report: Callable[[str], None],
) -> Path:
    """Write ``<name>.evidence.safetensors`` beside weights, enter it into their card, and return its path.

    Parameters
    ----------
    weights
        A ``.safetensors`` file with its card.
    cells, split, groups
        The cells of its training, the split of each (``train``, ``val``, ``test``) and its near-duplicate group.
    out
        Receives pictures for people: ``evidence_map.png`` (the map, and t-SNE of the same cells beside it) and
        ``temperature.png``.
    pictures
        Keep a small picture of each reference cell, so that neighbours can be looked at. Only where those images may
        go wherever the weights go.
    held_out
        What :func:`wsi_pipeline.training.cells.held_out.held_out_classes` measured, for the card.
    device
        ``cpu`` or a CUDA device.
    report
        Receives progress lines.

    Raises
    ------
    DataError
        There are no training or no validation cells.
    """
    from wsi_pipeline.training.cells.evidence_figures import draw_map, draw_temperature

    classifier = load_classifier(weights, device)
    known = np.isin(cells.class_names, classifier.classes)
    train, val, test = (np.flatnonzero((split == s) & known) for s in ("train", "val", "test"))
    if not len(train) or not len(val):
        raise DataError(f"{weights}: evidence needs training and validation cells, found {len(train)} and {len(val)}")
    keys = _keys(cells)
    train = _even(cells, train, keys, _FITTED_ON)
    test = test[np.argsort(keys[test], kind="stable")][:_TEST_CELLS]
    report(f"evidence: looking at {len(train)} training, {len(val)} validation and {len(test)} test cells")
    seen = {s: _answers(classifier, cells, i) for s, i in (("train", train), ("val", val), ("test", test))}
    rank = {name: i for i, name in enumerate(classifier.classes)}
    labels = np.array([rank[n] for n in cells.class_names[train].tolist()], dtype=np.int64)
    score = fit_out_of_distribution(seen["train"].embedding, labels, seen["val"].p, seen["val"].embedding)
    chosen = _reference_cells(cells, train, groups, keys)
    position = {int(cell): i for i, cell in enumerate(train)}
    embedding = seen["train"].embedding[[position[int(c)] for c in chosen]]
    report(f"evidence: mapping {len(chosen)} reference cells")
    place, mapped_by = lay_out(embedding)
    sources = tuple(sorted(set(cells.sources[chosen].tolist())))
    reference = Reference(
        embedding=embedding,
        place=place,
        class_index=np.array([rank[n] for n in cells.class_names[chosen].tolist()], np.uint8),
        source_index=np.array([sources.index(s) for s in cells.sources[chosen].tolist()], np.uint8),
        sheet=(
            picture_sheet(_pictures(cells.windows(classifier.window_px, chosen))) if pictures else np.zeros(0, np.uint8)
        ),
        classes=classifier.classes,
        sources=sources,
    )
    path = weights.with_name(evidence_name(weights))
    write_evidence(path, reference, score, classifier.sha256)
    truth = cells.class_names[test]
    temperature = float(classifier.card["temperature"])
    before, after = _reliability(classifier, seen["test"], truth, temperature)
    figures = _figures(classifier, score, reference, seen, cells, test) + held_out_figures(list(held_out))
    figures += [
        Figure(name="expected calibration error before temperature scaling", on="test cells", n=len(test),
               value=before.ece),
        Figure(name=f"expected calibration error at temperature {temperature:g}", on="test cells", n=len(test),
               value=after.ece),
    ]  # fmt: skip
    entry = {
        "file": path.name,
        "sha256": file_sha256(path),
        "reference": {"cells": len(reference), "per_class": PER_CLASS, "sources": list(sources), "map": mapped_by},
        "out_of_distribution": {
            "score": "distance and doubt, in standard deviations of validation cells",
            "calibrated_on": f"{len(val)} validation cells",
            "cut_off": CUT_OFF,
            "held_out": [asdict(h) for h in held_out],
        },
        "calibration": {
            "temperature": temperature,
            "n": len(test),
            "before": _bins(before),
            "after": _bins(after),
        },
        "figures": [asdict(figure) for figure in figures],
    }
    replace_entry(weights, CARD_ENTRY, entry, evidence_tables)
    draw_map(out / "evidence_map.png", reference, mapped_by)
    draw_temperature(out / "temperature.png", before, after, temperature)
    Evidence.load(load_classifier(weights, device))  # what was written can be read
    for figure in figures:
        report(f"{figure.name}, {figure.on}, n={figure.n}: {'-' if figure.value is None else f'{figure.value:.3f}'}")
    report(f"evidence: {path}, {path.stat().st_size / 1e3:.0f} kB")
    return path


def make_evidence_of(
    weights: Path,
    data: Path | None,
    work: Path,
    *,
    mpp: float | None = None,
    pictures: bool = True,
    held_out_epochs: int = 0,
    device: str = "cpu",
    report: Callable[[str], None],
) -> Path:
    """Make the evidence of weights that are there from the images of their training, without training them.

    Parameters
    ----------
    weights
        A ``.safetensors`` file with its card, for example the shipped one.
    data, mpp
        As :func:`wsi_pipeline.training.cells.train_shipped.train_cells` was given them; not needed for weights trained
        on cells of one's own, whose ``work`` folder has all.
    work
        Folder with the packed images and the split (``cells.npz``, ``split.csv``) of the training; for the shipped
        recipe they are made there when they are missing.
    pictures
        As in :func:`make_evidence`.
    held_out_epochs
        Epochs of the small networks of :mod:`wsi_pipeline.training.cells.held_out`; 0 trains none and takes over what
        the card says of an earlier time.

    Raises
    ------
    DataError
        The data are not those of the training.
    """
    card = load_weights(weights).card
    if "training" in card:
        cells, split, groups = packed_split(work)
        check_split(weights, split, work)
    elif data is None:
        raise DataError(f"{weights} was made from the data sets of the shipped recipe; give their folder with --data")
    else:
        from wsi_pipeline.training.cells.train_shipped import cells_of_card

        cells, split, groups = cells_of_card(weights, data, work, mpp=mpp, report=report)
    earlier = card.get(CARD_ENTRY, {}).get("out_of_distribution", {}).get("held_out", [])
    held_out = [HeldOut(**row) for row in earlier]
    if held_out_epochs:
        classifier = load_classifier(weights, device)
        recipe = small_recipe(
            classifier.mpp,
            classifier.window_px,
            cells.images.shape[1],
            classifier.preparation.to_card(),
            held_out_epochs,
        )
        held_out = held_out_classes(cells, split, classifier.classes, work, recipe=recipe, device=device, report=report)
    return make_evidence(
        weights, cells, split, groups, work, pictures=pictures, held_out=held_out, device=device, report=report
    )


def lay_out(embedding: npt.NDArray[np.float16], seed: int = 0) -> tuple[npt.NDArray[np.float32], str]:
    """Return places on a map, ``(n, 2)`` within 0 to 1, and how they were found.

    UMAP with cosine distances; of fewer than 50 cells the first two principal components, since UMAP's picture of so
    few would be chance.
    """
    wide = embedding.astype(np.float32)
    if len(wide) < _MIN_FOR_UMAP:
        centred = wide - wide.mean(axis=0)
        u, size, _ = np.linalg.svd(centred, full_matrices=False)
        found = np.zeros((len(wide), 2))
        kept = min(2, len(size))
        found[:, :kept] = u[:, :kept] * size[:kept]
        return _unit_square(found), "principal components"
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed rules out threads, which UMAP warns of
        found = UMAP(n_neighbors=15, min_dist=0.15, metric="cosine", random_state=seed, n_jobs=1).fit_transform(wide)
    return _unit_square(np.asarray(found, np.float64)), "UMAP, 15 neighbours, cosine"


def evidence_tables(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return titles and plain-text tables of an ``evidence`` entry for the Markdown card."""
    rows = [
        [f["name"], f["on"], f["n"], _number(f["value"]),
         "-" if f["lower"] is None else f"{_number(f['lower'])} to {_number(f['upper'])}"]
        for f in entry["figures"]
    ]  # fmt: skip
    reference, unlike = entry["reference"], entry["out_of_distribution"]
    words = (
        f"{reference['cells']} reference cells ({', '.join(reference['sources'])}), map: {reference['map']}. "
        f"Out-of-distribution score: {unlike['score']}, calibrated on {unlike['calibrated_on']}; "
        f"unusual above {unlike['cut_off']:g}."
    )
    bins = [
        [f"{b['lower']:.1f}-{b['upper']:.1f}", b["n"], _number(b["confidence"]), _number(b["accuracy"])]
        for b in entry["calibration"]["after"]["bins"]
        if b["n"]
    ]
    return {
        "Evidence for single cells": words + "\n\n" + text_table(["figure", "on", "n", "value", "95 % interval"], rows),
        "Reliability of the probabilities after temperature scaling": text_table(
            ["probability", "cells", "mean probability", "share right"], bins
        ),
    }


def _keys(cells: PackedCells) -> npt.NDArray[np.str_]:
    """Return what orders cells at random, the same for the same cells whatever their order."""
    return np.array([hashlib.sha256(f"evidence-1:{d}".encode()).hexdigest()[:16] for d in cells.digests.tolist()])


def _even(
    cells: PackedCells, index: npt.NDArray[np.int64], keys: npt.NDArray[np.str_], most: int
) -> npt.NDArray[np.int64]:
    """Return at most so many cells of each class and data set, in the order they came in."""
    chosen: list[int] = []
    for name in np.unique(cells.class_names[index]):
        for source in np.unique(cells.sources[index]):
            members = index[(cells.class_names[index] == name) & (cells.sources[index] == source)]
            chosen += members[np.argsort(keys[members], kind="stable")][:most].tolist()
    return np.array(sorted(chosen), dtype=np.int64)


def _reference_cells(
    cells: PackedCells,
    train: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    keys: npt.NDArray[np.str_],
) -> npt.NDArray[np.int64]:
    """Return reference cells: of each near-duplicate group one, of each class its data sets in turn."""
    ordered = train[np.argsort(keys[train], kind="stable")]
    _, first = np.unique(groups[ordered], return_index=True)
    ordered = ordered[np.sort(first)]
    chosen: list[int] = []
    for name in np.unique(cells.class_names[ordered]):
        members = ordered[cells.class_names[ordered] == name]
        turn = np.zeros(len(members), np.int64)
        for source in np.unique(cells.sources[members]):
            own = cells.sources[members] == source
            turn[own] = np.arange(own.sum())
        chosen += members[np.argsort(turn, kind="stable")][:PER_CLASS].tolist()
    return np.array(sorted(chosen), dtype=np.int64)


def _answers(
    classifier: CellClassifier, cells: PackedCells, index: npt.NDArray[np.int64], blur_um: float = 0.0
) -> Probabilities:
    windows = cells.windows(classifier.window_px, index)
    if blur_um:
        from scipy.ndimage import gaussian_filter

        sigma = blur_um / classifier.mpp
        windows = np.stack([gaussian_filter(window, (sigma, sigma, 0)) for window in windows])
    return classifier.predict(np.ascontiguousarray(windows), cells.background[index])


def _pictures(windows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    size = (THUMB_PX, THUMB_PX)
    return np.stack([np.asarray(Image.fromarray(w).resize(size, Image.Resampling.LANCZOS)) for w in windows])


def _unit_square(found: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    low = found.min(axis=0)
    return ((found - low) / max(float((found.max(axis=0) - low).max()), 1e-9)).astype(np.float32)


def _reliability(
    classifier: CellClassifier, answer: Probabilities, truth: npt.NDArray[np.str_], temperature: float
) -> tuple[Calibration, Calibration]:
    """Return the calibration before and after temperature scaling.

    The probabilities before are found from those after: softmax(z) is softmax(z / T) to the power T, normalised.
    """
    right = np.array(classifier.classes)[answer.p.argmax(axis=1)] == truth
    raw = np.maximum(answer.p.astype(np.float64), 1e-30) ** temperature
    raw /= raw.sum(axis=1, keepdims=True)
    return calibration(raw.max(axis=1), right), calibration(answer.p.max(axis=1), right)


def _bins(found: Calibration) -> dict[str, Any]:
    return {"ece": found.ece, "bins": [asdict(b) for b in found.bins]}


def _figures(
    classifier: CellClassifier,
    score: OutOfDistribution,
    reference: Reference,
    seen: Mapping[str, Probabilities],
    cells: PackedCells,
    test: npt.NDArray[np.int64],
) -> list[Figure]:
    if not len(test):
        return []
    truth, answer = cells.class_names[test], seen["test"]
    inside = score.score(answer.p, answer.embedding)
    unusual = score.percentile_of(inside) > CUT_OFF
    some = np.arange(min(len(test), 400))
    blurred = _answers(classifier, cells, test[some], _BLUR_UM)
    outside = score.score(blurred.p, blurred.embedding)
    near = reference.neighbours(answer.embedding, min(5, len(reference)))
    majority = np.array([max(sorted(set(row)), key=row.count) for row in near.classes.tolist()])
    place = reference.places(answer.embedding).astype(np.float64)
    apart = ((place[:, None] - reference.place.astype(np.float64)[None]) ** 2).sum(axis=2)
    on_map = reference.class_names[apart.argmin(axis=1)]
    return [
        _share(f"share of test cells called unusual (expected {1 - CUT_OFF:.2f})", unusual),
        figure_of(
            f"AUROC of the out-of-distribution score, test cells against the same out of focus by {_BLUR_UM:g} um",
            "test cells", len(some), auroc(inside[some], outside),
        ),
        _share("share of test cells whose nearest reference cells are mostly of their class", majority == truth),
        _share("share of test cells whose nearest reference cell on the map is of their class", on_map == truth),
    ]  # fmt: skip


def _share(name: str, is_so: npt.NDArray[np.bool_]) -> Figure:
    count, n = int(is_so.sum()), len(is_so)
    lower, upper = wilson(count, n)
    return Figure(name=name, on="test cells", n=n, value=count / n, lower=lower, upper=upper)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
