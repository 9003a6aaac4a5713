"""Why single cells were called what they were, for a report: heatmap, nearest labelled cells, unusualness, map.

Shown of each class are the surest cell, the least sure one and the most unusual one. Heatmaps are made for these
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.out_of_distribution import CUT_OFF
from wsi_pipeline.cells.windows import estimate_background, resample
from wsi_pipeline.errors import DataError, SlideError
from wsi_pipeline.exports._stream import floats, iter_cells, strings
from wsi_pipeline.exports.report.charts import Styles
from wsi_pipeline.exports.report.importance import within
from wsi_pipeline.exports.report.pictures import data_uri
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.sentences import say
from wsi_pipeline.units import Box

if TYPE_CHECKING:
    from wsi_pipeline.cells.evidence import Evidence, Explanation
    from wsi_pipeline.slides import Slide

MAP_PX = 520
"""Side of the map, in the units of its drawing."""

_MOST_ON_MAP = 3000
_MOST_CLASSES = 24
_MOST_BYTES = 800_000
_COLUMNS = ("class_probability", "out_of_distribution", "map_x", "map_y")


@dataclass(frozen=True, kw_only=True)
class NeighbourView:
    """A labelled cell near to one of the slide; ``uri`` is empty where its picture may not be kept."""

    name: str
    colour: str
    similarity: float
    source: str
    uri: str


@dataclass(frozen=True, kw_only=True)
class ExplainedCell:
    """A cell of the slide with what speaks for its class."""

    why: str
    where: str
    probability: float
    out_of_distribution: float
    unusual: bool
    agreement: float
    window_uri: str
    heatmap_uri: str
    neighbours: tuple[NeighbourView, ...]


@dataclass(frozen=True, kw_only=True)
class ExplainedClass:
    """A class with its cells."""

    name: str
    colour: str
    cells: tuple[ExplainedCell, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes that its pictures take in the page."""
        return sum(len(c.window_uri) + len(c.heatmap_uri) + sum(len(n.uri) for n in c.neighbours) for c in self.cells)

    def shortened(self, most: int) -> ExplainedClass:
        """Return the first ``most`` cells."""
        return replace(self, cells=self.cells[:most])


@dataclass(frozen=True, kw_only=True)
class MapLayer:
    """Cells of one class on the map, as SVG paths of dots: those of the training, and those of the slide."""

    name: str
    colour: str
    reference: str
    slide: str


@dataclass(frozen=True, kw_only=True)
class EvidenceView:
    """The evidence section of a report.

    Parameters
    ----------
    n, unusual
        Typed cells with a score, and those above the cut-off.
    expected
        Share that would be above it if the slide were like the training.
    classes, layers
        Explained cells by class, and the map by class.
    method, side_um
        How heatmaps were made, and the width of every window.
    on_map
        Cells of the slide that are drawn on the map, evenly chosen.
    has_pictures
        Whether neighbours have pictures.
    """

    n: int
    unusual: int
    expected: float
    classes: tuple[ExplainedClass, ...]
    layers: tuple[MapLayer, ...]
    method: str
    side_um: float
    on_map: int
    has_pictures: bool

    @property
    def share(self) -> float:
        """Share of typed cells that are unusual."""
        return self.unusual / self.n if self.n else 0.0

    @property
    def is_unlike_training(self) -> bool:
        """Whether more than twice as many are unusual as expected, beyond chance (Wilson, 95 %)."""
        return self.n > 0 and wilson(self.unusual, self.n)[0] > 2 * self.expected


class Place(NamedTuple):
    """Where a cell is: level-0 pixels of a slide, or an image of a gallery, of which it is the middle."""

    x_px0: float
    y_px0: float
    image: str

    def __str__(self) -> str:
        return self.image or f"x {self.x_px0:.0f}, y {self.y_px0:.0f}"


ReadWindow = Callable[[Place], tuple["npt.NDArray[np.uint8]", "npt.NDArray[np.uint8]"]]
"""Returns the window ``(side, side, 3)`` of a cell as the classifier saw it, and the colour ``(3,)`` of empty glass."""


