"""The page of the fake model on a free port, and a browser where there is one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.serve.fakes import FakeModel, fake_page
from wsi_pipeline.serve.server import ADDRESS, bind, make_server


@dataclass(frozen=True, kw_only=True)
class Served:
    model: FakeModel
    port: int

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}/"


@pytest.fixture
def served() -> Iterator[Served]:
    """A running server in a thread of its own."""
    model = FakeModel()
    sockets = bind(0)
    loop = asyncio.new_event_loop()

    async def start() -> None:
        make_server(fake_page(model), "en").add_sockets(sockets)

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=work)
    thread.start()
    yield Served(model=model, port=sockets[0].getsockname()[1])
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
    for listening in sockets:
        listening.close()
