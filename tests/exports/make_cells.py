"""A realistic cell table without a pipeline: round cells, nuclei, damaged rings, truncated cells."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

CLASSES = (
    "segmented_neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil", "blast",
    "erythroblast", "artefact",
)  # fmt: skip
_KIND_RADIUS_UM = {"white": (5.0, 8.5), "red": (3.4, 4.0), "platelet": (1.0, 1.6), "nucleus": (2.5, 4.5)}


@dataclass(frozen=True, kw_only=True)
class FakeClass:
    """What the exports use of a taxonomy's class."""

    code: str
    name_en: str
    name_fr: str
    color: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class FakeTaxonomy:
    """What the exports use of a taxonomy."""

    name: str
    classes: tuple[FakeClass, ...]
    roll_ups: dict[str, tuple[str, ...]]


def taxonomy() -> FakeTaxonomy:
    """Classes of the fixture; ``artefact`` is missing on purpose."""
    codes = [*CLASSES[:-1], "red_cell", "platelet", "nucleus", "megakaryocyte", "white_cell"]
    return FakeTaxonomy(
        name="fixture",
        classes=tuple(
            FakeClass(
                code=code,
                name_en=code.replace("_", " ").capitalize(),
                name_fr=f"{code.replace('_', ' ')} (fr)",
                color=((i * 67) % 256, (i * 131) % 256, (i * 29 + 60) % 256),
            )
            for i, code in enumerate(codes)
        ),
        roll_ups={"blasts": ("blast",), "lymphocytes": ("lymphocyte",), "artefacts": ("artefact",)},
    )


def circle(x: float, y: float, radius: float, rng: np.random.Generator, points: int = 40) -> shapely.Polygon:
    """Return a slightly uneven circle."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    wobble = radius * (1 + 0.06 * np.sin(2 * angle + rng.uniform(0, 6)))
    return shapely.Polygon(np.column_stack([x + wobble * np.cos(angle), y + wobble * np.sin(angle)]))


def _damage(polygon: shapely.Polygon, how: int) -> shapely.Polygon:
    ring = np.asarray(polygon.exterior.coords)[:-1]
    if how == 0:  # a ring that crosses itself
        ring[[5, 20]] = ring[[20, 5]]
    elif how == 1:  # a spike without area
        ring = np.vstack([ring[:8], ring[7] + (9.0, 3.0), ring[7], ring[8:]])
    elif how == 2:  # a ring that touches itself in one point
        ring = np.vstack([ring[:10], ring[30], ring[10:]])
    else:  # a sliver that closes on the 0.01-pixel grid
        ring = np.vstack([ring[:8], ring[7] + (9.0, 3.0), ring[7] + (0.001, 0.003), ring[8:]])
    return shapely.Polygon(ring)


def make_cells(
    path: Path,
    n: int,
    *,
    size_px0: tuple[int, int],
    mpp: float = 0.25,
    seed: int = 0,
    row_group: int = 4096,
    kinds: tuple[str, ...] = ("white", "red", "platelet"),
    embedding: bool = False,
) -> Path:
    """Write ``n`` cells; about one in fifty has a damaged outline and one in forty is truncated."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[object]] = {}

    def add(**values: object) -> None:
        for key, value in values.items():
            rows.setdefault(key, []).append(value)

    kind_of = rng.choice(kinds, size=n, p=np.full(len(kinds), 1 / len(kinds)))
    centres = rng.uniform((0, 0), size_px0, size=(n, 2))
    centres = centres[np.lexsort((centres[:, 1], centres[:, 0] // 2048, centres[:, 1] // 2048))]
    for i, kind in enumerate(kind_of):
        x, y = centres[i]
        radius = rng.uniform(*_KIND_RADIUS_UM[kind]) / mpp
        outline = circle(x, y, radius, rng)
        nucleus = circle(x, y, 0.55 * radius, rng, 24) if kind == "white" and i % 5 else None
        if i % 50 == 7:
            outline = _damage(outline, (i // 50) % 4)
        p = rng.dirichlet(np.full(len(CLASSES), 0.25)) if kind == "white" else np.full(len(CLASSES), np.nan)
        area = outline.area * mpp**2
        best = int(np.argmax(p)) if kind == "white" else 0
        name = {"white": CLASSES[best], "red": "red_cell"}.get(kind, kind)
        add(
            cell_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}:{i}")),
            geometry=outline.wkb,
            x_px0=x, y_px0=y, x_um=x * mpp, y_um=y * mpp,
            area_um2=area, perimeter_um=outline.length * mpp,
            kind=str(kind), class_name=name,
            class_probability=float(p[best]) if kind == "white" else None,
            circularity=0.93, solidity=0.98, eccentricity=0.2,
            mean_red=150.0, mean_green=110.0, mean_blue=170.0,
            nucleus_area_um2=nucleus.area * mpp**2 if nucleus else None,
            nc_ratio=float(nucleus.area / area * mpp**2) if nucleus else None,
            cell_probability=float(rng.uniform(0.5, 6)), flow_error=0.1,
            nucleus=nucleus.wkb if nucleus else None,
            block="0_0", truncated=bool(i % 40 == 3), seed_x=int(x), seed_y=int(y),
        )  # fmt: skip
        for code, value in zip(CLASSES, p, strict=True):
            add(**{f"p_{code}": None if np.isnan(value) else float(value)})
        if embedding:
            add(embedding=rng.normal(size=16).astype(np.float16))
    pq.write_table(_table(rows), path, row_group_size=row_group)
    return path


def _table(rows: dict[str, list[object]]) -> pa.Table:
    types = {"cell_id": pa.string(), "kind": pa.string(), "class_name": pa.string(), "block": pa.string(),
             "geometry": pa.binary(), "nucleus": pa.binary(), "truncated": pa.bool_(),
             "seed_x": pa.int32(), "seed_y": pa.int32(), "embedding": pa.list_(pa.float16(), 16),
             **dict.fromkeys(("x_px0", "y_px0", "x_um", "y_um"), pa.float64())}  # fmt: skip
    names = list(rows) or [*types, "area_um2", "class_probability"]
    arrays = [pa.array(rows.get(name, []), type=types.get(name, pa.float32())) for name in names]
    geo = {"version": "1.1.0", "primary_column": "geometry",
           "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None}}}  # fmt: skip
    return pa.table(dict(zip(names, arrays, strict=True))).replace_schema_metadata({"geo": json.dumps(geo)})
