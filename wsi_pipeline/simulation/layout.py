"""Where everything lies: random positions without overlap, the same whatever part is asked for first.

The plane is cut into squares. Within a layer, squares are filled by dart throwing in four phases like the
colours of a chessboard of four; a square looks only at neighbours of earlier phases and at earlier layers. Its
contents therefore depend on its surroundings a few squares deep and on nothing else, and a slide of any size
can be laid out row by row in memory proportional to its width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.noise import keyed_generator, smooth_noise
from wsi_pipeline.simulation.profile import LayerProfile, Profile
from wsi_pipeline.simulation.sprites import Sprite, placed_outline, snap

SQUARE_UM = 64.0
"""Side of a square; larger than the largest distance at which two things can collide."""

_X, _Y, _RADIUS, _GAP, _SPRITE, _ANGLE, _FLIP, _GAIN = range(8)
_Things = npt.NDArray[np.float64]

_DENSITY_WAVELENGTH_UM = 420.0
_TRIES = 14
_PURPOSE_PLACE, _PURPOSE_DENSITY = 100, 200


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One thing on the slide; micrometres from the slide's origin."""

    layer: str
    x_um: float
    y_um: float
    radius_um: float
    sprite: Sprite | None
    angle: float
    flip: bool
    gain: float

    def position_px(self, mpp: float) -> tuple[float, float]:
        """Return the centre in slide pixels, as it is drawn."""
        x, y = self.x_um / mpp, self.y_um / mpp
        if self.sprite is None:
            return x, y
        return snap(self.sprite, x, y, angle=self.angle, flip=self.flip, mpp=mpp)

    def outline_px(self, mpp: float) -> npt.NDArray[np.float64]:
        """Return the outline ``(n, 2)`` in slide pixels; empty for what is not a cell."""
        if self.sprite is None:
            return np.empty((0, 2))
        x, y = self.position_px(mpp)
        return placed_outline(self.sprite, x, y, angle=self.angle, flip=self.flip, mpp=mpp)


