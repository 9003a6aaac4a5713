"""Where a slide lies: a file, or an object behind a URL whose secrets are never shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from wsi_pipeline.errors import ConfigError

# Two letters at least: C:// is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(::[A-Za-z0-9+.\-]+)*://")

_BROKEN_URL = re.compile(r"(https?|s3|gs|abfss?):/[^/]")


@dataclass(frozen=True)
class RemotePath:
    """An object behind a URL; hashable and picklable, and used where a path is.

    ``str`` and ``repr`` leave out the user name, password, query and fragment, which in presigned URLs are the
    permission itself: only that form goes into messages, logs, tables and reports. Two URLs that differ only there
    are two paths of the same text.

    Attributes
    ----------
    url
        The whole URL, secrets included; for opening the object and for nothing else.
    """

    url: str = field(repr=False)

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme.lower()

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(unquote(urlsplit(self.url).path))

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def parent(self) -> PurePosixPath:
        """The folders of the URL's path, for names only."""
        return self._pure.parent

    def absolute(self) -> RemotePath:
        """Return itself: a URL is never relative."""
        return self


SlidePath = Path | RemotePath
"""Where a slide lies."""


def is_url(text: str | Path | RemotePath) -> bool:
    return isinstance(text, RemotePath) or (isinstance(text, str) and _URL.match(text) is not None)


def slide_path(text: str | Path | RemotePath) -> SlidePath:
    """Return a path or URL as the type that fits; ``file://`` is a path.

    Raises
    ------
    ConfigError
        The URL is malformed, was made a ``Path``, is chained (``simplecache::``, which copies whole files), or names a
        folder.
    """
    if isinstance(text, Path) and _BROKEN_URL.match(str(text)) and not text.exists():
        raise ConfigError(f"{str(text).split(':')[0]}: a URL that was made a Path has lost a slash; give it as text")
    if not isinstance(text, str):
        return text
    if not is_url(text):
        return Path(text)
    try:
        parts = urlsplit(text)
        remote = RemotePath(text)
        name, host = remote.name, parts.hostname
    except ValueError:
        raise ConfigError(f"a slide's URL that begins with {text.split('://')[0]}:// is malformed") from None
    if "::" in text.split("://")[0]:
        raise ConfigError(f"{remote}: chained URLs are not read, since they copy whole files; name the object itself")
    if remote.scheme == "file":
        return Path(unquote(parts.path))
    if not name or text.split("?")[0].endswith("/") or (not host and remote.scheme in ("http", "https", "s3")):
        raise ConfigError(f"{remote}: a URL names one slide, not a folder; list several in a manifest")
    return remote