def slide_windows(slide: Slide, background: npt.NDArray[np.uint8], evidence: Evidence) -> ReadWindow:
    """Return what reads the windows of a slide's cells; ``background`` is the colour ``(3,)`` of its empty glass."""
    side, mpp = evidence.classifier.window_px, evidence.classifier.mpp

    def read(place: Place) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        corner = np.floor(slide.frame(mpp).from_px0([place[:2]]) - side / 2 + 0.5).astype(int)
        x, y = corner[0].tolist()
        return slide.read(Box(x0=x, y0=y, x1=x + side, y1=y + side), mpp), background

    return read


def image_windows(image: Callable[[str], npt.NDArray[np.uint8]], mpp: float, evidence: Evidence) -> ReadWindow:
    """Return what reads the windows of a gallery's cells; ``image`` gives the pixels of one, at ``mpp`` um/px."""
    side, scale = evidence.classifier.window_px, evidence.classifier.mpp / mpp

    def read(place: Place) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        pixels = image(place.image)
        window = resample(pixels, pixels.shape[1] / 2, pixels.shape[0] / 2, side=side, scale=scale)
        return window, estimate_background(pixels)

    return read


@dataclass(frozen=True, kw_only=True)
class _Typed:
    codes: npt.NDArray[np.object_]
    places: list[Place]
    probability: npt.NDArray[np.float64]
    unlike: npt.NDArray[np.float64]
    place: npt.NDArray[np.float64]


