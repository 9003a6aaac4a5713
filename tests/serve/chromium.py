"""A headless Chromium, driven over its own DevTools protocol with tornado's websocket client."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--no-proxy-server",
    "--force-color-profile=srgb", "--hide-scrollbars", "--remote-debugging-port=0", "about:blank",
)  # fmt: skip
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "), "ArrowDown": (40, ""), "Backspace": (8, "")}


def find_chromium() -> str | None:
    """Return the program, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """One tab. ``events`` holds what it reported (requests, console, exceptions); ``patience_s`` bounds a command."""

    def __init__(self, program: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._log = Path(self._folder.name) / "log"
        command = [program, f"--user-data-dir={self._folder.name}/profile", *FLAGS]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.events: list[dict[str, Any]] = []
        self.patience_s = 30.0
        self._count = 0
        self._session: str | None = None
        self._socket: WebSocketClientConnection = self._loop.run_until_complete(self._connect())
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    async def _connect(self) -> WebSocketClientConnection:
        ends = time.monotonic() + 60
        while time.monotonic() < ends and self._process.poll() is None:
            found = re.search(r"DevTools listening on (ws://\S+)", self._log.read_text(errors="replace"))
            if found:
                return await websocket_connect(found[1], max_message_size=64 * 1024 * 1024)
            await asyncio.sleep(0.05)
        raise RuntimeError(f"chromium did not start: {self._log.read_text(errors='replace')[-500:]}")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; events that arrive before it are kept."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), self.patience_s))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        await self._socket.write_message(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            answer = json.loads(await self._socket.read_message() or '{"error": "closed", "id": null}')
            if "id" not in answer:
                self.events.append(answer)
            elif answer["id"] == message["id"] or answer["id"] is None:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def js(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 15) -> None:
        """Wait until an expression in the page is true."""
        ends = time.monotonic() + seconds
        while not self.js(f"Boolean({condition})"):
            if time.monotonic() > ends:
                raise AssertionError(f"never true: {condition}; the page reads {self.js('document.body.innerText')}")
            time.sleep(0.03)

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def press(self, key: str, times: int = 1, *, shift: bool = False) -> None:
        """Press a key of :data:`KEYS`."""
        code, text = KEYS[key]
        common: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        for _ in range(times):
            down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
            self.call("Input.dispatchKeyEvent", **common, **down)
            self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Insert text where the focus is."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window's inside, CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def shoot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser that was started here."""
        self._process.terminate()
        self._process.wait(30)
        self._loop.close()
        self._folder.cleanup()
