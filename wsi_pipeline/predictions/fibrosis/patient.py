"""The fibrosis index of a patient: the tiles of all reticulin slides together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from wsi_pipeline.predictions.fibrosis.index import FibrosisIndex, fibrosis_index


def patient_index(
    tables: Sequence[Path], *, tile_um: float, min_tiles: int, confidence: float = 0.95
) -> FibrosisIndex | None:
    """Return the index over the tiles of several sections; None where they were not scored.

    Each tile is weighed by its marrow, so a section counts by its marrow. The interval is drawn over the squares of all
    sections: it says how evenly fibres lie in what was sampled.

    Parameters
    ----------
    tables
        ``fibrosis.parquet`` of each slide.
    tile_um
        Side of a tile.
    min_tiles
        With fewer, all sections together, there is no index.
    """
    found = [pq.read_table(path, columns=["score", "marrow_share", "x_um", "y_um"]) for path in tables]
    if any(table.column("score").null_count for table in found):
        return None
    section = np.repeat(np.arange(len(found)), [table.num_rows for table in found])
    columns = {
        name: np.concatenate([table.column(name).to_numpy() for table in found]) for name in found[0].column_names
    }
    return fibrosis_index(
        columns["score"],
        columns["marrow_share"] * (tile_um**2 * 1e-6),
        np.stack([columns["x_um"], columns["y_um"]], axis=1),
        section=section,
        min_tiles=min_tiles,
        confidence=confidence,
    )
