"""Reports of sections in which every text from outside is hostile: a trephine with phenotypes, a reticulin slide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from fake_slide import FakeMpp, FakeSlide
from report_run import EVIL

from tests.made_trephines import BONE, MPP, SIDE_UM, MadeTrephine, make_trephines, two_groups
from wsi_pipeline.cells.schema import table_schema
from wsi_pipeline.config import FibrosisConfig, Language, PredictionsConfig
from wsi_pipeline.exports.report import write_slide_report
from wsi_pipeline.predictions.adequacy import fibrosis_adequacy, slide_adequacy
from wsi_pipeline.predictions.fibrosis import fibrosis_index, fibrosis_prediction
from wsi_pipeline.predictions.trephines.cohort_map import fit_cohort_map
from wsi_pipeline.predictions.trephines.phenotypes import PhenotypeModel, load_phenotypes
from wsi_pipeline.sentences import made_of, say
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.phenotypes.train import PhenotypeTraining, train_phenotypes

SIDE_PX = round(SIDE_UM / MPP)
SECTION = load_taxonomy("section")


def section_slide(width_px: int = SIDE_PX, height_px: int = SIDE_PX) -> FakeSlide:
    """Return a pink section."""
    pixels = np.full((height_px, width_px, 3), (226, 180, 208), np.uint8)
    return FakeSlide(pixels=pixels, mpp=FakeMpp(x=MPP, y=MPP))


def phenotype_model(folder: Path) -> PhenotypeModel:
    """Return a model whose labels are hostile; the names of its phenotypes are those of ``train phenotypes``."""
    make_trephines(folder / "ref", two_groups(8, seed=3))
    train_phenotypes(PhenotypeTraining(runs=(folder / "ref",), most=3), folder / "m.phenotypes.json")
    document = load_phenotypes(folder / "m.phenotypes.json").document
    last = document.reference[-1].model_copy(update={"label": EVIL})
    evil = document.model_copy(update={"reference": (*document.reference[:-1], last), "name": EVIL, "trained_on": EVIL})
    return PhenotypeModel(document=evil, sha256="0" * 64)


def trephine_page(
    folder: Path, language: Language, *, mix: tuple[int, int, int] = (20, 12, 6), height: int = 1
) -> Path:
    """Write the report of a trephine with phenotypes, arrangement, regions and a cohort map; return where.

    The slide is ``height`` times as high as it is wide.
    """
    made = MadeTrephine(slide_id="S", mix=mix, clustered=0.5, seed=5, subject=EVIL)
    make_trephines(folder / "run", [made], model=phenotype_model(folder))
    own = folder / "run" / "slides" / "S"
    (own / "regions.geojson").write_text(json.dumps(_regions()))
    data: dict[str, Any] = json.loads((own / "summary.json").read_text())
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, (10, 3)), rng.normal(3, 1, (10, 3))])
    found = fit_cohort_map(
        ("a", EVIL, "c"), values, ["et"] * 10 + ["pv"] * 10, classes=(("et", f"ET {EVIL}"), ("pv", "PV")), model=EVIL,
        simulated=True, trained_on=EVIL,
    )  # fmt: skip
    assert found is not None
    placed = found.place(("a", EVIL, "c"), np.array([3.0, 3.0, 3.0]))
    (own / "cohort_map.json").write_text(json.dumps(found.drawing(placed)))
    facts = {"cellularity": {"percent": 42.0, "lower": 35.0, "upper": 50.0, "n_spaces": 8, "area_mm2": 2.0},
             "classes_mm2": {"haematopoietic": 1.5, "fat": 0.5, "bone": 0.16, "other": 0.1}}  # fmt: skip
    verdict = slide_adequacy(
        n=None, config=PredictionsConfig(), n_cells=100, truncated=3, searched_mm2=2.0, lost_mm2=0.0, facts=facts,
        trephine=data["trephine"],
    )  # fmt: skip
    warnings = [say("Megakaryocytes are not told from other nuclei by this model."), EVIL]
    data |= {
        "regions": facts, "adequacy": verdict.to_dict(), "path_name": EVIL, "area_mm2": 2.0, "warnings": warnings,
        "mpp": {"x": MPP, "y": MPP, "source": "slide"}, "quality": {"truncated": 3, EVIL: EVIL},
        "provenance": {"version": "1", "megakaryocyte model": EVIL},
    }  # fmt: skip
    data["trephine"]["map"] = {"model": EVIL, "simulated": True, "file": "cohort_map.json", **placed}
    data["sentences"] |= made_of({"verdict": data["adequacy"], "warnings": warnings})
    (own / "summary.json").write_text(json.dumps(data))
    slide = section_slide(height_px=height * SIDE_PX)
    write_slide_report(own, slide=slide, taxonomy=SECTION, specimen="trephine", language=language)  # type: ignore[arg-type]
    return own / "report.html"


def _regions() -> dict[str, Any]:
    def feature(shape: shapely.Geometry, name: str, status: str) -> dict[str, Any]:
        return {
            "type": "Feature", "id": f"00000000-0000-4000-8000-{len(name):012d}",
            "geometry": shapely.geometry.mapping(shapely.transform(shape, lambda xy: xy / MPP)),
            "properties": {"objectType": "annotation", "name": name,
                           "classification": {"name": f"{name}*", "color": [1, 2, 3]},
                           "metadata": {"status": status, "reason": name}},
        }  # fmt: skip

    marrow = shapely.box(0, 0, SIDE_UM, SIDE_UM).difference(BONE)
    fat = shapely.Point(300, 300).buffer(40)
    parts = [(marrow, "Marrow", "included"), (BONE, "bone", "excluded"), (fat, "fat", "inside")]
    return {"type": "FeatureCollection", "features": [feature(*part) for part in parts]}


def reticulin_page(folder: Path, language: Language, *, asked: bool = True, least: int = 30, across: int = 6) -> Path:
    """Write the report of a reticulin slide of 36 tiles, ``across`` of them in a row, and return where.

    ``asked`` is whether a model ranked them.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    side = SIDE_PX / 6
    corners = [(column, row) for row in range(36 // across) for column in range(across)]
    shapes = [shapely.box(c * side, r * side, (c + 1) * side, (r + 1) * side) for c, r in corners]
    share, score, marrow = rng.uniform(0.02, 0.3, 36), rng.uniform(0, 1, 36), np.full(36, 0.8)
    tiles = pa.table({
        "geometry": shapely.to_wkb(shapes), "marrow_share": marrow, "fibre_share": share,
        "score": pa.array(score if asked else [None] * 36, pa.float32()),
    })  # fmt: skip
    pq.write_table(tiles, folder / "fibrosis.parquet")
    pq.write_table(table_schema((), None).empty_table(), folder / "cells.parquet")
    places, area = (np.array(corners) + 0.5) * side * MPP, marrow * (side * MPP) ** 2 * 1e-6
    known = fibrosis_index(share, area, places, min_tiles=least)
    index = fibrosis_index(score, area, places, min_tiles=least) if asked else None
    answer = fibrosis_prediction(
        index, slide_id="R", subject_id=EVIL, model=EVIL if asked else "none", trained_on=EVIL if asked else "none",
        simulated=asked, confidence=0.95,
    )  # fmt: skip
    data: dict[str, Any] = {
        "slide_id": "R", "subject_id": EVIL, "path_name": EVIL, "status": "ok", "reason": None, "specimen": "trephine",
        "stain": "reticulin", "taxonomy": "section", "area_mm2": 2.0, "n_cells": 0, "confidence": 0.95,
        "counts": {"kind": {}, "class": {}}, "mpp": {"x": MPP, "y": MPP, "source": "slide"},
        "fibrosis": {"index": None if index is None else index.to_dict(), "fibre_share": known.to_dict(),
                     "tile_um": side * MPP, "model": EVIL, "simulated": asked},
        "predictions": [answer.to_dict()], "provenance": {"version": "1", "fibrosis model": EVIL},
        "adequacy": fibrosis_adequacy(
            known, config=FibrosisConfig(min_tiles=least), searched_mm2=2.0, lost_mm2=0.0
        ).to_dict(),
        "quality": {"tiles of the region": 40, "tiles of marrow": 36}, "timings": {"fibres": 2.0},
        "warnings": [say("Parts that could not be decoded were left out (slides.on_corrupt is mask)."), EVIL],
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps({**data, "sentences": made_of(data)}))
    slide = section_slide(round(across * side), round(36 // across * side))
    write_slide_report(folder, slide=slide, taxonomy=SECTION, specimen="trephine", language=language)  # type: ignore[arg-type]
    return folder / "report.html"
