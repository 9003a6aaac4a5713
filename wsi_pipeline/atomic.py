"""Write files so that a reader sees either nothing or the whole: temporary name, flush, rename, flush of the folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import OutputError, WsiPipelineError

_noted: ContextVar[list[tuple[str, int]] | None] = ContextVar("noted", default=None)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def atomic_path(final: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``final`` and rename it into place when the block succeeds.

    The file is on the disk before it has its name, and the name is before this returns: after a loss of power
    ``final`` is the whole file or what was there before. On an exception the temporary file is removed and ``final`` is
    left as it was.

    Parameters
    ----------
    durable
        False leaves the flushing to the system: for files that are worth nothing after a loss of power.

    Raises
    ------
    OutputError
        The disk is full (reason ``disk-full``) or cannot be written (``read-only``).
    """
    temporary = final.parent / f".{final.name[:150]}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        size = temporary.stat().st_size
        os.replace(temporary, final)
        if durable:
            flush_folder(final.parent)
    except OSError as error:
        if (refused := refusal(error, final)) is not None:
            raise refused from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    noted = _noted.get()
    if noted is not None:
        noted.append((str(final), size))


def flush_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        return  # a system that opens no folders
    try:
        with contextlib.suppress(OSError):  # a file system that flushes none
            os.fsync(handle)
    finally:
        os.close(handle)


def refusal(error: BaseException, path: Path) -> OutputError | None:
    """Return what it means that ``path`` could not be written, or None where another thing went wrong.

    PyArrow names the system's code in its text only, so that is looked at, too.
    """
    if isinstance(error, WsiPipelineError) or not isinstance(error, OSError):
        return None
    code = error.errno
    if code is None and (told := re.search(r"\[errno (\d+)\]", str(error), re.IGNORECASE)):
        code = int(told[1])
    if code in _FULL:
        return OutputError(
            f"{path.parent}: the disk or the quota is full; make room and give the same command again: it resumes",
            reason="disk-full",
        )
    if code in _READ_ONLY:
        return OutputError(f"{path.parent} cannot be written: {os.strerror(code)}", reason="read-only")
    return None


@contextmanager
def noting() -> Iterator[list[tuple[str, int]]]:
    """Yield a list to which the path and size of each file is added that this thread writes in the block."""
    noted: list[tuple[str, int]] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what the system refuses in the block into :class:`OutputError` on ``out``; errors of our own pass."""
    try:
        yield
    except OSError as error:
        if isinstance(error, WsiPipelineError):
            raise
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from None


def write_bytes(final: Path, data: bytes, *, durable: bool = True) -> None:
    """Write ``data`` to ``final`` atomically."""
    with atomic_path(final, durable=durable) as temporary:
        temporary.write_bytes(data)


def write_text(final: Path, text: str, *, durable: bool = True) -> None:
    """Write ``text`` as UTF-8 to ``final`` atomically."""
    write_bytes(final, text.encode("utf-8"), durable=durable)


def write_json(final: Path, data: Any, *, durable: bool = True) -> None:
    """Write ``data`` as indented JSON with sorted keys; NaN is refused, since JSON has none."""
    write_text(
        final, json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n", durable=durable
    )
