"""``report``: the reports of a finished run written again, and the pages of patients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from make_run import make_slide
from page import Page, self_contained
from report_run import EVIL, hostile_run

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report.patient import patient_files
from wsi_pipeline.finished_runs.rerender import rerender

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return hostile_run(tmp_path / "run", ("a", "b"))


def _page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_command_writes_every_page_in_the_language_asked_for(run: Path, command: Command) -> None:
    code, out, said = command("report", run, "--language", "fr")
    assert (code, out.strip()) == (0, str(run / "report.html"))
    assert said.splitlines() == ["a: written"]
    for path in (run / "report.html", run / "slides" / "a" / "report.html", *(run / "patients").glob("*.html")):
        assert '<html lang="fr">' in path.read_text(encoding="utf-8")
    assert not (run / "slides" / "b" / "report.html").exists()


def test_the_language_is_that_of_the_run_unless_another_is_asked_for(run: Path) -> None:
    document = json.loads((run / "run.json").read_text())
    document["configurations"]["blood_smear"]["exports"] = {"language": "fr"}
    (run / "run.json").write_text(json.dumps(document))
    rerender(run)
    assert '<html lang="fr">' in (run / "slides" / "a" / "report.html").read_text(encoding="utf-8")
    rerender(run, language="en")
    assert '<html lang="en">' in (run / "slides" / "a" / "report.html").read_text(encoding="utf-8")


def test_a_report_with_pictures_is_kept_when_the_slide_is_gone(run: Path, command: Command) -> None:
    rerender(run)
    report = run / "slides" / "a" / "report.html"
    before = report.read_bytes()
    slide = run.parent / "run-slides" / "a.tiff"
    slide.rename(slide.with_name("elsewhere.tiff"))
    code, _, said = command("report", run, "--language", "fr")
    assert code == 1
    assert "a: not written: its report is left as it is" in said
    assert "--without-pictures" in said
    assert report.read_bytes() == before
    code, _, said = command("report", run, "--language", "fr", "--without-pictures")
    assert code == 0
    page = _page(report)
    self_contained(page)
    assert not page.of("img")
    assert "La lame n’a pas pu être lue, il n’y a donc pas d’images" in page.text
    assert "185 cellules au dénominateur" in page.text


def test_a_moved_slide_is_found_and_another_one_refused(run: Path, command: Command, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    slide = run.parent / "run-slides" / "a.tiff"
    slide.rename(moved / "a.tiff")
    assert command("report", run, "--slides", moved)[0] == 0
    make_slide(moved / "a.tiff", seed=9)
    code, _, said = command("report", run, "--slides", moved)
    assert code == 1
    assert "its fingerprint differs" in said


@pytest.mark.parametrize(("lost", "message"), [("run.json", "not finished"), ("slides.csv", "cannot be read")])
def test_what_is_no_finished_run_is_one_sentence(run: Path, command: Command, lost: str, message: str) -> None:
    (run / lost).unlink()
    code, _, said = command("report", run)
    assert code == 2
    assert said.startswith("error: ")
    assert message in said
    with pytest.raises(DataError):
        rerender(run)


def test_a_patients_page_pools_and_links(run: Path) -> None:
    rerender(run)
    old = run / "patients" / "gone.html"
    old.write_text("of a patient that the run has not any more")
    rerender(run)
    assert not old.exists()
    (path,) = (run / "patients").glob("*.html")
    page = _page(path)
    self_contained(page)
    assert re.fullmatch(r"[A-Za-z0-9._-]+\.html", path.name)
    for words in (
        EVIL, "555 cells in the denominator", "not pooled", "Adult range", "Quality: read with caution.",
        "Cells of all slides count alike", "Slides belong to one patient because the manifest says so.",
    ):  # fmt: skip
        assert words in " ".join(page.words), words
    links = {str(a["href"]) for a in page.of("a") if not str(a["href"]).startswith("#")}
    assert links == {"../report.html", "../slides/a/report.html"}


def test_names_of_patients_are_safe_as_files() -> None:
    names = ["P1", "p1", "../../etc/passwd", "", "...", "Ä ö", "Ä ö ", "x" * 300, "a/b", "a\\b", "CON.html", "P1"]
    files = patient_files(names)
    assert files["P1"] == "P1.html"
    assert list(files) == list(dict.fromkeys(names))
    assert len({name.lower() for name in files.values()}) == len(files)
    for name in files.values():
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.html", name), name
        assert len(name) < 120
