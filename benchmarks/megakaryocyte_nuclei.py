"""Whether the nuclei of megakaryocytes keep their lobes: drawn nuclei on composites, as planted and as found.

    python benchmarks/megakaryocyte_nuclei.py             5 composites of each kind, of held-out cut-outs

Composites are those that ``compact-megakaryocyte`` is measured on, with three kinds of the simulated cohorts: ordinary,
giant (staghorn), bulbous. Printed are, over cells found at IoU 0.5, Dice's coefficient of the nuclei, and means of
area, 1 - solidity, concavities and lobes as found over those planted, both measured by the code of a run; the planted
nucleus with its holes filled, as a run fills them, and without, which shows what that definition takes. ``--half
train`` is the half that settings of the outline were chosen on (segmentation/sharpen.py). Needs ``WSI_PIPELINE_DATA``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _harness import parser, print_table, record, start
from scipy import ndimage

from wsi_pipeline.cells.features import NAMES
from wsi_pipeline.cells.morphology import measure_morphology
from wsi_pipeline.segmentation.kinds import MEGAKARYOCYTE_KINDS
from wsi_pipeline.segmentation.megakaryocytes import load_megakaryocyte_model
from wsi_pipeline.simulation.megakaryocytes import MegakaryocyteShape
from wsi_pipeline.training.segmentation.data import Sample
from wsi_pipeline.training.segmentation.megakaryocyte_composites import COMPOSITE_MPP, composite
from wsi_pipeline.training.segmentation.megakaryocyte_figures import segment_sample, settings_for
from wsi_pipeline.training.segmentation.section_labels import section_sample
from wsi_pipeline.training.segmentation.shipped_fields import nuclei_for_composites

SHAPES = {
    "ordinary": MegakaryocyteShape(diameter_um=28, nc_ratio=0.36, lobes=4, lobulation=0.85),
    "giant": MegakaryocyteShape(diameter_um=46, nc_ratio=0.38, lobes=8, lobulation=0.95),
    "bulbous": MegakaryocyteShape(diameter_um=36, nc_ratio=0.52, lobes=2, lobulation=0.45, darkness=1.35),
}
COLUMNS = ("nucleus_area_um2", "nucleus_solidity", "nucleus_concavities", "nucleus_lobes")
HEAD = ("cells", "n", "Dice", "area", "1 - solidity", "concavities", "lobes")
FIRST = 9000
"""Number of the first composite: none of the training's or of the card's."""
_NUCLEUS = MEGAKARYOCYTE_KINDS.index("megakaryocyte_nucleus")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A cell: kind, Dice of its nucleus, and its measures as found, as planted, and as planted with holes."""

    kind: str
    dice: float
    found: npt.NDArray[np.float64]
    planted: npt.NDArray[np.float64]
    with_holes: npt.NDArray[np.float64]


def measures(cell: Mask, nucleus: Mask) -> npt.NDArray[np.float64]:
    """Return :data:`COLUMNS` of a nucleus, solidity as 1 - solidity."""
    grey = np.full((*cell.shape, 3), 200, np.uint8)
    row = measure_morphology(cell.astype(np.int32), grey, mpp=COMPOSITE_MPP, nucleus=nucleus & cell)[0]
    values = row[[NAMES.index(name) for name in COLUMNS]].astype(np.float64)
    values[1] = 1 - values[1]
    return values


def cells_of(kind: str, sample: Sample, labels: npt.NDArray[np.int32], nuclear: Mask) -> list[Found]:
    """Return the whole cells of a composite that were found at IoU 0.5."""
    done = []
    for number, at in enumerate(ndimage.find_objects(sample.labels), 1):
        if at is None or any(s.start == 0 or s.stop == side for s, side in zip(at, sample.labels.shape, strict=True)):
            continue
        true = sample.labels == number
        seen = np.bincount(labels[true])
        seen[0] = 0
        cell = labels == int(np.argmax(seen))
        if not seen.any() or (cell & true).sum() < 0.5 * (cell | true).sum() or not (cell & nuclear).any():
            continue
        planted, got = true & (sample.kinds == _NUCLEUS), cell & nuclear
        done.append(
            Found(
                kind=kind,
                dice=2 * float((planted & got).sum()) / float(planted.sum() + got.sum()),
                found=measures(cell, got),
                planted=measures(true, ndimage.binary_fill_holes(planted) & true),
                with_holes=measures(true, planted),
            )
        )
    return done


def line(name: str, cells: list[Found], of: str = "planted") -> list[str]:
    """Return a row: what was found over what was planted."""
    sums = [np.sum([getattr(own, which) for own in cells], axis=0) for which in ("found", of)]
    ratio = sums[0] / np.maximum(sums[1], 1e-9)
    return [name, str(len(cells)), f"{np.mean([c.dice for c in cells]):.3f}", *(f"{v:.3f}" for v in ratio)]


def main() -> None:
    """Draw, segment, compare, record."""
    options = parser(__doc__)
    options.add_argument("--half", choices=("test", "train"), default="test", help="whose cut-outs (default test)")
    options.add_argument("--composites", type=int, default=5, help="of each kind (default 5)")
    options.add_argument("--weights", default="compact-megakaryocyte")
    chosen = start(options.parse_args())
    root = Path(os.environ["WSI_PIPELINE_DATA"])
    fields = [section_sample(root, path.stem) for path in sorted((root / "tissue-nuclei" / "images").iterdir())]
    nuclei = nuclei_for_composites(root, fields, chosen.half)
    model = load_megakaryocyte_model(chosen.weights, specimen="trephine", device="cpu", precision="auto")
    config = settings_for(chosen.weights)
    cells: list[Found] = []
    for kind, shape in SHAPES.items():
        for number in range(FIRST, FIRST + chosen.composites):
            sample = composite(number, chosen.half, nuclei, shape=shape)
            block = segment_sample(sample, model, config)
            cells += cells_of(kind, sample, block.instances.labels, block.nuclear)
    rows = [line(kind, own) for kind in SHAPES if (own := [c for c in cells if c.kind == kind])]
    rows += [line("all", cells), line("all, over planted with holes", cells, "with_holes")]
    print_table(HEAD, rows)
    work = {"half": chosen.half, "composites": chosen.composites, "weights": chosen.weights}
    record(chosen.results, "megakaryocyte_nuclei", "nuclei", work, {row[0]: row[1:] for row in rows})


if __name__ == "__main__":
    main()
