"""Near-duplicate groups and fixed splits.

Single-cell sets hold the same cell more than once and carry no patient ids. Images that look alike are put
into one group, and a whole group goes to train, validation or test by a hash of its content: the split does
not depend on file names, on their order, or on a random seed.

The hash is the difference hash of N. Krawetz ("Kind of like that", hackerfactor.com, 2013) at 16 x 16 bits;
pairs within its distance are confirmed on a 16 x 16 grey thumbnail, since small round cells on empty
background hash alike without being the same cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsi_pipeline.errors import DataError

_SIDE = 16
_ROWS_AT_ONCE = 256

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is kept of ``n`` images to find near-duplicates.

    Parameters
    ----------
    bits
        Difference hashes, uint64 ``(n, 4)``.
    thumbnails
        Grey thumbnails, uint8 ``(n, 256)``.
    """

    bits: npt.NDArray[np.uint64]
    thumbnails: npt.NDArray[np.uint8]


def fingerprint(images: npt.NDArray[np.uint8]) -> Fingerprint:
    """Return difference hashes and thumbnails of RGB images of one size, uint8 ``(n, h, w, 3)``.

    Raises
    ------
    DataError
        The images are smaller than 17 pixels on a side.
    """
    n, height, width = images.shape[:3]
    if height <= _SIDE or width <= _SIDE:
        raise DataError(f"images of {width} x {height} px are too small to hash; at least {_SIDE + 1} px are needed")
    bits = np.zeros((n, _SIDE * _SIDE // 64), dtype=np.uint64)
    thumbnails = np.zeros((n, _SIDE * _SIDE), dtype=np.uint8)
    for start in range(0, n, _ROWS_AT_ONCE):
        grey = images[start : start + _ROWS_AT_ONCE].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        fine = _shrink(grey, _SIDE, _SIDE + 1)
        flags = fine[:, :, 1:] > fine[:, :, :-1]
        packed = np.ascontiguousarray(np.packbits(flags.reshape(len(flags), -1), axis=1))
        bits[start : start + len(flags)] = packed.view(np.uint64)
        small = _shrink(grey, _SIDE, _SIDE).reshape(len(flags), -1)
        thumbnails[start : start + len(flags)] = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    return Fingerprint(bits=bits, thumbnails=thumbnails)


def near_duplicates(
    a: Fingerprint, b: Fingerprint, *, max_bits: int = 48, max_difference: float = 6.0
) -> npt.NDArray[np.int64]:
    """Return the pairs (i, j), i != j, of images that look alike, ``(pairs, 2)``.

    Parameters
    ----------
    a, b
        Fingerprints of the same images: twice the same, or ``b`` of the images moved a little, which finds one
        cell in two pictures that are not centred alike.
    max_bits
        Largest Hamming distance of the 256-bit hashes.
    max_difference
        Largest mean absolute difference of the thumbnails, grey levels.

    Notes
    -----
    All pairs are compared, as products of +1/-1 vectors, which is exact: 10,000 images take about a second.
    """
    found = [np.zeros((0, 2), dtype=np.int64)]
    left, right = _signs(a), _signs(b)
    bits = left.shape[1]
    for start in range(0, len(left), _ROWS_AT_ONCE):
        agreement = left[start : start + _ROWS_AT_ONCE] @ right.T
        i, j = np.nonzero(agreement >= bits - 2 * max_bits)
        i, j = i[i + start != j] + start, j[i + start != j]
        difference = np.abs(a.thumbnails[i].astype(np.int16) - b.thumbnails[j]).mean(axis=1)
        found.append(np.stack([i, j], axis=1)[difference <= max_difference])
    return np.concatenate(found)


def near_duplicate_groups(
    images: npt.NDArray[np.uint8],
    *,
    window_px: int,
    reach_px: int = 0,
    step_px: int = 3,
    together: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Return a group number per image; images joined by a chain of near-duplicates share one.

    Parameters
    ----------
    images
        uint8 ``(n, side, side, 3)``.
    window_px
        Side of the middle part that is compared.
    reach_px, step_px
        The middle is also compared with windows moved by up to ``reach_px`` in steps of ``step_px``.
    together
        A number per image; images with equal numbers belong together whatever they look like (cut-outs of one
        field, cells of one patient).

    Raises
    ------
    DataError
        The images have no room for the reach.
    """
    n, side = images.shape[:2]
    edge = (side - window_px) // 2
    if edge < reach_px:
        raise DataError(f"images of {side} px leave no room to move a window of {window_px} px by {reach_px} px")
    still = _window(images, edge, edge, window_px)
    pairs = [near_duplicates(still, still)]
    for dy, dx in _moves(reach_px, step_px):
        pairs.append(near_duplicates(still, _window(images, edge + dy, edge + dx, window_px)))
    if together is not None:
        _, first, inverse = np.unique(together, return_index=True, return_inverse=True)
        pairs.append(np.stack([np.arange(n), first[inverse]], axis=1))
    return joined_groups(np.concatenate(pairs), n)


def joined_groups(pairs: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Return a group number for each of ``n`` images; those joined by a chain of ``(pairs, 2)`` share one."""
    i, j = pairs.T
    graph = coo_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _signs(prints: Fingerprint) -> npt.NDArray[np.float32]:
    """Return the hashes as +1 and -1; the product of two is 256 minus twice their Hamming distance."""
    flags = np.unpackbits(prints.bits.view(np.uint8), axis=1)
    return flags.astype(np.float32) * 2 - 1


def _window(images: npt.NDArray[np.uint8], y: int, x: int, side: int) -> Fingerprint:
    return fingerprint(images[:, y : y + side, x : x + side])


def _moves(reach: int, step: int) -> list[tuple[int, int]]:
    """Half of the moves: a pair found by the other half is found here with its images swapped."""
    offsets = range(-(reach // step) * step, reach + 1, step)
    return [(dy, dx) for dy in offsets for dx in offsets if (dy, dx) > (0, 0)]


def split_by_group(
    groups: npt.NDArray[np.int64],
    digests: Sequence[str],
    *,
    held_out: npt.NDArray[np.bool_] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    salt: str = "cells-1",
) -> npt.NDArray[np.str_]:
    """Return ``train``, ``val`` or ``test`` for each image, one and the same within a group.

    Parameters
    ----------
    groups
        Group number per image.
    digests
        A hex digest of the content per image; the smallest of a group stands for the group.
    held_out
        Images that must not be trained on or selected with; their groups go to test.
    fractions
        Shares of the three splits.
    salt
        Names the split; the same salt always gives the same split.
    """
    if len(groups) != len(digests):
        raise DataError(f"{len(groups)} groups but {len(digests)} digests; one of each per image is needed")
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"split fractions {fractions} must not be negative and must add up to 1")
    bounds = np.cumsum(fractions)[:2]
    place = {
        group: SPLITS[int(np.searchsorted(bounds, key, side="right"))]
        for group, key in group_keys(groups, digests, salt).items()
    }
    if held_out is not None:
        place |= {group: "test" for group in groups[held_out].tolist()}
    return np.array([place[group] for group in groups.tolist()], dtype="<U5")


def group_keys(groups: npt.NDArray[np.int64], digests: Sequence[str], salt: str) -> dict[int, float]:
    """Return a number in [0, 1) per group that depends only on the salt and the smallest digest in the group."""
    smallest: dict[int, str] = {}
    for group, digest in zip(groups.tolist(), digests, strict=True):
        smallest[group] = min(digest, smallest.get(group, digest))
    return {group: _unit(f"{salt}:{digest}") for group, digest in smallest.items()}


def _unit(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def _shrink(grey: npt.NDArray[np.float32], rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Average ``(n, h, w)`` over a grid of nearly equal boxes."""
    n, height, width = grey.shape
    y = np.linspace(0, height, rows + 1).round().astype(int)
    x = np.linspace(0, width, columns + 1).round().astype(int)
    sums = np.zeros((n, height + 1, width + 1), dtype=np.float64)
    sums[:, 1:, 1:] = grey.cumsum(axis=1, dtype=np.float64).cumsum(axis=2)
    at = sums[:, y][:, :, x]
    boxes = at[:, 1:, 1:] - at[:, :-1, 1:] - at[:, 1:, :-1] + at[:, :-1, :-1]
    return (boxes / np.outer(np.diff(y), np.diff(x))).astype(np.float32)
