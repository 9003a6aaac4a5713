"""Make the reference of normal neutrophils, and show what the score does on neutrophils whose granules are attenuated.

No public set labels dysplasia. The reference is half of the normal cells of class folders, split by near-duplicate
group; the cut-offs are its percentiles. The other half, untouched by any choice, gives the flags' rates in normal
cells, and, with the granules of its neutrophils attenuated (:mod:`wsi_pipeline.simulation.attenuation`), the response
to a dose.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cells.crop_features import MPP, CropFeatures
from wsi_pipeline.cells.dysplasia import (
    EOSINOPHIL,
    LYMPHOCYTE,
    MEASURES,
    MIN_EOSINOPHILS,
    NEUTROPHILS,
    SEGMENTED,
    DysplasiaReference,
    SlideStain,
    codes_of,
    granularity_score,
    hypogranular,
    pseudo_pelger,
)
from wsi_pipeline.cells.features import NAMES
from wsi_pipeline.cells.windows import estimate_background, resample
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.datasets import read_class_folders
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, percentile_estimate
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.simulation.attenuation import attenuate_granules
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy
from wsi_pipeline.training.cells.train_shipped import today
from wsi_pipeline.training.splits import group_keys, near_duplicate_groups

KEEPS = (0.75, 0.5, 0.25, 0.0)
"""Shares of the granules' structure that stay."""
FADES = (0.5,)
"""Shares of the whole picture's optical density that stay, to see the stain condition at work."""
LOW, ADEQUATE = 2.5, 5.0
"""Percentile of normal cells below which (above 100 less it) a cell is flagged; that of single eosinophils and
lymphocytes which a slide's median must reach."""
CONDENSED = 10.0
"""Percentile of segmented neutrophils from which chromatin counts as condensed."""
_OF = {LYMPHOCYTE: 3}
"""What a cell must have to count: density of the nucleus of lymphocytes, which may have no cytoplasm to measure."""
MOST_ATTENUATED = 30
"""Neutrophils of a class whose granules are attenuated, at most."""
_SIDE = 128
_LEAST, _LEAST_NUCLEI = 40, 5

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NormalCells:
    """Pictures of normal cells of one class and what was measured of them: ``(n, len(MEASURES))``."""

    paths: tuple[Path, ...]
    values: FloatArray
    in_reference: npt.NDArray[np.bool_]

    def part(self, reference: bool, measure: int = 0) -> FloatArray:
        """Return the measures of one half, of cells that have this one: granularity, or another."""
        rows = self.values[self.in_reference == reference]
        return rows[np.isfinite(rows[:, measure])]


def train_dysplasia(
    data: Path,
    out: Path,
    *,
    mpp: float,
    taxonomy: str = "pbc-blast",
    name: str = "neutrophils",
    source: str | None = None,
    licence: str | None = None,
    per_class: int = 600,
    seed: int = 0,
    device: str = "cpu",
    report: Callable[[str], None],
) -> Path:
    """Write ``<name>.json`` (the reference), ``dose_response.csv`` and ``metrics.json``; return the first.

    Parameters
    ----------
    data
        Class folders of cells of healthy people: neutrophils, eosinophils and lymphocytes; others are not read.
    mpp
        Microns per pixel of the pictures.
    taxonomy
        Folder names are its codes or aliases.
    source, licence
        For the provenance; the folder's name and "not stated" when None.
    per_class
        Pictures of each class at most, spread over the folder.

    Raises
    ------
    DataError
        A class is missing or has too few pictures in which a cell was found.
    """
    known = load_taxonomy(taxonomy)
    measure = CropFeatures(device)
    cells = _measured(data, known, mpp, per_class, measure, report)
    document = _document(cells, known, name, source or data.name, licence or "not stated", measure.sha256, taxonomy)
    first = DysplasiaReference.of_document({**document, "normal": _UNKNOWN}, name)
    stain = SlideStain.of(_half(cells, known, (EOSINOPHIL,), False), _half(cells, known, (LYMPHOCYTE,), False))
    normal = _normal_rates(cells, known, stain, first)
    document["normal"] = {flag: [k, n] for flag, (k, n) in normal.items()}
    reference = DysplasiaReference.of_document(document, name)
    for flag, (k, n) in normal.items():
        low, high = wilson(k, n)
        report(f"normal neutrophils, other half: {flag} {k} of {n}, {k / n:.3f} ({low:.3f}-{high:.3f})")
    neutrophils = _of(cells, known, NEUTROPHILS)
    before, after = _attenuated_scores(neutrophils, mpp, reference, measure, seed)
    response = [_response(keep, before, after[:, i], stain, reference, report) for i, keep in enumerate(KEEPS)]
    faded = [_faded(fade, cells, known, mpp, reference, measure, report) for fade in FADES]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "dose_response.csv", _csv(response))
    write_json(out / "metrics.json", {"normal": document["normal"], "dose_response": response, "faded_stain": faded})
    path = out / f"{name}.json"
    write_json(path, {**document, "dose_response": response, "faded_stain": faded})
    return path


