"""Bytes of a slide behind a URL: blocks read by byte range, kept in a bounded cache, fetched once for all threads."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

from wsi_pipeline.errors import SlideChangedError, SlideError, SlideUnreachableError
from wsi_pipeline.slides.paths import RemotePath
from wsi_pipeline.slides.storage import StoredObject, TransientError, Version, open_object

BLOCK_BYTES = 256 * 2**10
"""A request is for whole blocks of this size; a row of tiles of a block of work is about one."""

CACHE_BYTES = 64 * 2**20
"""Blocks kept in a process, of all its remote slides together."""

MAX_REQUEST_BYTES = 8 * 2**20
"""Adjacent missing blocks are one request up to this size."""

ATTEMPTS = 4
"""Of one request, with waits of about 0.25, 0.5 and 1 s between them."""

_FIRST_WAIT_SECONDS = 0.25

BlockKey = tuple[str, Version, int]
"""URL, version of the object, number of the block."""


class BlockCache:
    """Least-recently-used blocks, bounded in bytes, and the blocks on their way; safe for threads."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._blocks: OrderedDict[BlockKey, bytes] = OrderedDict()
        self._pending: dict[BlockKey, Future[bytes]] = {}
        self._bytes = 0

    @property
    def used_bytes(self) -> int:
        return self._bytes

    def claim(self, keys: Sequence[BlockKey]) -> tuple[dict[BlockKey, bytes], dict[BlockKey, Future[bytes]]]:
        """Return the blocks that are held and those that others fetch; the rest is the caller's to fetch and settle."""
        held, others = {}, {}
        with self._lock:
            for key in keys:
                block = self._blocks.get(key)
                if block is not None:
                    self._blocks.move_to_end(key)
                    held[key] = block
                elif (pending := self._pending.get(key)) is not None:
                    others[key] = pending
                else:
                    self._pending[key] = Future()
        return held, others

    def settle(self, key: BlockKey, block: bytes) -> None:
        """Keep a block, and give it to those who wait for it."""
        with self._lock:
            pending = self._pending.pop(key, None)
            if key not in self._blocks and len(block) <= self.capacity_bytes:
                self._blocks[key] = block
                self._bytes += len(block)
            while self._bytes > self.capacity_bytes:
                self._bytes -= len(self._blocks.popitem(last=False)[1])
        if pending is not None:
            pending.set_result(block)

    def give_up(self, keys: Sequence[BlockKey], error: BaseException) -> None:
        """Let those who wait for the caller's blocks know that they will not come."""
        with self._lock:
            found = [pending for key in keys if (pending := self._pending.pop(key, None)) is not None]
        for pending in found:
            pending.set_exception(error)


_caches: dict[int, BlockCache] = {}
_caches_lock = threading.Lock()


def process_blocks() -> BlockCache:
    """Return the cache that all remote slides of this process share; after a fork it is another one."""
    with _caches_lock:
        return _caches.setdefault(os.getpid(), BlockCache(CACHE_BYTES))


class RemoteSource:
    """An object behind a URL as a :class:`~wsi_pipeline.slides.sources.ByteSource`.

    Nothing is read that nobody asked for, but for the rest of a block; never the whole object at once. Threads that
    ask for the same block share one request.

    Parameters
    ----------
    path
        The object.
    cache
        Where its blocks are kept; by default the process's, of ``CACHE_BYTES``.

    Attributes
    ----------
    size
        Bytes of the object.
    version
        Size, ETag and time of change: bytes of another version are refused.
    requests, fetched_bytes
        How many requests succeeded so far, and what they brought.

    Raises
    ------
    SlideNotFoundError
        No such object, or no permission.
    SlideUnreachableError
        The server does not answer, keeps failing, or ignores ranges.
    UnsupportedFormatError
        The packages for this kind of URL are not installed.
    """

    size: int
    version: Version

    def __init__(self, path: RemotePath, cache: BlockCache | None = None) -> None:
        self._path = path
        self._cache = cache
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._object: StoredObject | None = open_object(path)
        self._expected: Version | None = None
        self.requests = 0
        self.fetched_bytes = 0
        # One request tells version and size, and brings the header.
        block = self._fetch(0, BLOCK_BYTES)
        if self._expected is None:
            raise SlideUnreachableError(f"{path}: the storage does not say what the object is")
        self.version = self._expected
        self.size = self.version.size
        if block:
            self._blocks.settle((path.url, self.version, 0), block)

    @property
    def _blocks(self) -> BlockCache:
        return self._cache if self._cache is not None and self._pid == os.getpid() else process_blocks()

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, fewer at the end of the object.

        Raises
        ------
        SlideError
            As of the class, and :class:`SlideChangedError` when the object is another than before.
        """
        stop = min(offset + length, self.size)
        if offset >= stop:
            return b""
        first, last = offset // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        cache = self._blocks
        keys = [(self._path.url, self.version, number) for number in range(first, last + 1)]
        blocks, others = cache.claim(keys)
        mine = [key for key in keys if key not in blocks and key not in others]
        try:
            for run in _runs(mine):
                start = run[0][2] * BLOCK_BYTES
                data = self._fetch(start, min(start + len(run) * BLOCK_BYTES, self.size))
                for place, key in enumerate(run):
                    blocks[key] = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
                    cache.settle(key, blocks[key])
        except BaseException as error:
            # An interruption of this thread is no interruption of those that wait.
            told = error if isinstance(error, SlideError) else SlideUnreachableError(f"{self._path}: interrupted")
            cache.give_up([key for key in mine if key not in blocks], told)
            raise
        for key, pending in others.items():
            blocks[key] = pending.result()
        if len(keys) == 1:
            return blocks[keys[0]][offset - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]
        joined = b"".join(blocks[key] for key in keys)
        return joined[offset - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]

    def _fetch(self, start: int, stop: int) -> bytes:
        """Return a range, with some patience for what may pass, and the version it belongs to checked."""
        failures = []
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))
            try:
                data, version = self._storage().fetch(start, stop)
            except TransientError as error:
                failures.append(str(error))
                continue
            if self._expected is None:
                self._expected = version
            if not version.same(self._expected):
                raise SlideChangedError(
                    f"{self._path}: the object has changed since it was opened (its size, ETag or time of change); "
                    "start the run again"
                )
            if len(data) != min(stop, version.size) - start:
                failures.append(f"{len(data)} of {min(stop, version.size) - start} bytes came")
                continue
            with self._lock:
                self.requests += 1
                self.fetched_bytes += len(data)
            return data
        raise SlideUnreachableError(
            f"{self._path}: {ATTEMPTS} attempts to read bytes {start}-{stop - 1} failed, the last with {failures[-1]}; "
            "check the address and the network"
        )

    def _storage(self) -> StoredObject:
        with self._lock:
            if self._object is None:
                raise SlideError(f"{self._path}: the slide is closed; open it again to read from it")
            if self._pid != os.getpid():  # a fork: the parent's connections are the parent's
                self._object, self._pid = open_object(self._path), os.getpid()
            return self._object

    def close(self) -> None:
        with self._lock:
            old, self._object = self._object, None
        if old is not None and self._pid == os.getpid():
            old.close()


def _runs(keys: Sequence[BlockKey]) -> list[list[BlockKey]]:
    """Return keys of one object, cut into runs of adjacent blocks that are one request each."""
    most = MAX_REQUEST_BYTES // BLOCK_BYTES
    runs: list[list[BlockKey]] = []
    for key in keys:
        if runs and runs[-1][-1][2] + 1 == key[2] and len(runs[-1]) < most:
            runs[-1].append(key)
        else:
            runs.append([key])
    return runs
