"""The chunk cache and the handle pool."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from wsi_pipeline.errors import CorruptTileError, SlideError
from wsi_pipeline.slides.lattice import ChunkCache, HandlePool


def chunk(value: int) -> np.ndarray:
    return np.full((10, 10, 3), value, np.uint8)


def test_cache_is_bounded_and_forgets_the_least_recent():
    cache = ChunkCache(900)
    decoded: list[int] = []

    def get(n: int) -> np.ndarray:
        return cache.get(("s", 0, n, 0), lambda: decoded.append(n) or chunk(n))

    for n in (1, 2, 3, 1, 4, 1, 2):
        assert get(n)[0, 0, 0] == n
        assert cache.used_bytes <= 900
    assert decoded == [1, 2, 3, 4, 2]
    with pytest.raises(ValueError, match="read-only"):
        get(1)[0, 0, 0] = 9


def test_a_chunk_wanted_by_many_is_decoded_once():
    cache, count, start = ChunkCache(10**6), [], threading.Barrier(8)

    def decode() -> np.ndarray:
        count.append(1)
        time.sleep(0.05)
        return chunk(7)

    def want() -> None:
        start.wait()
        assert cache.get(("s", 0, 0, 0), decode)[0, 0, 0] == 7

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 1


def test_errors_are_raised_and_not_cached():
    cache = ChunkCache(10**6)

    def fail() -> np.ndarray:
        raise CorruptTileError("bad")

    with pytest.raises(CorruptTileError):
        cache.get(("s", 0, 0, 0), fail)
    assert cache.get(("s", 0, 0, 0), lambda: chunk(3))[0, 0, 0] == 3


class Handle:
    thread_safe = False

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_pool_lends_one_handle_a_thread_and_drops_broken_ones():
    made: list[Handle] = []

    def factory() -> Handle:
        made.append(Handle())
        return made[-1]

    first = factory()
    pool = HandlePool(first, factory)
    with pool.borrow() as a, pool.borrow() as b:
        assert a is first
        assert b is not a
    with pytest.raises(CorruptTileError), pool.borrow() as broken:
        raise CorruptTileError("x")
    assert broken.closed
    with pool.borrow() as again:
        assert not again.closed
        pool.close()
    assert all(handle.closed for handle in made)
    with pytest.raises(SlideError, match="closed"), pool.borrow():
        pass
