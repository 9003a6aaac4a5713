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

import numba
import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.film import Film
from wsi_pipeline.simulation.noise import keyed_generator, smooth_noise_at
from wsi_pipeline.simulation.profile import LayerProfile, Profile
from wsi_pipeline.simulation.sprites import Sprite, placed_nucleus, placed_outline, snap

SQUARE_UM = 64.0
"""Side of a square; larger than the largest distance at which two things can collide."""

_X, _Y, _RADIUS, _GAP, _SPRITE, _ANGLE, _FLIP, _GAIN = range(8)
_Things = npt.NDArray[np.float64]

_DENSITY_WAVELENGTH_UM = 420.0
_TRIES = 14
_OVERLAP_GAP = 0.72
_REACH, _REACH_UM = 2.2, 8.0
"""A thing shows at most this many of its radii, and this far, from its centre."""
_THICK_GAP, _THICK_OVERLAPPING = 0.3, 0.7
_NOTHING: _Things = np.empty((0, 8))
_PURPOSE_PLACE, _PURPOSE_DENSITY = 100, 200
# Streams of random numbers by layer, so that a layer more does not move the cells of the others.
_STREAMS = {"white": 0, "red": 1, "platelet": 2, "fat": 0, "megakaryocyte": 1, "nucleus": 2, "clump": 7}
_NODES = 9
_EVERYWHERE = np.ones((_NODES, _NODES))
"""Density of a square relative to its densest place, on a grid of nodes from edge to edge."""
_CLUMP_GAP = 0.8


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

    def nucleus_px(self, mpp: float) -> list[npt.NDArray[np.float64]]:
        """Return the rings of the nucleus in slide pixels (even-odd); empty where the sprite has none of its own."""
        if self.sprite is None:
            return []
        x, y = self.position_px(mpp)
        return placed_nucleus(self.sprite, x, y, angle=self.angle, flip=self.flip, mpp=mpp)


