"""What a network trained on a user's fields reaches on the images set apart, and its card."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from wsi_pipeline.atomic import write_text
from wsi_pipeline.config import Specimen, load_config
from wsi_pipeline.evaluation.run_segmentation import Segmenter, evaluate_masks
from wsi_pipeline.evaluation.tables import segmentation_table
from wsi_pipeline.segmentation.models import load_model
from wsi_pipeline.training.cards import Card, DataSource, Figure, figure_of
from wsi_pipeline.training.segmentation.data import Sample, Split
from wsi_pipeline.training.segmentation.fit import Recipe, network_details
from wsi_pipeline.training.segmentation.own_cellpose import LICENCE, CellposeStart, cellpose_details
from wsi_pipeline.training.segmentation.own_request import OWN_KINDS, OwnTraining
from wsi_pipeline.training.segmentation.own_start import Start


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """A field as ``fields.csv`` lists it: file names, um per pixel, labelled cells, side of the split, SHA-256."""

    image: str
    mask: str
    mpp: float
    cells: int
    split: Split
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was read and decided before training.

    Attributes
    ----------
    samples
        Pieces to train on.
    rows
        One a field, in the order of their names.
    diameter_um
        Median diameter of the labelled cells.
    digest
        SHA-256 of all that decides the weights beside the recipe.
    initial
        Tensors to start from, or None.
    """

    kind: str
    specimens: tuple[Specimen, ...]
    recipe: Recipe
    samples: list[Sample]
    rows: tuple[FieldRow, ...]
    diameter_um: float
    digest: str
    start: Start | CellposeStart | None
    initial: Mapping[str, Tensor] | None


def write_fields_csv(rows: Sequence[FieldRow], path: Path) -> None:
    """Write what each field is and which side of the split it is on."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(FieldRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())


def measure(request: OwnTraining, prepared: Prepared, weights: Path, device: str) -> tuple[tuple[Figure, ...], str]:
    """Run the new network on the test images as a slide is run; return the figures and a table for people.

    Of incompletely labelled images only the recall means anything: what is found beside the labels may be right.
    """
    specimen = prepared.specimens[0]
    config = load_config(specimen, {"segmentation.model": str(weights), "segmentation.batch_size": 1})
    segmenter = Segmenter(
        model=load_model(str(weights), specimen=specimen, device=device), config=config, kind=prepared.kind
    )
    mpp = {row.image: row.mpp for row in prepared.rows if row.split == "test"}
    model, otsu = evaluate_masks(
        request.images,
        request.masks,
        segmenter,
        lambda image: mpp[image.name],
        only=lambda pair: pair.image.name in mpp,
    )
    names = {"AP50": "ap50", "AP75": "ap75", "precision at IoU 0.5": "precision", "recall at IoU 0.5": "recall"}
    if not request.complete:
        names = {"recall at IoU 0.5": "recall"}
    on = f"{model.n_images} test images, {OWN_KINDS[prepared.kind].noun} (objects cut by the border ignored)"
    figures = tuple(
        figure_of(name, on, model.n_true, getattr(model, key), getattr(otsu, key)) for name, key in names.items()
    )
    return figures, segmentation_table({request.name: model, "Otsu": otsu})


def make_card(request: OwnTraining, prepared: Prepared, figures: tuple[Figure, ...] = ()) -> Card:
    """Return the card of a network trained on a user's fields."""
    kind, rows, recipe = prepared.kind, prepared.rows, prepared.recipe
    count = {side: sum(row.split == side for row in rows) for side in ("train", "test")}
    cells = sum(row.cells for row in rows)
    start = prepared.start
    return Card(
        name=request.name,
        task="segmentation",
        description=f"Finds {OWN_KINDS[kind].noun}, and no other kind, on images like those it was trained on.",
        classes=recipe.kinds,
        specimens=prepared.specimens,
        mpp=recipe.mpp,
        data=(
            DataSource(
                title=f"own fields ({len(rows)} images, {cells} cells)",
                licence="not stated",
                attribution="not stated",
                n_train=count["train"],
            ),
        ),
        licence=LICENCE if isinstance(start, CellposeStart) else "not stated",
        split={"rule": "by image, from a hash of the pixels, near-duplicates together", **count},
        figures=figures,
        fails_on=_fails_on(kind, complete=request.complete),
        date=datetime.now(UTC).date().isoformat(),
        details={
            **(cellpose_details(recipe, start) if isinstance(start, CellposeStart) else network_details(recipe)),
            "data_digest": prepared.digest,
            "labels_complete": request.complete,
            "median_diameter_um": round(prepared.diameter_um, 2),
            "started_from": None if start is None else f"{start.name}, SHA-256 {start.sha256}",
        },
    )


def _fails_on(kind: str, *, complete: bool) -> tuple[str, ...]:
    noun = OWN_KINDS[kind].noun
    said = [
        "Images of one slide or patient may be on both sides of the split; on slides of others expect less.",
        "Other stains, scanners and resolutions than those of the labelled images.",
        f"What the labels got wrong: {noun} that were overlooked or drawn too large were learnt so.",
    ]
    if not complete:
        said.append(
            f"Only some {noun} were labelled: cells of other kinds may be found too, and precision was not measured."
        )
    return tuple(said)
