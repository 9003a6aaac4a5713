"""Pages: every link leads somewhere, every page is in the index, tables that are written from files are current."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "notebooks/*.md", "slurm/*.md", "benchmarks/*.md", "wsi_pipeline/weights/*.md")
    for path in _ROOT.glob(pattern)
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def _links(path: Path) -> Iterator[str]:
    for target in _LINK.findall(_without_code(path.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _links(page):
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{target} does not exist"
        assert found.is_relative_to(_ROOT), f"{target} leads out of the repository"
        assert not anchor or anchor in _anchors(found), f"{target}: no such heading"


def test_links_of_notebooks_lead_somewhere() -> None:
    for notebook in (_ROOT / "notebooks").glob("*.ipynb"):
        for target in re.findall(r"\]\((\.\./[^)\\]+)\)", notebook.read_text(encoding="utf-8")):
            assert (notebook.parent / target).exists(), f"{notebook.name}: {target}"


def test_the_index_has_every_page() -> None:
    index = (_ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in (_ROOT / "docs").glob("*.md") if f"]({page.name})" not in index]
    assert missing == ["README.md"]


def test_the_readme_is_short_and_says_what_it_is_not() -> None:
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    assert "Not a medical device" in text
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (_ROOT / picture).stat().st_size < 200 * 1024


def test_every_shipped_card_is_in_the_list_of_models() -> None:
    models = (_ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for card in (_ROOT / "wsi_pipeline" / "weights").glob("*.md"):
        assert f"weights/{card.name})" in models, f"{card.name} is not in docs/models.md"


@pytest.mark.parametrize("name", ["accuracy", "speed"])
def test_tables_are_current(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(_ROOT / "benchmarks"), *sys.path])
    import write_tables

    page = {"accuracy": write_tables.accuracy_page, "speed": write_tables.speed_page}[name]()
    assert (_ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == page, "run: python benchmarks/write_tables.py"


def test_the_architecture_names_every_part_of_the_package() -> None:
    page = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = _ROOT / "wsi_pipeline"
    parts = [p for p in package.iterdir() if p.suffix == ".py" and p.name != "__init__.py"]
    parts += [p for p in package.iterdir() if (p / "__init__.py").is_file()]
    missing = [p.name for p in parts if f"`{p.name}`" not in page and f"`{p.name}/" not in page]
    assert not missing
