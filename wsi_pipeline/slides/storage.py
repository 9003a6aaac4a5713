"""Byte ranges of one object on a web server or in object storage, through fsspec; no retries, no cache.

Web servers are asked through the session of fsspec's ``HTTPFileSystem``, whose ``cat_file`` would take the whole file
from a server that ignores ranges before that could be told. Everything else goes through ``info`` and ``cat_file``.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any, NamedTuple, Protocol

from wsi_pipeline.errors import (
    SlideChangedError,
    SlideError,
    SlideNotFoundError,
    SlideUnreachableError,
    UnsupportedFormatError,
)
from wsi_pipeline.slides.paths import RemotePath

CONNECT_SECONDS, SILENCE_SECONDS, REQUEST_SECONDS = 10.0, 30.0, 120.0
"""Longest wait for a connection, for the next bytes, and for a whole request."""

RECHECK_SECONDS = 5.0
"""Objects that are not on a web server are asked this often, at most, whether they have changed."""

_TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504))
_EXTRA = "pip install 'wsi-pipeline[remote]'"


class TransientError(Exception):
    """A request failed in a way that another attempt may not; the text says how, without secrets."""


class Version(NamedTuple):
    """What tells that an object is the same as before: size, ETag, time of the last change; empty if not told."""

    size: int
    etag: str
    modified: str

    def same(self, other: Version) -> bool:
        """Tell whether two are of the same object; the time counts only where there is no ETag."""
        if self.size != other.size:
            return False
        if self.etag and other.etag:
            return self.etag == other.etag
        return not (self.modified and other.modified) or self.modified == other.modified


class StoredObject(Protocol):
    """One object; safe to use from several threads of one process."""

    def fetch(self, start: int, stop: int) -> tuple[bytes, Version]:
        """Return the bytes from ``start`` up to ``stop`` or the end of the object, and which object they are of.

        Raises
        ------
        TransientError
            Another attempt may succeed.
        SlideError
            None will.
        """
        ...

    def close(self) -> None: ...


def open_object(path: RemotePath) -> StoredObject:
    """Return the object behind a URL; nothing is requested yet, but a missing package shows."""
    try:
        return HttpObject(path) if path.scheme in ("http", "https") else FsspecObject(path)
    except ImportError as error:
        missing = f" ({error.name} is missing)" if error.name else ""
        raise UnsupportedFormatError(
            f"{path}: reading {path.scheme}:// needs packages that are not installed{missing}: {_EXTRA}"
        ) from None
    except ValueError:
        raise UnsupportedFormatError(
            f"{path}: fsspec does not know {path.scheme}://; download the slide, or give an s3:// or https:// URL"
        ) from None


def no_permission(path: RemotePath, what: str) -> SlideNotFoundError:
    return SlideNotFoundError(
        f"{path}: no permission to read it ({what}); check the credentials, or renew the presigned URL"
    )


def not_there(path: RemotePath, what: str) -> SlideNotFoundError:
    return SlideNotFoundError(f"{path}: no such object ({what})")


class HttpObject:
    """An object on a web server that answers range requests (RFC 9110, section 14)."""

    def __init__(self, path: RemotePath) -> None:
        import aiohttp
        import fsspec
        from fsspec.implementations.http import HTTPFileSystem

        self._path = path
        limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        own = {}
        for protocol in ("http", "https"):
            own.update(fsspec.config.conf.get(protocol, {}).get("client_kwargs", {}))
        # A URL in ASCII is sent as it is: a signature covers its very letters.
        self._system: Any = HTTPFileSystem(
            encoded=path.url.isascii() and " " not in path.url,
            client_kwargs={"trust_env": True, **own, "timeout": limits},
            skip_instance_cache=True,
        )

    def fetch(self, start: int, stop: int) -> tuple[bytes, Version]:
        import aiohttp
        from fsspec.asyn import sync

        try:
            data, version = sync(self._system.loop, self._get, start, stop, timeout=REQUEST_SECONDS + CONNECT_SECONDS)
        except aiohttp.InvalidURL:
            raise not_there(self._path, "the URL is malformed") from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if isinstance(error, SlideError):
                raise
            raise TransientError(_in_words(error)) from None
        return data, version

    async def _get(self, start: int, stop: int) -> tuple[bytes, Version]:
        session = await self._system.set_session()
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        async with session.get(self._system.encode_url(self._path.url), headers=headers) as reply:
            try:
                version, first, last = self._checked(reply, start, stop)
                data = await _body(reply, last - first + 1) if last >= first else b""
            except BaseException:
                reply.close()  # what follows in the body is not waited for
                raise
        if len(data) != last - first + 1:
            raise TransientError(f"{len(data)} of {last - first + 1} bytes came")
        return data, version

    def _checked(self, reply: Any, start: int, stop: int) -> tuple[Version, int, int]:
        """Return the version and the first and last byte of a reply, before its body is read."""
        path, status = self._path, reply.status
        if status in _TRANSIENT:
            raise TransientError(f"HTTP status {status}")
        if status in (401, 403, 407):
            raise no_permission(path, f"HTTP status {status}")
        if status in (404, 410):
            raise not_there(path, f"HTTP status {status}")
        found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", reply.headers.get("Content-Range", "").strip())
        if status == 416 and (found is None or int(found[3]) == 0) and start == 0:
            return self._version(reply, 0), 0, -1
        if status == 416:
            raise SlideChangedError(f"{path}: the object has become shorter since it was opened; start the run again")
        if status == 200:
            raise SlideUnreachableError(
                f"{path}: the server ignores range requests and would send the whole file for each; "
                "download the slide, or put it on a server with byte ranges"
            )
        asked = found is not None and found[1] is not None and int(found[1]) == start and int(found[2]) < stop
        if status != 206 or found is None or not asked:
            raise SlideUnreachableError(
                f"{path}: the server answers a range request with HTTP status {status}"
                + (f" and {reply.headers.get('Content-Range', 'no Content-Range')!r}"[:80] if status == 206 else "")
                + "; download the slide, or put it on a server with byte ranges"
            )
        return self._version(reply, int(found[3])), int(found[1]), int(found[2])

    @staticmethod
    def _version(reply: Any, size: int) -> Version:
        return Version(size, reply.headers.get("ETag", ""), reply.headers.get("Last-Modified", ""))

    def close(self) -> None:
        session, self._system._session = self._system._session, None
        if session is not None:
            self._system.close_session(self._system.loop, session)


async def _body(reply: Any, length: int) -> bytes:
    """Return the body of a reply that should have ``length`` bytes; of a longer one no more than shows that it is."""
    parts, held = [], 0
    while held <= length and (part := await reply.content.readany()):
        parts.append(part)
        held += len(part)
    if held > length:
        reply.close()
    return b"".join(parts)


class FsspecObject:
    """An object of any file system that fsspec knows; its options are those of fsspec's configuration."""

    def __init__(self, path: RemotePath) -> None:
        import fsspec

        options: dict[str, Any] = {}
        if path.scheme in ("s3", "s3a"):
            own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            # One attempt: retries are counted in one place, else three layers of them multiply.
            limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENCE_SECONDS}
            options["config_kwargs"] = {**limits, "retries": {"total_max_attempts": 1}, **own}
        self._path = path
        self._system, self._key = fsspec.core.url_to_fs(path.url, skip_instance_cache=True, **options)
        if path.scheme in ("s3", "s3a"):
            self._system.retries = 1
        self._lock = threading.Lock()
        self._version: Version | None = None
        self._checked_at = 0.0

    def fetch(self, start: int, stop: int) -> tuple[bytes, Version]:
        try:
            version = self._current()
            stop = min(stop, version.size)
            data = self._system.cat_file(self._key, start=start, end=stop) if start < stop else b""
            version = self._current()  # what was read while the object changed is not of either version
        except SlideError:
            raise
        except FileNotFoundError:
            raise not_there(self._path, "the storage does not have it") from None
        except PermissionError:
            raise no_permission(self._path, "the storage refuses") from None
        except Exception as error:  # noqa: BLE001  # each storage has errors of its own
            if "Credential" in type(error).__name__ or "Profile" in type(error).__name__:
                raise no_permission(self._path, type(error).__name__) from None
            raise TransientError(_in_words(error)) from None
        if len(data) != max(0, stop - start):
            raise TransientError(f"{len(data)} of {stop - start} bytes came")
        return bytes(data), version

    def _current(self) -> Version:
        """Return what the object is now, as of at most ``RECHECK_SECONDS`` ago."""
        with self._lock:
            if self._version is None or time.monotonic() - self._checked_at > RECHECK_SECONDS:
                self._system.invalidate_cache()
                about = self._system.info(self._key)
                if about.get("type") == "directory" or about.get("size") is None:
                    raise not_there(self._path, "a folder, or an object of unknown size")
                changed = about.get("LastModified") or about.get("mtime") or about.get("created") or ""
                etag = about.get("ETag") or about.get("etag") or ""
                self._version = Version(int(about["size"]), str(etag), str(changed))
                self._checked_at = time.monotonic()
            return self._version

    def close(self) -> None:
        """Leave the session to the file system, which ends it when it goes."""


def _in_words(error: BaseException) -> str:
    """Return what an error is, without its text: that may hold the URL and with it the permission."""
    cause = getattr(error, "os_error", error)
    why = getattr(cause, "strerror", None)
    return f"{type(error).__name__}: {why}" if isinstance(why, str) and "://" not in why else type(error).__name__
