"""The chunk lattice: the only way pixels leave a backend.

A chunk is a rectangle of level pixels on a grid anchored at the level's origin, clipped at the last row and column:
``slides.chunk_px`` on a side, or the file's own tile where a backend decodes those. The same chunk is always read from
the same place, because OpenSlide interpolates sub-pixel offsets at levels above 0 and would otherwise give different
pixels for different regions.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from wsi_pipeline.errors import CorruptTileError, SlideError
from wsi_pipeline.slides.backends.base import Backend, RgbArray
from wsi_pipeline.units import Box

ChunkKey = tuple[str, int, int, int]
"""Slide key, level, chunk column, chunk row."""


class ChunkCache:
    """Least-recently-used decoded chunks, bounded in bytes, safe for threads.

    Two threads that ask for the same chunk at once share one decoding.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._chunks: OrderedDict[ChunkKey, RgbArray] = OrderedDict()
        self._pending: dict[ChunkKey, _Pending] = {}
        self._bytes = 0

    @property
    def used_bytes(self) -> int:
        return self._bytes

    def get(self, key: ChunkKey, decode: Callable[[], RgbArray], *, keep: bool = True) -> RgbArray:
        """Return the chunk, decoding it if it is not held; an error of ``decode`` reaches every waiter.

        With ``keep`` false it is given and forgotten: its memory, still in the processor's cache, serves the next one.
        """
        if not keep:
            # Without the lock: threads that decode side by side meet there hundreds of times a second.
            held = self._chunks.get(key)
            return decode() if held is None else held
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
                return chunk
            pending = self._pending.get(key)
            mine = pending is None
            if pending is None:
                pending = self._pending[key] = _Pending()
        if not mine:
            return pending.result()
        try:
            chunk = decode()
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            pending.finish(error=error)
            raise
        chunk.flags.writeable = False
        with self._lock:
            del self._pending[key]
            if chunk.nbytes <= self.capacity_bytes:
                self._chunks[key] = chunk
                self._bytes += chunk.nbytes
            while self._bytes > self.capacity_bytes:
                _, old = self._chunks.popitem(last=False)
                self._bytes -= old.nbytes
        pending.finish(chunk=chunk)
        return chunk


class _Pending:
    """A chunk in the making; a lock is all it needs, and it is made for every chunk (a Future costs 5 us)."""

    __slots__ = ("_chunk", "_done", "_error")

    def __init__(self) -> None:
        self._done = threading.Lock()
        self._done.acquire()
        self._chunk: RgbArray | None = None
        self._error: BaseException | None = None

    def finish(self, *, chunk: RgbArray | None = None, error: BaseException | None = None) -> None:
        self._chunk, self._error = chunk, error
        self._done.release()

    def result(self) -> RgbArray:
        with self._done:
            if self._chunk is None:
                raise self._error or RuntimeError("a chunk without pixels")
            return self._chunk


_caches: dict[tuple[int, int], ChunkCache] = {}
_caches_lock = threading.Lock()


def process_cache(cache_mb: int) -> ChunkCache:
    """Return the cache that all slides of this process with the same ``cache_mb`` (MiB) share."""
    with _caches_lock:
        return _caches.setdefault((os.getpid(), cache_mb), ChunkCache(cache_mb * 2**20))