class Layout:
    """The contents of the plane for one profile and seed.

    Parameters
    ----------
    profile, sprites
        What is placed, and the cutouts to choose from.
    seed
        Any non-negative integer.
    film
        The film of the smear; None is one layer everywhere.
    """

    def __init__(self, profile: Profile, sprites: tuple[Sprite, ...], seed: int, film: Film | None = None) -> None:
        self._film = film
        self._layers = tuple(profile.layers.items())
        self._sprites = sprites
        self._seed = seed
        self._squares: dict[tuple[int, int, int], _Things] = {}
        self._sizes = np.array([_size(sprite) for sprite in sprites])
        self._white = np.array([sprite.kind == "white" for sprite in sprites])
        self._choices = [_choices(layer, sprites) for _, layer in self._layers]
        self._largest = [
            max([*(layer.radius_um or ()), *(_size(sprites[n]) for n in numbers)])
            for (_, layer), (numbers, _) in zip(self._layers, self._choices, strict=True)
        ]

    def square(self, column: int, row: int) -> Iterator[Placed]:
        """Yield what has its centre in a square, layer by layer, in a fixed order."""
        for index in range(len(self._layers)):
            for thing in self._fill(index, column, row):
                yield self._placed(index, thing)

    def within(self, x0_um: float, y0_um: float, x1_um: float, y1_um: float) -> Iterator[Placed]:
        """Yield, layer by layer and square by square, what may reach into a rectangle."""
        columns = range(math.floor(x0_um / SQUARE_UM) - 1, math.floor(x1_um / SQUARE_UM) + 2)
        rows = range(math.floor(y0_um / SQUARE_UM) - 1, math.floor(y1_um / SQUARE_UM) + 2)
        for index in range(len(self._layers)):
            things = np.concatenate([self._fill(index, column, row) for row in rows for column in columns])
            far = _REACH * self._largest[index] + _REACH_UM
            near = (things[:, _X] > x0_um - far) & (things[:, _X] < x1_um + far)
            near &= (things[:, _Y] > y0_um - far) & (things[:, _Y] < y1_um + far)
            for thing in things[near]:
                yield self._placed(index, thing)

    def _placed(self, index: int, thing: npt.NDArray[np.float64]) -> Placed:
        x, y, radius, _, number, angle, flip, gain = thing.tolist()
        return Placed(
            layer=self._layers[index][0],
            x_um=x,
            y_um=y,
            radius_um=radius,
            sprite=self._sprites[int(number)] if number >= 0 else None,
            angle=angle,
            flip=bool(flip),
            gain=gain,
        )

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
        name, layer = self._layers[index]
        stream = _STREAMS[name]
        origin = np.array([column, row], dtype=np.float64) * SQUARE_UM
        middle = origin + SQUARE_UM / 2
        density, thickness, relative = self._film_in(name, origin)
        if density == 0:
            return _NOTHING
        rng = keyed_generator(self._seed, _PURPOSE_PLACE + stream, column, row)
        wave = smooth_noise_at(
            self._seed, _PURPOSE_DENSITY + stream, float(middle[0]), float(middle[1]), _DENSITY_WAVELENGTH_UM
        )
        mean = density * layer.per_mm2 * (SQUARE_UM / 1000.0) ** 2 * (1.0 + layer.variation * wave)
        wanted = int(rng.poisson(mean))
        clumps = np.arange(wanted) if layer.clump is None else _clumps(rng, wanted, layer.clump)
        wanted = len(clumps)
        near, earlier = self._neighbours(index, column, row)
        things = self._draw(index, layer, rng, wanted, thickness if name == "red" else 0.0)
        if layer.clump is not None:
            things[:, _GAP] = _CLUMP_GAP
        taken = np.concatenate([near, things])
        end = _place(
            taken, len(near), earlier, origin[0], origin[1], SQUARE_UM, layer.gap,
            rng.random((wanted, _TRIES, 2)),
            rng.random((wanted, _TRIES)) < layer.sticky,
            rng.random((wanted, _TRIES)) * 2 * math.pi,
            rng.uniform(1.0, 1.03, (wanted, _TRIES)),
            rng.random((wanted, _TRIES)),
            relative, rng.random(wanted), clumps,
        )  # fmt: skip
        return taken[len(near) : end].copy()

    def _film_in(self, layer: str, origin: npt.NDArray[np.float64]) -> tuple[float, float, npt.NDArray[np.float64]]:
        """Return the greatest density of a square, its mean thickness, and the densities relative to the greatest."""
        if self._film is None:
            return 1.0, 0.0, _EVERYWHERE
        nodes = np.linspace(0.0, SQUARE_UM, _NODES)
        zones = self._film.at(origin[0] + nodes, origin[1] + nodes)
        density = zones.white_density if layer == "white" else zones.density
        greatest = float(density.max())
        relative = np.asarray(density / (greatest or 1.0), dtype=np.float64)
        return greatest, float(zones.thickness.mean()), relative

    def _draw(self, index: int, layer: LayerProfile, rng: np.random.Generator, n: int, thickness: float) -> _Things:
        """Return ``n`` things that have everything but a place."""
        things = np.zeros((n, 8))
        over = min(1.0, layer.overlapping + _THICK_OVERLAPPING * thickness)
        overlapping = rng.random(n) < over
        things[:, _GAP] = np.where(overlapping, _OVERLAP_GAP - _THICK_GAP * thickness, layer.gap)
        things[:, _FLIP] = rng.random(n) < 0.5
        things[:, _ANGLE] = rng.random(n) * 2 * math.pi
        things[:, _GAIN] = 1.0 + 0.05 * np.clip(rng.standard_normal(n), -2, 2)
        if layer.radius_um is not None:
            things[:, _SPRITE] = -1
            things[:, _RADIUS] = rng.uniform(*layer.radius_um, n)
            return things
        numbers, upto = self._choices[index]
        chosen = np.minimum(np.searchsorted(upto, rng.random(n), side="right"), len(numbers) - 1)
        things[:, _SPRITE] = numbers[chosen]
        things[:, _RADIUS] = self._sizes[numbers[chosen]]
        # Quarter turns keep every pixel of the chromatin as it was photographed.
        white = self._white[numbers[chosen]]
        things[white, _ANGLE] = np.floor(things[white, _ANGLE] / (math.pi / 2)) * (math.pi / 2)
        return things


