"""Find phenotypes of megakaryocytes in finished runs of trephines: clusters of their measures, and how many there are.

k-means (Lloyd, IEEE Trans. Inf. Theory 28:129, 1982) of standardised measures. For every k of a stated range

- stability: slides are dealt to two halves ten times, each half is clustered, both sets of centres label all cells, and
  the two labellings are compared by the adjusted Rand index (Hubert and Arabie, J. Classif. 2:193, 1985; stability as
  in Ben-Hur et al., Pac. Symp. Biocomput. 2002:6). Halves of slides, not of cells: what comes back must come back in
  other patients.
- silhouette (Rousseeuw, J. Comput. Appl. Math. 20:53, 1987), on at most 2,000 cells.

Of the k with a stability of at least 0.8 the one of greatest silhouette is taken; where none is that stable, the most
stable one, and the card says so. A slide gives at most as many cells as :data:`MOST_OF_SLIDE`, so that few slides do
not decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_json, write_text, writing
from wsi_pipeline.errors import ConfigError, DataError, some
from wsi_pipeline.predictions.bags.runs import SECTIONS, FinishedSlide, list_runs
from wsi_pipeline.predictions.trephines.megakaryocytes import Megakaryocytes, read_megakaryocytes
from wsi_pipeline.predictions.trephines.phenotypes import (
    FEATURES,
    FORMAT,
    PhenotypeModel,
    load_phenotypes,
    raw_features,
)
from wsi_pipeline.predictions.trephines.window import FloatArray
from wsi_pipeline.training.cards import Card, DataSource, Figure, render_markdown
from wsi_pipeline.training.cells.train_shipped import today
from wsi_pipeline.training.phenotypes.names import name_phenotypes
from wsi_pipeline.weights import file_sha256

IntArray = npt.NDArray[np.int64]

RANGE = (3, 8)
LEAST_CELLS, LEAST_SLIDES = 200, 6
MOST_OF_SLIDE = 500
STABLE = 0.8
_HALVES = 10
_STARTS = 10
_SILHOUETTE_CELLS = 2000
_LEAST_KNOWN = 0.8
_SUFFIX = ".phenotypes.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_REFERENCE_LEVELS = (0.1, 0.9)


@dataclass(frozen=True, kw_only=True)
class PhenotypeTraining:
    """What to learn phenotypes from.

    Parameters
    ----------
    runs
        Folders that ``run`` wrote, of trephines.
    k
        How many phenotypes; None chooses between ``least`` and ``most``.
    directions
        Principal directions of the cells' embedding that enter beside the measures; 0 for none.

    Raises
    ------
    ConfigError
        The numbers of phenotypes make no range.
    """

    runs: tuple[Path, ...]
    k: int | None = None
    least: int = RANGE[0]
    most: int = RANGE[1]
    directions: int = 0
    seed: int = 0
    licence: str = "not stated"
    title: str | None = None
    attribution: str = "not stated"

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.most <= 40:
            raise ConfigError(f"phenotypes between {self.least} and {self.most}: 2 or more, 40 at most, are needed")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One number of phenotypes: mean stability, and silhouette."""

    k: int
    stability: float
    silhouette: float


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Cells of all slides: features ``(n, d)``, the slide of each ``(n,)``, raw measures by name."""

    x: FloatArray
    slide: IntArray
    names: tuple[str, ...]
    embedding: dict[str, Any] | None
    measures: dict[str, FloatArray]


def train_phenotypes(
    request: PhenotypeTraining, out: Path, *, report: Callable[[str], None] = lambda _: None
) -> PhenotypeModel:
    """Find phenotypes, write the model with its card (``.json``) and the card for people (``.md``), return the model.

    Parameters
    ----------
    out
        File whose name ends in ``.phenotypes.json``.

    Raises
    ------
    ConfigError
        The file's name is none of a model.
    DataError
        There are too few slides or megakaryocytes, or none has a measured nucleus.
    """
    name = out.name.removesuffix(_SUFFIX)
    if not out.name.endswith(_SUFFIX) or not _NAME.fullmatch(name):
        raise ConfigError(f"--out {out}: a file NAME{_SUFFIX} is needed, the name of letters, digits, '-' and '_'")
    slides, skipped = list_runs(request.runs, specimens=SECTIONS)
    if not slides:
        raise DataError(
            f"{some(map(str, request.runs))} has no trephine with cells: {some(map(str, skipped)) or 'none'}"
        )
    read = [read_megakaryocytes(slide.cells) for slide in slides]
    cells = _gathered(read, request, report)
    n_slides = int(np.unique(cells.slide).size)
    if len(cells.x) < LEAST_CELLS or n_slides < LEAST_SLIDES:
        raise DataError(
            f"{len(cells.x)} measured megakaryocytes on {n_slides} slides; {LEAST_CELLS} on {LEAST_SLIDES} slides are "
            "needed to tell phenotypes"
        )
    mean, spread = cells.x.mean(axis=0), cells.x.std(axis=0)
    z = (cells.x - mean) / spread
    report(f"{len(z)} megakaryocytes of {n_slides} slides; features: {', '.join(cells.names)}")
    choices = _choices(z, cells.slide, request)
    k, why = _chosen(choices, request.k)
    report(why)
    label, centres = _clustered(z, k, request.seed)
    order = np.argsort([np.median(cells.measures["area_um2"][label == c]) for c in range(k)], kind="stable")
    label, centres = np.argsort(order)[label], centres[order]
    named = name_phenotypes(centres, label, cells.names, cells.measures)
    simulated = any(slide.simulated for slide in slides)
    title = request.title or f"{len(slides)} slides of {', '.join(run.name for run in request.runs)}"
    trained_on = f"{'simulated: ' if simulated else ''}{len(z)} megakaryocytes of {n_slides} slides: {title}"
    document: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "features": list(cells.names),
        "embedding": cells.embedding,
        "mean": mean.tolist(),
        "spread": spread.tolist(),
        "phenotypes": [
            {
                "code": own.code,
                "name": own.name,
                "n_cells": int((label == c).sum()),
                "centre": centres[c].tolist(),
                "medians": own.medians,
            }
            for c, own in enumerate(named)
        ],
        "reference": [],
        "simulated": simulated,
        "trained_on": trained_on,
        "card": {},
    }
    with writing(out):
        write_json(out, document)
        document["reference"] = _reference(load_phenotypes(out), slides, read)
        card = _card(request, document, choices, why, title)
        document["card"] = {
            "licence": request.licence, "title": title, "attribution": request.attribution, "date": card.date,
            "chosen": why, "range": [request.least, request.most], "seed": request.seed,
            "choices": [vars(choice) for choice in choices], "fails_on": list(card.fails_on),
        }  # fmt: skip
        write_json(out, document)
        write_text(out.with_name(f"{name}.phenotypes.md"), render_markdown(card, file_sha256(out)))
    return load_phenotypes(out)


def _gathered(read: Sequence[Megakaryocytes], request: PhenotypeTraining, report: Callable[[str], None]) -> _Cells:
    rng = np.random.default_rng(request.seed)
    whole = np.concatenate([raw_features(cells, FEATURES, None) for cells in read])
    # Of cells without a nucleus nothing but their outline is known: they take part in no share.
    nucleated = np.isfinite(whole[:, FEATURES.index("nucleus_area_um2")])
    if not nucleated.any():
        raise DataError("no megakaryocyte of these runs has a measured nucleus; phenotypes are made of nuclei too")
    known = np.isfinite(whole[nucleated]).mean(axis=0) >= _LEAST_KNOWN
    varies = np.array([np.nanstd(column) > 0 if np.isfinite(column).any() else False for column in whole.T])
    names = tuple(name for name, use in zip(FEATURES, known & varies, strict=True) if use)
    lost = [name for name in FEATURES if name not in names]
    if lost:
        report(f"note: left out, since cells lack them or they never vary: {', '.join(lost)}")
    kept, slide = [], []
    for number, cells in enumerate(read):
        rows = np.flatnonzero(np.isfinite(raw_features(cells, names, None)).all(axis=1))
        rows = rows if len(rows) <= MOST_OF_SLIDE else np.sort(rng.choice(rows, MOST_OF_SLIDE, replace=False))
        kept.append(rows)
        slide.append(np.full(len(rows), number))
    embedding, directions = _directions(read, kept, request.directions)
    x = np.concatenate([raw_features(cells, names, None)[rows] for cells, rows in zip(read, kept, strict=True)])
    return _Cells(
        x=x if directions is None else np.concatenate([x, directions], axis=1),
        slide=np.concatenate(slide).astype(np.int64),
        names=names,
        embedding=embedding,
        measures={
            name: np.concatenate([cells.measures[name][rows] for cells, rows in zip(read, kept, strict=True)])
            for name in (*FEATURES, "diameter_um", "bare")
        },
    )


def _directions(
    read: Sequence[Megakaryocytes], kept: Sequence[IntArray], k: int
) -> tuple[dict[str, Any] | None, FloatArray | None]:
    """Return the principal directions of the embedding, and where the kept cells lie on them; None for none."""
    if not k:
        return None, None
    vectors = [cells.embedding for cells in read]
    if any(v is None or not np.isfinite(v[rows]).all() for v, rows in zip(vectors, kept, strict=True)):
        raise DataError("some megakaryocytes have no embedding; run their slides with --set cells.embedding=true")
    whole = np.concatenate([v[rows] for v, rows in zip(vectors, kept, strict=True) if v is not None])
    mean = whole.mean(axis=0)
    axes = np.linalg.svd(whole - mean, full_matrices=False)[2][:k]
    # The sign of a direction is arbitrary: its largest part is made positive, so that a seed gives one file.
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return {"mean": mean.tolist(), "axes": axes.tolist()}, (whole - mean) @ axes.T


def _choices(z: FloatArray, slide: IntArray, request: PhenotypeTraining) -> list[Choice]:
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    rng = np.random.default_rng(request.seed)
    shown = rng.permutation(len(z))[:_SILHOUETTE_CELLS]
    slides = np.unique(slide)
    halves = [rng.permutation(slides)[: len(slides) // 2] for _ in range(_HALVES)]
    found = []
    for k in range(request.least, request.most + 1) if request.k is None else (request.k,):
        label = _clustered(z, k, request.seed)[0]
        agree = []
        for half in halves:
            first = np.isin(slide, half)
            if min(first.sum(), (~first).sum()) <= k:
                continue
            a, b = (_nearest(z, _clustered(z[part], k, request.seed)[1]) for part in (first, ~first))
            agree.append(float(adjusted_rand_score(a, b)))
        several = len(np.unique(label[shown])) > 1
        found.append(
            Choice(
                k=k,
                stability=float(np.mean(agree)) if agree else 0.0,
                silhouette=float(silhouette_score(z[shown], label[shown])) if several else 0.0,
            )
        )
    return found


def _chosen(choices: Sequence[Choice], asked: int | None) -> tuple[int, str]:
    """Return the number of phenotypes, and why, in a sentence."""
    if asked is not None:
        return asked, f"{asked} phenotypes, as asked"
    stable = [c for c in choices if c.stability >= STABLE]
    if stable:
        best = max(stable, key=lambda c: (c.silhouette, -c.k))
        return best.k, (
            f"{best.k} phenotypes: of {choices[0].k} to {choices[-1].k}, those with a stability of {STABLE:g} or more "
            f"are {', '.join(str(c.k) for c in stable)}, and this has the greatest silhouette ({best.silhouette:.2f})"
        )
    best = max(choices, key=lambda c: (c.stability, -c.k))
    return best.k, (
        f"{best.k} phenotypes: none of {choices[0].k} to {choices[-1].k} reaches a stability of {STABLE:g}; this is "
        f"the most stable ({best.stability:.2f}), so the clusters are a way to describe a continuum"
    )


def _clustered(z: FloatArray, k: int, seed: int) -> tuple[IntArray, FloatArray]:
    from sklearn.cluster import KMeans

    found = KMeans(n_clusters=k, n_init=_STARTS, random_state=seed).fit(z)
    return found.labels_.astype(np.int64), found.cluster_centers_.astype(np.float64)


def _nearest(z: FloatArray, centres: FloatArray) -> IntArray:
    return ((z[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1).astype(np.int64)


def _reference(
    model: PhenotypeModel, slides: Sequence[FinishedSlide], read: Sequence[Megakaryocytes]
) -> list[dict[str, Any]]:
    """Return the shares over all slides, and over those of each label that the run's manifest gave."""
    shares, sizes, labels = [], [], []
    for slide, cells in zip(slides, read, strict=True):
        index = model.index(cells)
        index = index[index >= 0]
        if len(index):
            shares.append(np.bincount(index, minlength=len(model.codes)) / len(index))
            sizes.append(len(index))
            labels.append(slide.label)
    table, n, own = np.array(shares), np.array(sizes), np.array(labels)
    groups = {"all": np.ones(len(table), bool)} | {str(name): own == name for name in np.unique(own) if name}
    return [
        {
            "label": label,
            "n_samples": int(here.sum()),
            "n_cells": int(n[here].sum()),
            "mean": table[here].mean(axis=0).tolist(),
            "q10": np.quantile(table[here], _REFERENCE_LEVELS[0], axis=0).tolist(),
            "q90": np.quantile(table[here], _REFERENCE_LEVELS[1], axis=0).tolist(),
        }
        for label, here in groups.items()
    ]


