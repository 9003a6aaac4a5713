"""Train or fine-tune a network on fields that a user labelled: check, split, train, measure, describe.

One network finds one kind of cell, the kind the masks hold. What else is on the images is background to it, which is
right when every cell of the kind has a label; for fields where only some have one there is ``complete=False``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from wsi_pipeline.errors import ConfigError, OutputError
from wsi_pipeline.training.cards import save_weights, write_card
from wsi_pipeline.training.segmentation.fit import Recipe, train_segmentation
from wsi_pipeline.training.segmentation.own_card import FieldRow, Prepared, make_card, measure, write_fields_csv
from wsi_pipeline.training.segmentation.own_cellpose import CHECKPOINT_EVERY as CELLPOSE_CHECKPOINT_EVERY
from wsi_pipeline.training.segmentation.own_cellpose import (
    DEFAULT_START,
    CellposeStart,
    cellpose_recipe,
    load_cellpose_start,
    save_cellpose,
    settle_base,
    train_cellpose,
)
from wsi_pipeline.training.segmentation.own_checks import check_masks
from wsi_pipeline.training.segmentation.own_data import contradicted_mpp, read_fields
from wsi_pipeline.training.segmentation.own_request import (
    OWN_KINDS,
    OwnTraining,
    check_name,
    settle_kind,
    working_mpp,
)
from wsi_pipeline.training.segmentation.own_samples import kinds_of, make_samples, split_fields
from wsi_pipeline.training.segmentation.own_start import Start, load_start

SCALE_RANGE = (0.75, 1.35)
"""Factors on the working resolution that crops are drawn at; narrow, since the true one of the fields is known."""

STEPS, FINE_TUNING_STEPS = 1500, 600
LEARNING_RATE, FINE_TUNING_LEARNING_RATE = 2e-3, 5e-4
CHECKPOINT_EVERY = 100
_DIGEST_FORMAT = "own-fields-1"


def prepare(request: OwnTraining, *, report: Callable[[str], None]) -> Prepared:
    """Check the request and the data, and return all that training needs; nothing is written.

    Raises
    ------
    ConfigError
        A name, kind or specimen that cannot be used, or that do not fit each other.
    ModelError
        The weights to start from are missing, damaged, or of another network or resolution.
    DataError
        The fields cannot be used; the message names files, what was found and what is needed.
    """
    check_name(request.name)
    start = _start_of(request)
    kind, specimens = settle_kind(request.kind, request.specimens, start.specimens if start else (), report)
    if kind == "megakaryocyte" and not request.complete:
        raise ConfigError(
            "--incomplete: megakaryocytes are labelled completely or not at all, since nothing in their stain says "
            "which other pixels are none; label all on each image"
        )
    mpp = working_mpp(specimens)
    if start is not None:
        start.check_mpp(mpp, specimens)
    report(f"reading labelled fields of {request.images}")
    fields = read_fields(
        request.images, request.masks, request.mpp, skip_unpaired=request.skip_unpaired, progress=_every(100, report)
    )
    if contradicted := contradicted_mpp(fields):
        report(f"note: other microns per pixel are stated by images: {'; '.join(contradicted)}")
    diameter = check_masks(fields, kind, allow_any_size=request.allow_any_size)
    splits = split_fields(fields)
    fine = start is not None
    if isinstance(start, CellposeStart):
        recipe = cellpose_recipe(start, kind, mpp=mpp, steps=request.steps, seed=request.seed)
    else:
        recipe = Recipe(
            kinds=kinds_of(fields, kind),
            mpp=mpp,
            scale_range=SCALE_RANGE,
            side=request.side,
            batch=request.batch,
            steps=request.steps or (FINE_TUNING_STEPS if fine else STEPS),
            learning_rate=FINE_TUNING_LEARNING_RATE if fine else LEARNING_RATE,
            seed=request.seed,
        )
    rows = tuple(
        FieldRow(
            image=field.image.name,
            mask=field.mask.name,
            mpp=field.mpp,
            cells=field.n_cells,
            split=split,
            sha256=field.digest(),
        )
        for field, split in zip(fields, splits, strict=True)
    )
    decides = [
        _DIGEST_FORMAT,
        [(row.sha256, row.split) for row in rows],
        request.complete,
        start.sha256 if start else None,
    ]
    return Prepared(
        kind=kind,
        specimens=specimens,
        recipe=recipe,
        samples=make_samples(fields, splits, recipe, complete=request.complete),
        rows=rows,
        diameter_um=diameter,
        digest=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
        start=start,
        initial=start.tensors_for(recipe.kinds) if start else None,
    )


def _start_of(request: OwnTraining) -> Start | CellposeStart | None:
    if settle_base(request.base, request.start_from) == "cellpose":
        return load_cellpose_start(request.start_from or DEFAULT_START)
    return None if request.start_from is None else load_start(request.start_from)


def train_own(
    request: OwnTraining,
    out: Path,
    *,
    device: str,
    report: Callable[[str], None],
    checkpoint_every: int | None = None,
) -> Path:
    """Train on a user's fields, evaluate on the images set apart, and return the weights; the card lies beside them.

    Parameters
    ----------
    out
        Folder for checkpoint, ``fields.csv``, weights and card. The same call after a kill continues there and gives
        the weights of an uninterrupted run.
    device
        ``cpu`` or ``cuda``.
    checkpoint_every
        Steps; None takes 100, of a Cellpose network, whose checkpoints are large, 250.

    Returns
    -------
    Path
        ``NAME.safetensors`` of a compact network, ``NAME.pth`` in Cellpose's format of a Cellpose one.

    Raises
    ------
    OutputError
        ``out`` cannot be written.
    WsiPipelineError
        As of :func:`prepare`, before anything is written; a checkpoint of another recipe or of other data.
    """
    prepared = prepare(request, report=report)
    _check_writable(out)
    for line in summary(prepared, complete=request.complete):
        report(line)
    if isinstance(prepared.start, CellposeStart):
        tensors = train_cellpose(
            prepared.samples,
            out,
            prepared.recipe,
            prepared.start,
            device=device,
            report=report,
            checkpoint_every=checkpoint_every or CELLPOSE_CHECKPOINT_EVERY,
            data_digest=prepared.digest,
        )
        weights = out / f"{request.name}.pth"
        save_cellpose(tensors, weights)
    else:
        network = train_segmentation(
            prepared.samples,
            out,
            prepared.recipe,
            device=device,
            report=report,
            checkpoint_every=checkpoint_every or CHECKPOINT_EVERY,
            data_digest=prepared.digest,
            initial=prepared.initial,
        )
        weights = out / f"{request.name}.safetensors"
        save_weights(network.state_dict(), weights)
    write_fields_csv(prepared.rows, out / "fields.csv")
    # A card without figures makes the weights loadable, so that what is measured is what will be used.
    write_card(make_card(request, prepared), weights)
    report("evaluating on the test images")
    figures, table = measure(request, prepared, weights, device)
    write_card(make_card(request, prepared, figures), weights)
    report(table)
    return weights


def summary(prepared: Prepared, *, complete: bool) -> list[str]:
    """Return what will be learnt from what, and what is assumed, for people."""
    noun = OWN_KINDS[prepared.kind].noun
    test = [row.image for row in prepared.rows if row.split == "test"]
    bare = sum(row.cells == 0 for row in prepared.rows)
    by_number = [row for row in prepared.rows if not Path(row.mask).stem.startswith(Path(row.image).stem)]
    shown = ", ".join(test[:5]) + (" ..." if len(test) > 5 else "")
    assumed = (
        f"assumed: all {noun} have a label, and all else, cells of other kinds too, is background to this network "
        "(where only some have one: --incomplete)"
        if complete
        else f"assumed: only some {noun} have a label; stained pixels without one are ignored, so this network may "
        "find cells of other kinds too, and only its recall is measured"
    )
    return [
        f"{len(prepared.rows)} images, {sum(row.cells for row in prepared.rows)} {noun}, {prepared.diameter_um:.1f} um "
        f"across in the median; for {', '.join(prepared.specimens)} at {prepared.recipe.mpp:g} um per pixel",
        f"train on {len(prepared.rows) - len(test)} images, test on {len(test)}: {shown}",
        f"the network tells apart {', '.join(prepared.recipe.kinds)}",
        assumed,
        *(
            [f"{len(by_number)} masks were paired by number: {by_number[0].image} with {by_number[0].mask} ..."]
            if by_number
            else []
        ),
        *([f"{bare} images have no label: they are taken to show no {noun}"] if bare and complete else []),
        *([prepared.start.sentence(prepared.recipe.kinds)] if prepared.start else []),
    ]


def _check_writable(out: Path) -> None:
    """Find out now, not after an hour of training."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {out} cannot be made: {error.strerror}") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"--out {out}: this user may not write there")


def _every(many: int, report: Callable[[str], None]) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done % many == 0:
            report(f"read {done} of {total} fields")

    return progress