@numba.njit(cache=True, nogil=True)
def _place(
    taken: np.ndarray,
    end: int,
    earlier: int,
    x0: float,
    y0: float,
    side: float,
    least_gap: float,
    darts: np.ndarray,
    sticks: np.ndarray,
    angles: np.ndarray,
    stretch: np.ndarray,
    others: np.ndarray,
    relative: np.ndarray,
    coins: np.ndarray,
    clumps: np.ndarray,
) -> int:
    """Give the things from row ``end`` on a place each, in turn, drop those that find none, and return the new end.

    A dart flies anywhere in the square, or against one of the same layer. It must not come nearer to another thing
    than the gaps of both allow; the first ``earlier`` rows are of earlier layers and are never overlapped. A thing
    whose coin is above the relative density where its first dart falls is dropped, so density follows the film from
    place to place and not from square to square. Things of one clump after its first fly against members of it.
    """
    first = end
    clump_begins = end
    for k in range(len(darts)):
        if k == 0 or clumps[k] != clumps[k - 1]:
            clump_begins = end
        radius, gap = taken[first + k, 2], taken[first + k, 3]
        for t in range(darts.shape[1]):
            x, y = x0 + darts[k, t, 0] * side, y0 + darts[k, t, 1] * side
            begin = earlier if clump_begins == end else clump_begins
            same = end - begin
            if (sticks[k, t] or clump_begins < end) and same > 0:
                other = begin + min(int(others[k, t] * same), same - 1)
                distance = (taken[other, 2] + radius) * stretch[k, t] * max(least_gap, gap)
                x = taken[other, 0] + math.cos(angles[k, t]) * distance
                y = taken[other, 1] + math.sin(angles[k, t]) * distance
                if x < x0 or y < y0 or x >= x0 + side or y >= y0 + side:
                    continue
            if _density_at(relative, (x - x0) / side, (y - y0) / side) <= coins[k]:
                if t == 0:
                    break
                continue
            free = True
            for j in range(end):
                share = max(1.0, taken[j, 3]) if j < earlier else min(taken[j, 3], gap)
                least = (taken[j, 2] + radius) * share
                if (x - taken[j, 0]) ** 2 + (y - taken[j, 1]) ** 2 < least * least:
                    free = False
                    break
            if free:
                taken[end] = taken[first + k]
                taken[end, 0], taken[end, 1] = x, y
                end += 1
                break
    return end


@numba.njit(cache=True, nogil=True)
def _density_at(nodes: np.ndarray, x: float, y: float) -> float:
    """Return the value of a grid of nodes at a place of the unit square, bilinearly."""
    last = len(nodes) - 1
    i, j = min(int(x * last), last - 1), min(int(y * last), last - 1)
    u, v = x * last - i, y * last - j
    above = nodes[j, i] * (1 - u) + nodes[j, i + 1] * u
    below = nodes[j + 1, i] * (1 - u) + nodes[j + 1, i + 1] * u
    return above * (1 - v) + below * v


def _clumps(rng: np.random.Generator, wanted: int, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the number of the clump of each thing, ``wanted`` clumps of ``size[0]`` to ``size[1]`` things."""
    return np.repeat(np.arange(wanted), rng.integers(size[0], size[1] + 1, wanted))


def _size(sprite: Sprite) -> float:
    """Return the radius a cell claims, micrometres; white cells keep red cells off their corners."""
    return 0.5 * (sprite.radius_um + sprite.reach_um) if sprite.kind == "white" else sprite.radius_um


def _phase(column: int, row: int) -> int:
    return column % 2 + 2 * (row % 2)


def _choices(layer: LayerProfile, sprites: tuple[Sprite, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return sprite numbers and cumulated probabilities: a class by its weight, any of its cutouts alike.

    ``class:variant`` names the cutouts of a variant, ``class`` those that are of none.
    """
    numbers: list[int] = []
    weights: list[float] = []
    total = sum(layer.mix.values())
    for name, weight in layer.mix.items():
        class_name, _, variant = name.partition(":")
        members = [i for i, s in enumerate(sprites) if (s.class_name, s.variant) == (class_name, variant)]
        if not members:
            known = ", ".join(sorted({f"{s.class_name}:{s.variant}".rstrip(":") for s in sprites}))
            raise ConfigError(f"a profile asks for class {name!r}; there are cutouts of {known}")
        numbers += members
        weights += [weight / total / len(members)] * len(members)
    return np.array(numbers, dtype=np.int64), np.cumsum(weights)
