"""What QuPath shows of megakaryocytes beyond other cells: the phenotype as a derived class, and a few measurements."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.phenotype_colours import phenotype_colour, rgb
from wsi_pipeline.exports.qupath import CellExtra, plain_name

MEASUREMENTS = (
    ("Diameter um", "diameter_um", 2), ("Nucleus concavities", "nucleus_concavities", 0),
    ("Nucleus solidity", "nucleus_solidity", 3), ("Nucleus density over other nuclei", "hyperchromasia", 3),
    ("Nearest megakaryocyte um", "nearest_um", 1), ("Distance to bone um", "bone_um", 1), ("Cluster", "cluster", 0),
)  # fmt: skip
"""Name in QuPath, column of ``megakaryocytes.csv``, decimals."""
PARENT = "megakaryocyte"


@dataclass(frozen=True, kw_only=True)
class PhenotypeClass:
    """A derived class of QuPath: ``megakaryocyte: NAME``."""

    name: str
    colour: tuple[int, int, int]

    @property
    def encoded(self) -> str:
        """Return the ``classification`` member; QuPath derives a class from several names."""
        return json.dumps({"names": [PARENT, plain_name(self.name)], "color": list(self.colour)}, separators=(",", ":"))


def megakaryocyte_extras(table: Path, phenotypes: Mapping[str, str]) -> dict[str, CellExtra]:
    """Return what is added to each megakaryocyte, by its id.

    Parameters
    ----------
    table
        ``megakaryocytes.csv``; a slide without one adds nothing.
    phenotypes
        Name of each phenotype by its code, in their order.

    Raises
    ------
    DataError
        The table is damaged.
    """
    if not table.is_file():
        return {}
    classes = {
        code: PhenotypeClass(name=name, colour=rgb(phenotype_colour(i))).encoded
        for i, (code, name) in enumerate(phenotypes.items())
    }
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return {
                row["cell_id"]: CellExtra(classification=classes.get(row["phenotype"]), measurements=_measured(row))
                for row in csv.DictReader(file)
            }
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{table} cannot be read ({type(error).__name__}: {error}); run the slide again") from None


def _measured(row: Mapping[str, str]) -> str:
    texts = []
    for name, column, decimals in MEASUREMENTS:
        value = float(row[column]) if row[column] else math.nan
        if math.isfinite(value):
            texts.append(f"{json.dumps(name)}:{round(value, decimals) + 0.0!r}")
    return ",".join(texts)


def phenotype_names(trephine: object) -> dict[str, str]:
    """Return the names of the phenotypes of a summary's entry ``trephine`` by code; none where it has none."""
    rows = (trephine.get("phenotypes") or {}).get("rows") or [] if isinstance(trephine, Mapping) else []
    return {str(row["code"]): str(row["name"]) for row in rows}