def explain_cells(
    cells: Path, read: ReadWindow, evidence: Evidence, styles: Styles
) -> tuple[EvidenceView | None, list[str]]:
    """Return the evidence of the typed cells of a slide or a gallery, and what could not be shown.

    Parameters
    ----------
    cells
        ``cells.parquet`` with the columns :data:`wsi_pipeline.cells.evidence.COLUMNS`.
    read
        Of :func:`slide_windows` or :func:`image_windows`.
    evidence
        Of the classifier that typed the cells.
    styles
        Names and colours of the classes.

    Returns
    -------
    tuple
        None where the table has no scored cell.
    """
    typed = _read(cells)
    if not len(typed.codes):
        return None, []
    chosen = _choose(typed, styles)
    rows = [row for _, picks in chosen for row, _ in picks]
    windows, backgrounds, readable, problems = _windows([typed.places[row] for row in rows], read, evidence)
    found = evidence.explain(windows, backgrounds)
    number = {rows[i]: at for at, i in enumerate(readable)}
    classes = []
    for code, picks in chosen:
        shown = [
            _cell(typed, row, why, number[row], windows, found, evidence, styles) for row, why in picks if row in number
        ]
        classes.append(ExplainedClass(name=styles[code].name, colour=styles[code].colour, cells=tuple(shown)))
    step = max(1, -(-len(typed.codes) // _MOST_ON_MAP))
    drawn = np.arange(0, len(typed.codes), step)
    return EvidenceView(
        n=len(typed.codes),
        unusual=int((typed.unlike > CUT_OFF).sum()),
        expected=1 - CUT_OFF,
        classes=tuple(within([c for c in classes if c.cells], _MOST_BYTES, 3)),
        layers=_layers(typed, drawn, evidence, styles),
        method=found.heatmaps.method,
        side_um=evidence.classifier.window_px * evidence.classifier.mpp,
        on_map=len(drawn),
        has_pictures=len(evidence.reference.sheet) > 0,
    ), problems


def _read(cells: Path) -> _Typed:
    codes, numbers, places = [], [], []
    for _, batch in iter_cells(cells, ("x_px0", "y_px0", "class_name"), (*_COLUMNS, "image")):
        columns = np.stack([floats(batch, name) for name in _COLUMNS], axis=1)
        scored = np.isfinite(columns[:, 1])
        codes.append(np.asarray(strings(batch, "class_name"), dtype=object)[scored])
        numbers.append(columns[scored])
        at = zip(floats(batch, "x_px0").tolist(), floats(batch, "y_px0").tolist(), strings(batch, "image"), strict=True)
        places += [Place(*place) for place, kept in zip(at, scored.tolist(), strict=True) if kept]
    both = np.concatenate(numbers) if numbers else np.zeros((0, len(_COLUMNS)))
    return _Typed(
        codes=np.concatenate(codes) if codes else np.zeros(0, object),
        places=places,
        probability=both[:, 0],
        unlike=both[:, 1],
        place=both[:, 2:],
    )


def _choose(typed: _Typed, styles: Styles) -> list[tuple[str, list[tuple[int, str]]]]:
    """Return rows of each class and why they were chosen; of equal ones the first in the table."""
    names = sorted({str(code) for code in typed.codes}, key=styles.position)[:_MOST_CLASSES]
    chosen = []
    for name in names:
        own = np.flatnonzero(typed.codes == name)
        picks: dict[int, str] = {}
        for values, why in (
            (typed.probability[own], say("surest")),
            (-typed.probability[own], say("least sure")),
            (typed.unlike[own], say("most unusual")),
        ):
            picks.setdefault(int(own[int(values.argmax())]), why)
        chosen.append((name, list(picks.items())))
    return chosen


def _windows(
    places: list[Place], read: ReadWindow, evidence: Evidence
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], list[int], list[str]]:
    """Return windows and glass as the classifier saw them, which of the cells they are of, and what was not read."""
    side = evidence.classifier.window_px
    windows, backgrounds, readable = [], [], []
    problems: list[str] = []
    for i, place in enumerate(places):
        try:
            window, background = read(place)
        except (SlideError, DataError) as error:
            problems.append(say("A cell could not be explained: {error}", error=str(error)))
            continue
        windows.append(window)
        backgrounds.append(background)
        readable.append(i)
    stacked = np.stack(windows) if windows else np.zeros((0, side, side, 3), np.uint8)
    glass = np.stack(backgrounds) if backgrounds else np.zeros((0, 3), np.uint8)
    return stacked, glass, readable, problems


def _cell(
    typed: _Typed,
    row: int,
    why: str,
    at: int,
    windows: npt.NDArray[np.uint8],
    found: Explanation,
    evidence: Evidence,
    styles: Styles,
) -> ExplainedCell:
    near = found.neighbours
    neighbours = []
    for index, distance, code, source in zip(
        near.index[at].tolist(),
        near.distance[at].tolist(),
        near.classes[at].tolist(),
        near.sources[at].tolist(),
        strict=True,
    ):
        picture = evidence.reference.picture(index)
        neighbours.append(
            NeighbourView(
                name=styles[code].name,
                colour=styles[code].colour,
                similarity=1 - distance,
                source=source,
                uri="" if picture is None else data_uri(picture, "jpeg", 75),
            )
        )
    return ExplainedCell(
        why=why,
        where=str(typed.places[row]),
        probability=float(typed.probability[row]),
        out_of_distribution=float(typed.unlike[row]),
        unusual=bool(typed.unlike[row] > CUT_OFF),
        agreement=float(found.agreement[at]),
        window_uri=data_uri(windows[at], "jpeg", 80),
        heatmap_uri=data_uri(found.overlays[at], "jpeg", 80),
        neighbours=tuple(neighbours),
    )


def _layers(typed: _Typed, drawn: npt.NDArray[np.int64], evidence: Evidence, styles: Styles) -> tuple[MapLayer, ...]:
    reference = evidence.reference
    names = sorted(evidence.classifier.classes, key=styles.position)
    codes = typed.codes[drawn]
    return tuple(
        MapLayer(
            name=styles[name].name,
            colour=styles[name].colour,
            reference=_dots(reference.place[reference.class_names == name]),
            slide=_dots(typed.place[drawn][codes == name]),
        )
        for name in names
    )


def _dots(places: npt.NDArray[np.floating]) -> str:
    """Return an SVG path of lines of no length, which round caps make dots; y runs upwards."""
    margin = 0.03
    unit = (np.asarray(places, np.float64) * (1 - 2 * margin) + margin) * MAP_PX
    return "".join(f"M{x:.1f} {MAP_PX - y:.1f}h0" for x, y in unit.tolist())
