"""A web server on this machine that behaves, or misbehaves, as a test asks."""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Storage:
    """What the server holds and how it answers.

    Attributes
    ----------
    files
        Bytes by path, without the leading slash.
    ranges
        Whether range requests are honoured.
    answer
        Given the number of the request (from 0) and its path, a status to fail with, or None.
    delay
        Seconds before every reply's body.
    authorization
        The header asked for, if any.
    excess
        Bytes sent beyond every range that is asked for.
    log
        Method, path with query, and range of every request.
    sent
        Bytes of bodies sent.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    answer: Callable[[int, str], int | None] = lambda _number, _path: None
    delay: float = 0.0
    authorization: str | None = None
    excess: int = 0
    log: list[tuple[str, str, str]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    @property
    def ranges_asked(self) -> Counter[str]:
        return Counter(span for _, _, span in self.log)

    def clear(self) -> None:
        self.log.clear()
        self.sent = 0


@contextmanager
def serve(storage: Storage) -> Iterator[Storage]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.reply(False)

        def do_GET(self) -> None:
            self.reply(True)

        def fail(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def reply(self, body: bool) -> None:
            asked = self.headers.get("Range", "")
            with lock:
                number = len(storage.log)
                storage.log.append((self.command, self.path, asked))
            status = storage.answer(number, self.path)
            path = urlsplit(self.path).path.lstrip("/")
            data = storage.files.get(path)
            if status is None and storage.authorization not in (None, self.headers.get("Authorization")):
                status = 401
            if status is None and data is None:
                status = 404
            if status is not None or data is None:
                return self.fail(status or 404)
            size, start, stop = len(data), 0, len(data)
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked) if storage.ranges else None
            if found:
                start, stop = int(found[1]), min(size, int(found[2]) + 1 + storage.excess if found[2] else size)
            if found and start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("ETag", f'"{zlib.crc32(data[-64:]):08x}-{size}"')
            self.send_header("Last-Modified", "Wed, 25 Nov 2026 00:00:00 GMT")
            self.end_headers()
            if not body:
                return None
            time.sleep(storage.delay)
            try:
                for at in range(start, stop, 2**16):
                    part = data[at : min(stop, at + 2**16)]
                    with lock:
                        storage.sent += len(part)
                    self.wfile.write(part)
            except OSError:
                self.close_connection = True
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    storage.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield storage
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