class HandlePool:
    """Backend handles, each used by one thread at a time and only in the process that opened it."""

    def __init__(self, first: Backend, factory: Callable[[], Backend]) -> None:
        self._factory = factory
        self._lock = threading.Lock()
        self._idle: list[Backend] = [first]
        self._first = first if first.thread_safe else None
        self._pid = os.getpid()
        self._closed = False

    def shared(self) -> Backend | None:
        """Return the handle that serves all threads at once, if there is one."""
        first = self._first
        if first is None or self._closed or self._pid != os.getpid():
            return None
        return first

    @contextmanager
    def borrow(self) -> Iterator[Backend]:
        """Lend a handle; one that raised is closed, since OpenSlide handles stay broken after an error.

        One that serves all threads stays open: it is still the others', and holds nothing that an error breaks.
        """
        handle = self._take()
        try:
            yield handle
        except BaseException:
            if handle.thread_safe:
                self._give_back(handle)
            else:
                handle.close()
            raise
        self._give_back(handle)

    def _take(self) -> Backend:
        with self._lock:
            if self._closed:
                raise SlideError("the slide is closed; open it again to read from it")
            if self._pid != os.getpid():  # a fork: the parent's handles share file positions with it
                self._idle, self._pid = [], os.getpid()
            if self._idle:
                handle = self._idle[-1]
                if not handle.thread_safe:
                    self._idle.pop()
                return handle
        return self._factory()

    def _give_back(self, handle: Backend) -> None:
        with self._lock:
            if not self._closed and (not handle.thread_safe or not self._idle):
                self._idle.append(handle)
                return
            keep = handle.thread_safe and not self._closed
        if not keep:
            handle.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.close()


class ChunkReader:
    """Chunks of one slide, through the cache and the handle pool.

    Parameters
    ----------
    pool
        The backend's handles.
    level_sizes, chunk_sizes
        Width and height of each level and of its chunks.
    key
        What the chunks depend on: file, backend.
    cache
        Where they are kept.
    mask_corrupt
        Give white for a chunk that cannot be decoded, and list it in ``corrupt``, instead of raising.

    Attributes
    ----------
    corrupt
        Level and place of every chunk met so far that could not be decoded.
    """

    def __init__(
        self,
        *,
        pool: HandlePool,
        level_sizes: tuple[tuple[int, int], ...],
        chunk_sizes: tuple[tuple[int, int], ...],
        key: str,
        cache: ChunkCache,
        mask_corrupt: bool = False,
    ) -> None:
        self.level_sizes = level_sizes
        self.chunk_sizes = chunk_sizes
        self._pool = pool
        self._key = f"{key}/{chunk_sizes[0]}"
        self._cache = cache
        self._mask_corrupt = mask_corrupt
        self.corrupt: set[tuple[int, Box]] = set()

    def chunks_over(self, level: int, box: Box, inner: Box | None = None) -> Iterator[tuple[Box, RgbArray]]:
        """Yield (place, pixels) of every chunk that meets ``box`` (level pixels), in raster order.

        Parameters
        ----------
        inner
            Level pixels that no other read is expected to need: chunks that lie whole in it and in ``box`` are not
            kept. None is ``box``: chunks that it cuts are kept for the neighbour that needs their other part.
        """
        width, height = self.level_sizes[level]
        whole = Box(x0=0, y0=0, x1=width, y1=height)
        inside = box.clip(whole)
        if inside.is_empty:
            return
        alone = inside if inner is None else inside.clip(inner)
        chunk_w, chunk_h = self.chunk_sizes[level]
        for row in range(inside.y0 // chunk_h, (inside.y1 - 1) // chunk_h + 1):
            y0 = row * chunk_h
            y1 = min(y0 + chunk_h, height)
            row_alone = alone.y0 <= y0 and y1 <= alone.y1
            for column in range(inside.x0 // chunk_w, (inside.x1 - 1) // chunk_w + 1):
                x0 = column * chunk_w
                place = Box(x0=x0, y0=y0, x1=min(x0 + chunk_w, width), y1=y1)
                keep = not (row_alone and alone.x0 <= x0 and place.x1 <= alone.x1)
                key = (self._key, level, column, row)
                try:
                    pixels = self._cache.get(key, self._decoder(level, place), keep=keep)
                except CorruptTileError:
                    if not self._mask_corrupt:
                        raise
                    self.corrupt.add((level, place))
                    pixels = np.full((place.height, place.width, 3), 255, np.uint8)
                yield place, pixels
                del pixels  # before the next is decoded, which then takes its place in memory and in the cache

    def _decoder(self, level: int, place: Box) -> Callable[[], RgbArray]:
        def decode() -> RgbArray:
            if (shared := self._pool.shared()) is not None:
                return shared.read_chunk(level, place)
            with self._pool.borrow() as handle:
                return handle.read_chunk(level, place)

        return decode

    def close(self) -> None:
        self._pool.close()
