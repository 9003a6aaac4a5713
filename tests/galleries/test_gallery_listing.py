"""Which patients and images a gallery holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from drawn_gallery import save

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.galleries import GalleryImage, list_gallery


def test_patients_with_and_without_class_folders(tmp_path: Path) -> None:
    save(tmp_path / "P2" / "Monocyte" / "a.png")
    save(tmp_path / "P2" / "Blast" / "b.PNG")
    save(tmp_path / "P1" / "c.tif")
    (tmp_path / "P2" / "empty class").mkdir()
    (tmp_path / "P1" / "notes.txt").write_text("x")
    (tmp_path / "P1" / "._c.tif").write_text("what macOS leaves")
    found = list_gallery(tmp_path)
    assert [p.slide_id for p in found.patients] == ["P1", "P2"]
    assert found.patients[0].images == (GalleryImage(name="c.tif"),)
    assert found.patients[0].n_other == 1
    assert found.patients[1].images == (
        GalleryImage(name="Blast/b.PNG", label="Blast"),
        GalleryImage(name="Monocyte/a.png", label="Monocyte"),
    )
    assert found.labels == ("Blast", "Monocyte")


def test_ids_are_safe_names_and_no_patient_overwrites_another(tmp_path: Path) -> None:
    for name in ("A B", "A_B", "a_b", ".hidden", "é/..".replace("/", "-")):
        save(tmp_path / name / "x.png")
    found = list_gallery(tmp_path)
    assert [(p.folder.name, p.slide_id) for p in found.patients] == [
        ("A B", "A_B"),
        ("A_B", "A_B_2"),
        ("a_b", "a_b_3"),
        ("é-..", "é-"),
    ]


def test_problems_stay_with_their_patient(tmp_path: Path) -> None:
    save(tmp_path / "good" / "x.png")
    (tmp_path / "empty" / "Monocyte").mkdir(parents=True)
    save(tmp_path / "mixed" / "x.png")
    save(tmp_path / "mixed" / "Monocyte" / "y.png")
    save(tmp_path / "deep" / "visit1" / "Monocyte" / "y.png")
    found = {p.slide_id: p for p in list_gallery(tmp_path).patients}
    assert {name: p.reason for name, p in found.items()} == {
        "good": "",
        "empty": "no-images",
        "mixed": "bad-folder",
        "deep": "bad-folder",
    }
    assert "visit1/Monocyte" in found["deep"].problem
    assert "Monocyte" in found["mixed"].problem
    assert "x.png" in found["mixed"].problem


def test_links_are_followed_and_broken_ones_are_listed(tmp_path: Path) -> None:
    kept = save(tmp_path / "store" / "x.png")
    patient = tmp_path / "gallery" / "P1"
    patient.mkdir(parents=True)
    (patient / "link.png").symlink_to(kept)
    (patient / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "gallery" / "P2").symlink_to(tmp_path / "store")
    found = list_gallery(tmp_path / "gallery")
    assert [i.name for i in found.patients[0].images] == ["broken.png", "link.png"]
    assert [i.name for i in found.patients[1].images] == ["x.png"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ((), "holds no patient folders"),
        (("x.png",), "holds images itself \\(x.png\\)"),
        (("P1/notes.txt",), "holds no image that can be used"),
    ],
)
def test_a_folder_that_is_no_gallery(tmp_path: Path, made: tuple[str, ...], said: str) -> None:
    for name in made:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    with pytest.raises(ConfigError, match=said):
        list_gallery(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        list_gallery(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    save(tmp_path / "P1" / "x.png")
    (tmp_path / "P1").chmod(0)
    try:
        with pytest.raises(ConfigError, match="cannot be read"):
            list_gallery(tmp_path)
    finally:
        (tmp_path / "P1").chmod(0o755)