_UNKNOWN = {flag: [0, 1] for flag in ("hypogranular", "pseudo_pelger", "dysplastic")}


def _measured(
    data: Path, taxonomy: Taxonomy, mpp: float, per_class: int, measure: CropFeatures, report: Callable[[str], None]
) -> dict[str, NormalCells]:
    wanted = codes_of(taxonomy, (*NEUTROPHILS, EOSINOPHIL, LYMPHOCYTE))
    labelled = read_class_folders(data, taxonomy)
    found: dict[str, NormalCells] = {}
    for code in wanted:
        paths = [item.path for item in labelled if item.label == code]
        if not paths:
            continue
        step = max(1, len(paths) // per_class)
        paths = paths[::step][:per_class]
        pictures = [read_image(path) for path in paths]
        crops = np.stack([_crop(p, mpp) for p in pictures])
        light = np.stack([estimate_background(p) for p in pictures])
        groups = near_duplicate_groups(crops, window_px=66, reach_px=15)
        key = group_keys(groups, [f"{code}/{path.name}" for path in paths], "dysplasia-reference-1")
        values = _columns(measure.measure(crops, light))
        half = np.array([key[g] < 0.5 for g in groups.tolist()])
        found[code] = NormalCells(paths=tuple(paths), values=values, in_reference=half)
        n = int(np.isfinite(values[:, 3]).sum())
        report(f"{code}: {len(paths)} pictures in {len(key)} groups, {n} measured, {int(half.sum())} for the reference")
    for meanings in (NEUTROPHILS, (SEGMENTED,), (EOSINOPHIL,), (LYMPHOCYTE,)):
        fewest = min((len(_half(found, taxonomy, meanings, which)) for which in (True, False)), default=0)
        if fewest < _LEAST:
            raise DataError(
                f"{data}: {' or '.join(meanings)}: {fewest} cells in a half; at least {_LEAST} are needed for a "
                "reference, and as many to test it"
            )
    return found


def _crop(picture: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.uint8]:
    return resample(picture, picture.shape[1] / 2, picture.shape[0] / 2, side=_SIDE, scale=MPP / mpp)


def _columns(features: npt.NDArray[np.float32]) -> FloatArray:
    return features[:, [NAMES.index(name) for name in MEASURES]].astype(np.float64)


def _of(cells: dict[str, NormalCells], taxonomy: Taxonomy, meanings: Sequence[str]) -> list[NormalCells]:
    return [cells[code] for code in codes_of(taxonomy, meanings) if code in cells]


def _half(cells: dict[str, NormalCells], taxonomy: Taxonomy, meanings: Sequence[str], reference: bool) -> FloatArray:
    """Return the measures of one half of some classes."""
    parts = [c.part(reference, _OF.get(meanings[0], 0)) for c in _of(cells, taxonomy, meanings)]
    return np.concatenate([np.empty((0, len(MEASURES))), *parts])


def _document(
    cells: dict[str, NormalCells], taxonomy: Taxonomy, name: str, source: str, licence: str, sha256: str, labels: str
) -> dict[str, Any]:
    neutrophils, segmented = (_half(cells, taxonomy, meanings, True) for meanings in (NEUTROPHILS, (SEGMENTED,)))
    eosinophils, lymphocytes = (_half(cells, taxonomy, (meaning,), True) for meaning in (EOSINOPHIL, LYMPHOCYTE))
    usual = float(np.median(neutrophils[:, 0]))
    nucleus = float(np.median(lymphocytes[:, 3]))

    def plump(lobes: int) -> float:
        own = segmented[segmented[:, 1] == lobes]
        if len(own) < _LEAST_NUCLEI:
            raise DataError(
                f"{len(own)} segmented neutrophils with nuclei of {lobes} lobes; {_LEAST_NUCLEI} are needed"
            )
        return float(np.percentile(own[:, 2], 100 - LOW))

    return {
        "name": name,
        "about": "Normal neutrophils: usual granularity and cut-offs, percentiles of cells of healthy people. Research "
        "use only.",
        "source": source,
        "licence": licence,
        "taxonomy": labels,
        "cells": {code: [int(c.in_reference.sum()), int((~c.in_reference).sum())] for code, c in cells.items()},
        "nuclei": {f"{k} lobes": int((segmented[:, 1] == k).sum()) for k in (1, 2)},
        "split": "reference and test, halves by near-duplicate group",
        "percentiles": {"flagged": LOW, "adequate": ADEQUATE, "condensed": CONDENSED},
        "segmented_by_sha256": sha256,
        "date": today(),
        "mpp": MPP,
        "neutrophil_granularity_od": usual,
        "hypogranular_below": float(np.percentile(neutrophils[:, 0], LOW)) / usual,
        "eosinophil_granularity_od": float(np.median(eosinophils[:, 0])),
        "eosinophil_granularity_from": float(np.percentile(eosinophils[:, 0], ADEQUATE)),
        "eosinophil_eosin_from": float(np.percentile(eosinophils[:, 4], ADEQUATE)),
        "lymphocyte_nucleus_od": nucleus,
        "lymphocyte_nucleus_from": float(np.percentile(lymphocytes[:, 3], ADEQUATE)),
        "round_from": plump(1),
        "bilobed_from": plump(2),
        "condensed_from": float(np.percentile(segmented[:, 3], CONDENSED)) / nucleus,
    }


def _normal_rates(
    cells: dict[str, NormalCells], taxonomy: Taxonomy, stain: SlideStain, reference: DysplasiaReference
) -> dict[str, tuple[int, int]]:
    """Return flagged and judged neutrophils of the half that gave no cut-off."""
    flags = {"hypogranular": 0, "pseudo_pelger": 0, "dysplastic": 0}
    n = n_segmented = 0
    segmented = set(codes_of(taxonomy, (SEGMENTED,)))
    for code in codes_of(taxonomy, NEUTROPHILS):
        if code not in cells:
            continue
        values = cells[code].part(False)
        pale = hypogranular(granularity_score(values[:, 0], reference), stain, reference)
        pelger = np.zeros(len(values), bool)
        if code in segmented:
            pelger = pseudo_pelger(values[:, 1], values[:, 2], values[:, 3], stain, reference)
            n_segmented += len(values)
        n += len(values)
        flags["hypogranular"] += int(pale.sum())
        flags["pseudo_pelger"] += int(pelger.sum())
        flags["dysplastic"] += int((pale | pelger).sum())
    of = {"hypogranular": n, "pseudo_pelger": n_segmented, "dysplastic": n}
    return {flag: (k, of[flag]) for flag, k in flags.items()}


def _attenuated_scores(
    neutrophils: list[NormalCells], mpp: float, reference: DysplasiaReference, measure: CropFeatures, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Return ``(n,)`` scores of the other half's neutrophils, and ``(n, len(KEEPS))`` with attenuated granules."""
    before: list[float] = []
    after: list[list[float]] = []
    for cells in neutrophils:
        for i in np.flatnonzero(~cells.in_reference & np.isfinite(cells.values[:, 0]))[:MOST_ATTENUATED].tolist():
            after.append(_attenuated(cells.paths[i], mpp, measure, seed + i))
            before.append(cells.values[i, 0])
    return granularity_score(before, reference), granularity_score(after, reference)


def _attenuated(path: Path, mpp: float, measure: CropFeatures, seed: int) -> list[float]:
    """Return ``cytoplasm_granularity`` of a picture with each share of its granules, found and measured anew."""
    picture = read_image(path)
    light = estimate_background(picture)
    found = measure.masks(_crop(picture, mpp))
    if found is None:
        return [float("nan")] * len(KEEPS)
    cell, nuclear = found
    places = [
        np.clip(((np.arange(size) + 0.5 - size / 2) * mpp / MPP + _SIDE / 2).astype(int), 0, _SIDE - 1)
        for size in picture.shape[:2]
    ]
    cytoplasm = (cell & ~nuclear)[np.ix_(*places)]
    changed = [
        attenuate_granules(picture, cytoplasm, mpp=mpp, keep=keep, background=light, seed=seed) for keep in KEEPS
    ]
    crops = np.stack([_crop(one, mpp) for one in changed])
    return [float(v) for v in _columns(measure.measure(crops, np.stack([light] * len(crops))))[:, 0]]


def _response(
    keep: float,
    normal: FloatArray,
    pale: FloatArray,
    stain: SlideStain,
    reference: DysplasiaReference,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Compare scores before and after, of cells that were found both times."""
    found = np.isfinite(pale)
    normal, pale = normal[found], pale[found]
    n, k = len(pale), int(hypogranular(pale, stain, reference).sum())
    low, high = wilson(k, n)
    area = paired_auroc(normal, pale)
    report(f"granules kept {keep:.1f}: score {np.median(pale):.2f}, AUROC {area}, flagged {k} of {n}")
    return {
        "granules_kept": keep,
        "n": n,
        "median_score_before": float(np.median(normal)),
        "median_score_after": float(np.median(pale)),
        "auroc": area.value,
        "auroc_lower": area.lower,
        "auroc_upper": area.upper,
        "flagged": k,
        "flagged_share": k / n,
        "flagged_lower": low,
        "flagged_upper": high,
    }


def paired_auroc(normal: FloatArray, changed: FloatArray, *, replicates: int = 1000, seed: int = 0) -> Estimate:
    """Return the chance that a cell's score lies above that of a changed one, resampling cells with both their scores.

    Parameters
    ----------
    normal, changed
        ``(n,)`` scores of the same cells before and after.

    References
    ----------
    Hanley JA, McNeil BJ. Radiology 143:29, 1982, on the area as that chance; ties count half.
    """
    above = (normal[:, None] > changed[None]) + 0.5 * (normal[:, None] == changed[None])
    n = len(normal)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=replicates).astype(np.float64)
    samples = np.einsum("ri,ij,rj->r", weights, above, weights, optimize=True) / n**2
    return percentile_estimate(float(above.mean()), samples)


def _faded(
    fade: float,
    cells: dict[str, NormalCells],
    taxonomy: Taxonomy,
    mpp: float,
    reference: DysplasiaReference,
    measure: CropFeatures,
    report: Callable[[str], None],
    most: int = 15,
) -> dict[str, Any]:
    """Fade the stain of whole pictures of the other half: what the condition says, and what there would be without."""

    def again(meanings: Sequence[str]) -> FloatArray:
        rows = []
        for group in _of(cells, taxonomy, meanings):
            for i in np.flatnonzero(~group.in_reference)[:most].tolist():
                picture = read_image(group.paths[i])
                light = estimate_background(picture)
                pale = light * (np.maximum(picture, 1) / light) ** fade
                crop = _crop(np.clip(np.rint(pale), 0, 255).astype(np.uint8), mpp)
                rows.append(_columns(measure.measure(crop[None], light[None]))[0])
        values = np.array(rows)
        return values[np.isfinite(values[:, _OF.get(meanings[0], 0)])]

    stain = SlideStain.of(again((EOSINOPHIL,)), again((LYMPHOCYTE,)))
    score = granularity_score(again(NEUTROPHILS)[:, 0], reference)
    blind = int((score < reference.hypogranular_below).sum())
    reason = stain.granules_hidden(reference) if stain.n_eosinophils >= MIN_EOSINOPHILS else "too-few-eosinophils"
    report(f"stain kept {fade:.1f}: {reason or 'judged'}; without the condition {blind} of {len(score)} normal flagged")
    return {"stain_kept": fade, "abstains": reason or None, "n": len(score), "flagged_without_condition": blind}


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return text.getvalue()
