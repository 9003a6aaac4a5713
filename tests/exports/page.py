"""A page of a report, taken apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects tags and links, and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "input", "br", "link", "rect", "line", "path"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID - {"path", "rect", "line"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def self_contained(page: Page) -> None:
    """Check that a page runs nothing and asks nobody for anything."""
    assert not page.of("script")
    assert not page.of("link")
    assert not page.of("iframe")
    for attrs in page.of("img"):
        assert str(attrs["src"]).startswith("data:image/")
    for name, attrs in page.tags:
        for key, value in attrs.items():
            assert not key.startswith("on"), (name, key)
            assert "://" not in str(value), (name, key, value)
    assert "url(" not in page.text
    assert "@import" not in page.text
