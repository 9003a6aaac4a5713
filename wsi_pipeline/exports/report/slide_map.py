"""A map of a run's slides: the mean embedding of their nucleated cells, in its first two principal components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.errors import DataError

MAP_PX = 520
_MARGIN_PX = 60
_LEAST_SLIDES, _LEAST_CELLS = 3, 20
_MOST_CELLS = 2000
_MOST_LINKS = 200
_COLOURS = {"blood_smear": "#c0392b", "marrow_smear": "#2c6fbb", "trephine": "#2e8b57"}


@dataclass(frozen=True, kw_only=True)
class MappedSlide:
    """A slide with the classifier that its embeddings are of."""

    slide_id: str
    cells: Path
    specimen: str
    classifier: str
    href: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A slide on the map."""

    name: str
    href: str
    x: float
    y: float
    colour: str


@dataclass(frozen=True, kw_only=True)
class SlideMap:
    """Slides on a square of ``px``; ``shares`` are percent of the variance that either axis holds."""

    dots: tuple[Dot, ...]
    shares: tuple[float, float]
    legend: tuple[tuple[str, str], ...]
    left_out: int
    px: int = MAP_PX

    @property
    def linked(self) -> bool:
        """Whether the dots lead to reports; of too many, the keyboard would not get past them."""
        return len(self.dots) <= _MOST_LINKS


def slide_map(slides: Sequence[MappedSlide]) -> SlideMap | None:
    """Return the map of the slides whose cells have embeddings of one classifier, the commonest; None of fewer than 3.

    Notes
    -----
    Of each slide the first 2,000 nucleated cells with an embedding count, at least 20. Means are centred, not scaled.

    Raises
    ------
    DataError
        A table of cells is damaged.
    """
    found: dict[str, list[tuple[MappedSlide, npt.NDArray[np.float64]]]] = {}
    for slide in slides:
        mean = _mean_embedding(slide.cells)
        if mean is not None and slide.classifier:
            found.setdefault(f"{slide.classifier}:{len(mean)}", []).append((slide, mean))
    members = max(found.values(), key=len, default=[])
    if len(members) < _LEAST_SLIDES:
        return None
    table = np.stack([mean for _, mean in members])
    centred = table - table.mean(axis=0)
    scores, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    # An axis has no direction of its own: the largest loading is made positive.
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    places = (scores * sizes * signs)[:, :2]
    variance = sizes**2
    whole = float(variance.sum()) or 1.0
    reach = float(np.abs(places).max()) or 1.0
    half = MAP_PX / 2
    unit = (half - _MARGIN_PX) / reach
    specimens = dict.fromkeys(slide.specimen for slide, _ in members)
    return SlideMap(
        dots=tuple(
            Dot(
                name=slide.slide_id,
                href=slide.href,
                x=round(half + unit * float(x), 1),
                y=round(half - unit * float(y), 1),
                colour=_COLOURS.get(slide.specimen, "#808080"),
            )
            for (slide, _), (x, y) in zip(members, places.tolist(), strict=True)
        ),
        shares=(100 * float(variance[0]) / whole, 100 * float(variance[1]) / whole),
        legend=tuple((name, _COLOURS.get(name, "#808080")) for name in specimens),
        left_out=len(slides) - len(members),
    )


def _mean_embedding(cells: Path) -> npt.NDArray[np.float64] | None:
    """Return the mean embedding ``(d,)`` of a slide's nucleated cells, None where there are too few."""
    try:
        with pq.ParquetFile(cells) as source:
            if "embedding" not in source.schema_arrow.names:
                return None
            parts: list[npt.NDArray[np.float64]] = []
            n = 0
            for group in range(source.num_row_groups):
                column = source.read_row_group(group, columns=["embedding"]).column("embedding").combine_chunks()
                known = column.drop_null()
                if len(known):
                    values = np.asarray(known.flatten().to_numpy(zero_copy_only=False), np.float64)
                    parts.append(values.reshape(len(known), -1)[: _MOST_CELLS - n])
                    n += len(parts[-1])
                if n >= _MOST_CELLS:
                    break
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise DataError(f"{cells} cannot be read: {error}") from None
    if n < _LEAST_CELLS:
        return None
    mean: npt.NDArray[np.float64] = np.concatenate(parts).mean(axis=0)
    return mean if bool(np.isfinite(mean).all()) else None