def _card(
    request: PhenotypeTraining, document: dict[str, Any], choices: Sequence[Choice], why: str, title: str
) -> Card:
    n = sum(own["n_cells"] for own in document["phenotypes"])
    rows = [
        f"{own['code']:<40} {own['n_cells']:>6}  "
        + ", ".join(f"{name} {value:.3g}" for name, value in own["medians"].items() if value is not None)
        for own in document["phenotypes"]
    ]
    fails = [
        *(["SIMULATED: it was learnt from simulated cells and says nothing of a patient."] * document["simulated"]),
        "A cell belongs to the nearest centre, however far: something never seen gets a name, too.",
        "Names are relative to the training cells: small is small among them.",
        "Centres depend on how nuclei were outlined: run with the network that the training slides were run with.",
    ]
    return Card(
        name=document["name"],
        task="phenotypes",
        description=f"Phenotypes of megakaryocytes. {why}.",
        classes=tuple(own["code"] for own in document["phenotypes"]),
        specimens=SECTIONS,
        mpp=None,
        data=(DataSource(title=title, licence=request.licence, attribution=request.attribution, n_train=n),),
        licence=request.licence,
        split={"by": f"{_HALVES} random halves of slides, for stability only"},
        figures=tuple(
            Figure(name=f"{what}, k = {c.k}", on="training cells", n=n, value=getattr(c, what))
            for c in choices
            for what in ("stability", "silhouette")
        ),
        fails_on=tuple(fails),
        date=today(),
        tables={"Phenotypes: cells, medians": "\n".join(rows)},
    )