class Layout:
    """The contents of the plane for one profile and seed.

    Parameters
    ----------
    profile, sprites
        What is placed, and the cutouts to choose from.
    seed
        Any non-negative integer.
    """

    def __init__(self, profile: Profile, sprites: tuple[Sprite, ...], seed: int) -> None:
        self._layers = tuple(profile.layers.items())
        self._sprites = sprites
        self._seed = seed
        self._squares: dict[tuple[int, int, int], _Things] = {}
        self._choices = [_choices(layer, sprites) for _, layer in self._layers]
        self._largest = [
            max([*(layer.radius_um or ()), *(_size(sprites[n]) for n in numbers)])
            for (_, layer), (numbers, _) in zip(self._layers, self._choices, strict=True)
        ]

    def square(self, column: int, row: int) -> Iterator[Placed]:
        """Yield what has its centre in a square, layer by layer, in a fixed order."""
        for index, (name, _) in enumerate(self._layers):
            for thing in self._fill(index, column, row):
                number = int(thing[_SPRITE])
                yield Placed(
                    layer=name,
                    x_um=float(thing[_X]),
                    y_um=float(thing[_Y]),
                    radius_um=float(thing[_RADIUS]),
                    sprite=self._sprites[number] if number >= 0 else None,
                    angle=float(thing[_ANGLE]),
                    flip=bool(thing[_FLIP]),
                    gain=float(thing[_GAIN]),
                )

    def within(self, x0_um: float, y0_um: float, x1_um: float, y1_um: float) -> Iterator[Placed]:
        """Yield, layer by layer and square by square, what may reach into a rectangle."""
        columns = range(math.floor(x0_um / SQUARE_UM) - 1, math.floor(x1_um / SQUARE_UM) + 2)
        rows = range(math.floor(y0_um / SQUARE_UM) - 1, math.floor(y1_um / SQUARE_UM) + 2)
        found = [thing for row in rows for column in columns for thing in self.square(column, row)]
        order: dict[str, int] = {name: i for i, (name, _) in enumerate(self._layers)}
        yield from sorted(found, key=lambda thing: order[thing.layer])

    def forget_above(self, row: int) -> None:
        """Drop squares above ``row``; they are worked out again if they are asked for again."""
        for key in [key for key in self._squares if key[2] < row]:
            del self._squares[key]

    def _fill(self, index: int, column: int, row: int) -> _Things:
        key = (index, column, row)
        if key not in self._squares:
            self._squares[key] = self._throw(index, column, row)
        return self._squares[key]

    def _neighbours(self, index: int, column: int, row: int) -> tuple[_Things, int]:
        """Return what may be in the way in a square, earlier layers first, and how many are of those."""
        around = [(column + dx, row + dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        phase = _phase(column, row)
        below = [self._fill(i, c, r) for i in range(index) for c, r in around]
        same = [self._fill(index, c, r) for c, r in around if _phase(c, r) < phase]
        reach = self._largest[index]
        middle = (np.array([column, row]) + 0.5) * SQUARE_UM

        def near(parts: list[_Things]) -> _Things:
            things = np.concatenate([np.empty((0, 8)), *parts])
            away = np.abs(things[:, : _Y + 1] - middle).max(axis=1) - SQUARE_UM / 2
            return things[away <= (things[:, _RADIUS] + reach) * np.maximum(1.0, things[:, _GAP]) * 1.05]

        earlier = near(below)
        return np.concatenate([earlier, near(same)]), len(earlier)

    def _throw(self, index: int, column: int, row: int) -> _Things:
        _, layer = self._layers[index]
        rng = keyed_generator(self._seed, _PURPOSE_PLACE + index, column, row)
        origin = np.array([column, row], dtype=np.float64) * SQUARE_UM
        middle = origin + SQUARE_UM / 2
        wave = smooth_noise(self._seed, _PURPOSE_DENSITY + index, middle[0], middle[1], _DENSITY_WAVELENGTH_UM)
        mean = layer.per_mm2 * (SQUARE_UM / 1000.0) ** 2 * (1.0 + layer.variation * float(wave[0, 0]))
        wanted = int(rng.poisson(mean))
        near, earlier = self._neighbours(index, column, row)
        taken = np.concatenate([near, np.zeros((wanted, 8))])
        end = len(near)
        for _ in range(wanted):
            thing = self._draw(index, layer, rng)
            darts = _aim(layer, rng, origin, thing, taken[earlier:end])
            free = ((darts >= origin) & (darts < origin + SQUARE_UM)).all(axis=1)
            free &= ~_collides(darts, thing, taken[:end], earlier)
            if free.any():
                thing[: _Y + 1] = darts[np.argmax(free)]
                taken[end] = thing
                end += 1
        return taken[len(near) : end].copy()

    def _draw(self, index: int, layer: LayerProfile, rng: np.random.Generator) -> _Things:
        thing = np.zeros(8)
        thing[_SPRITE] = -1
        thing[_GAP] = 0.72 if rng.random() < layer.overlapping else layer.gap
        thing[_FLIP] = float(rng.random() < 0.5)
        thing[_ANGLE] = rng.random() * 2 * math.pi
        thing[_GAIN] = 1.0 + 0.05 * np.clip(rng.standard_normal(), -2, 2)
        if layer.radius_um is not None:
            thing[_RADIUS] = rng.uniform(*layer.radius_um)
            return thing
        numbers, upto = self._choices[index]
        chosen = int(np.searchsorted(upto, rng.random(), side="right"))
        number = int(numbers[min(chosen, len(numbers) - 1)])
        sprite = self._sprites[number]
        thing[_SPRITE] = number
        if sprite.kind == "white":
            # Quarter turns keep every pixel of the chromatin as it was photographed.
            thing[_ANGLE] = math.floor(thing[_ANGLE] / (math.pi / 2)) * (math.pi / 2)
        thing[_RADIUS] = _size(sprite)
        return thing


def _aim(
    layer: LayerProfile, rng: np.random.Generator, origin: npt.NDArray[np.float64], thing: _Things, same: _Things
) -> npt.NDArray[np.float64]:
    """Return places to try, ``(_TRIES, 2)``: anywhere in the square, or against one of the same layer."""
    darts = origin + rng.random((_TRIES, 2)) * SQUARE_UM
    sticks = rng.random(_TRIES) < layer.sticky
    angle = rng.random(_TRIES) * 2 * math.pi
    stretch = rng.uniform(1.0, 1.03, _TRIES) * max(layer.gap, float(thing[_GAP]))
    if len(same):
        others = same[rng.integers(len(same), size=_TRIES)]
        distance = (others[:, _RADIUS] + thing[_RADIUS]) * stretch
        aside = np.stack([np.cos(angle), np.sin(angle)], axis=1) * distance[:, None]
        darts = np.where(sticks[:, None], others[:, : _Y + 1] + aside, darts)
    return darts


def _size(sprite: Sprite) -> float:
    """Return the radius a cell claims, micrometres; white cells keep red cells off their corners."""
    return 0.5 * (sprite.radius_um + sprite.reach_um) if sprite.kind == "white" else sprite.radius_um


def _phase(column: int, row: int) -> int:
    return column % 2 + 2 * (row % 2)


def _collides(darts: npt.NDArray[np.float64], thing: _Things, taken: _Things, earlier: int) -> npt.NDArray[np.bool_]:
    """Return which darts lie too near something; the first ``earlier`` rows are never overlapped."""
    gap = np.minimum(taken[:, _GAP], thing[_GAP])
    gap[:earlier] = np.maximum(1.0, taken[:earlier, _GAP])
    least = (taken[:, _RADIUS] + thing[_RADIUS]) * gap
    away = darts[:, None, :] - taken[None, :, : _Y + 1]
    return np.asarray(((away**2).sum(axis=2) < least * least).any(axis=1))


def _choices(layer: LayerProfile, sprites: tuple[Sprite, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return sprite numbers and cumulated probabilities: a class by its weight, any of its cutouts alike."""
    numbers: list[int] = []
    weights: list[float] = []
    total = sum(layer.mix.values())
    for class_name, weight in layer.mix.items():
        members = [i for i, sprite in enumerate(sprites) if sprite.class_name == class_name]
        if not members:
            known = ", ".join(sorted({sprite.class_name for sprite in sprites}))
            raise ConfigError(f"a profile asks for class {class_name!r}; there are cutouts of {known}")
        numbers += members
        weights += [weight / total / len(members)] * len(members)
    return np.array(numbers, dtype=np.int64), np.cumsum(weights)
