"""Bytes of a slide file by their place: a local file, or an object behind a URL read in byte ranges.

Both are safe to use from several threads and survive a fork; neither reads a file as a whole.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast

import tifffile

from wsi_pipeline.errors import SlideError, SlideNotFoundError, SlideUnreachableError

_BAD_PLACE = (errno.EINVAL, errno.EOVERFLOW)
"""What the system says of a place that no file has: a damaged header names it."""


class ByteSource(Protocol):
    """Random access to the bytes of one file."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; fewer only at the end of the file.

        Raises
        ------
        OSError
            The bytes cannot be had.
        """
        ...

    def close(self) -> None: ...


class LocalSource:
    """A file on disk, read with ``pread``, which keeps no position for threads to share.

    Raises
    ------
    SlideNotFoundError
        The file cannot be opened.
    SlideUnreachableError
        While reading: the disk or the network's mount fails, which is no damage of the file.
    """

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise SlideNotFoundError(f"{path}: cannot be opened ({error.strerror})") from None
        self.size = os.fstat(self._fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            if error.errno in _BAD_PLACE:
                raise
            raise SlideUnreachableError(
                f"{self._path}: {length} bytes at {offset} cannot be read ({error.strerror}); check the disk or mount"
            ) from None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class SeekableSource(io.RawIOBase):
    """A :class:`ByteSource` as a file object, for libraries that parse headers by seeking."""

    def __init__(self, source: ByteSource, name: str) -> None:
        self._source = source
        self._at = 0
        self.name = name
        self.error: SlideError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self._source.read(self._at, len(view))
        except SlideError as error:
            self.error = error
            raise
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def open_tiff(source: ByteSource, name: str) -> Iterator[tifffile.TiffFile]:
    """Parse a source as a TIFF; what the source could not give is raised, whatever the parser made of it.

    Raises
    ------
    SlideError
        Of the source.
    """
    file = SeekableSource(source, name)
    try:
        with tifffile.TiffFile(cast(IO[bytes], file)) as tiff:
            yield tiff
    except Exception:
        if file.error is not None:
            raise file.error from None
        raise
    if file.error is not None:  # tifffile takes some failures for the end of the file's pages
        raise file.error
