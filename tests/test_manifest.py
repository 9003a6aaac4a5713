"""Which slides a run is of: ids that nothing can overwrite, manifests that say what is wrong where."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.manifest import SlideEntry, list_slides, read_manifest, safe_name


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ids(sources: Sequence[str | Path]) -> list[str]:
    return [entry.slide_id for entry in list_slides(sources)]


# Names -------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_a_safe_name_is_one_visible_folder(text: str) -> None:
    name = safe_name(text)
    assert name
    assert len(name) <= 120
    assert name not in (".", "..")
    assert not name.startswith(".")
    assert not set(name) & set('/\\:*?"<>|\0\n\r\t ')
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("slide 1", "slide_1"),
        ("../../etc/passwd", "etc_passwd"),
        ("..", "slide"),
        ("", "slide"),
        ("Jürgen", "Jürgen"),
        ("a<script>b", "a_script_b"),
        (".hidden", "hidden"),
        ("ﬁle", "file"),
    ],
)
def test_safe_names(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_ids_are_stems(tmp_path: Path) -> None:
    assert ids([tmp_path / "one.svs", tmp_path / "two.ome.tiff"]) == ["one", "two.ome"]


def test_equal_stems_get_their_parents_name(tmp_path: Path) -> None:
    sources = [tmp_path / "monday" / "a.svs", tmp_path / "tuesday" / "a.svs", tmp_path / "tuesday" / "b.svs"]
    assert ids(sources) == ["monday_a", "tuesday_a", "b"]


def test_equal_stems_with_equal_parents_get_a_number(tmp_path: Path) -> None:
    sources = [tmp_path / x / "day" / "a.svs" for x in ("1", "2", "3")]
    assert ids(sources) == ["day_a", "day_a_2", "day_a_3"]
    assert ids([tmp_path / "day" / "a.svs", tmp_path / "day" / "a.ndpi"]) == ["day_a", "day_a_2"]


def test_names_that_differ_only_in_case_are_equal(tmp_path: Path) -> None:
    found = ids([tmp_path / "x" / "Slide.svs", tmp_path / "y" / "slide.svs"])
    assert found == ["x_Slide", "y_slide"]


def test_one_file_named_twice_is_one_slide(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs")
    assert ids([tmp_path / "a.svs", tmp_path, tmp_path / "a.svs"]) == ["a"]


names = st.text(st.sampled_from("aAbß._- /ı"), min_size=1, max_size=4)


@given(st.lists(st.tuples(names, names), max_size=8))
def test_ids_never_collide(parts: list[tuple[str, str]]) -> None:
    paths = [
        Path("/slides") / folder.replace("/", "") / f"{stem.replace('/', '') or 'x'}.svs" for folder, stem in parts
    ]
    entries = list_slides(paths)
    assert len({e.slide_id.casefold() for e in entries}) == len(entries) == len({p.absolute() for p in paths})
    assert all(e.slide_id == safe_name(e.slide_id) for e in entries)


# Folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_its_slides_in_order(tmp_path: Path) -> None:
    touch(*(tmp_path / n for n in ("b.svs", "a.TIFF", "notes.txt", ".hidden.svs", "c.ndpi")))
    (tmp_path / "deeper").mkdir()
    assert ids([tmp_path]) == ["a", "b", "c"]


def test_a_folder_without_slides_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match="no slide in this folder"):
        list_slides([tmp_path])


def test_a_zarr_folder_is_a_slide(tmp_path: Path) -> None:
    (tmp_path / "image.ome.zarr").mkdir()
    assert [e.path.name for e in list_slides([tmp_path / "image.ome.zarr"])] == ["image.ome.zarr"]


# Manifests ---------------------------------------------------------------------------------------------------------


def test_every_column(tmp_path: Path) -> None:
    touch(tmp_path / "drawn.geojson")
    path = write(
        tmp_path,
        "slide,slide_id,mpp,specimen,patient,label,regions",
        "sub/a.svs,first,0.25,marrow_smear,p1,AML,drawn.geojson",
        "/elsewhere/b.svs,,,,,,",
    )
    assert list_slides([path]) == [
        SlideEntry(
            path=tmp_path / "sub" / "a.svs",
            slide_id="first",
            mpp=0.25,
            specimen="marrow_smear",
            patient="p1",
            label="AML",
            regions=tmp_path / "drawn.geojson",
        ),
        SlideEntry(path=Path("/elsewhere/b.svs"), slide_id="b"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "slide;mpp;patient\na.svs;0.5;p\n",
        "\ufeffslide,mpp,patient\r\na.svs,0.5,p\r\n",
        " slide , mpp,patient\n a.svs , 0.5 , p \n\n",
        'slide,mpp,patient\n"a.svs","0.5","p"\n',
        "slide;mpp;patient\n\na.svs;0.5;p\n;;\n",
    ],
    ids=["semicolons", "from Excel", "spaces", "quotes", "empty lines"],
)
def test_csv_as_people_write_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(text.encode())
    assert read_manifest(path) == [SlideEntry(path=tmp_path / "a.svs", mpp=0.5, patient="p")]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["slide,mpp", "a.svs,0.25", "b.svs,fine"], ["line 3", "fine"]),
        (["slide,mpp", "a.svs,0.25", "", "", "b.svs,fine"], ["line 5", "fine"]),
        (["slide;mpp", "a.svs;0,25"], ["line 2", "0,25"]),
        (["slide,mpp", "a.svs,-1"], ["line 2", "-1"]),
        (["slide,mpp", "a.svs,nan"], ["line 2", "nan"]),
        (["slide,mpp", "a.svs,inf"], ["line 2", "inf"]),
        (["slide,mpp", ",0.25"], ["line 2", "no slide"]),
        (["slide,specimen", "a.svs,blood"], ["line 2", "blood", "marrow_smear"]),
        (["slide,regions", "a.svs,missing.geojson"], ["line 2", "missing.geojson"]),
        (["slide", "smith, john.svs"], ["line 2", "1 columns", "quotes"]),
        (["slide,patient", "a.svs,p1", "smith, john.svs,p2"], ["line 3", "2 columns", "quotes"]),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, lines: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_manifest(write(tmp_path, *lines))
    for word in ("manifest.csv", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [[""], ["a.svs"], ["file,mpp", "a.svs,1"], ["slide,diagnosis", "a.svs,AML"], ["slide"], ["slide,slide", "a,b"]],
)
def test_a_manifest_that_cannot_be_used(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"manifest\.csv"):
        read_manifest(write(tmp_path, *lines))


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(b"\xff\xfe\x00s\x00l")
    with pytest.raises(ConfigError, match=r"manifest\.csv"):
        read_manifest(path)
    with pytest.raises(ConfigError, match=r"nowhere\.csv"):
        list_slides([tmp_path / "nowhere.csv"])


def test_a_field_beyond_all_bounds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"manifest\.csv"):
        read_manifest(write(tmp_path, "slide", "x" * 200_000))


def test_ids_given_twice_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "slide,slide_id", "a.svs,one", "b.svs,ONE")
    with pytest.raises(ConfigError, match="one"):
        list_slides([path])


def test_a_given_id_wins_over_a_stem(tmp_path: Path) -> None:
    path = write(tmp_path, "slide,slide_id", "b.svs,a", "a.svs,")
    assert ids([path]) == ["a", f"{safe_name(tmp_path.name)}_a"]


def test_a_given_id_is_made_safe(tmp_path: Path) -> None:
    assert ids([write(tmp_path, "slide,slide_id", "a.svs,../../x")]) == ["x"]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(("slide,mpp\n" + text).encode("utf-8", "surrogatepass"))
    found, said = [], ""
    try:
        found = read_manifest(path)
    except ConfigError as error:
        said = str(error)
    assert found or "any.csv" in said


@pytest.mark.parametrize(("text", "simulated"), [("true", True), ("TRUE", True), ("false", False), ("", False)])
def test_a_manifest_says_what_is_simulated(tmp_path: Path, text: str, simulated: bool) -> None:
    (entry,) = read_manifest(write(tmp_path, "slide,simulated", f"a.svs,{text}"))
    assert entry.simulated is simulated


def test_simulated_is_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2: simulated is 'yes'; it must be true, false or empty"):
        read_manifest(write(tmp_path, "slide,simulated", "a.svs,yes"))


def test_a_name_may_hold_whatever_a_file_system_takes(tmp_path: Path) -> None:
    names = ["new\nline.tiff", 'it\'s "a"; b.tiff', "ca\r\nrriage.tiff", "..\\x.tiff"]
    with (tmp_path / "m.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["slide"], *([name] for name in names)])
    found = read_manifest(tmp_path / "m.csv")
    assert [entry.path.name for entry in found] == names


def test_a_manifest_names_batches(tmp_path: Path) -> None:
    first, second = read_manifest(write(tmp_path, "slide,batch", "a.svs,monday; stain 3", "b.svs,"))
    assert (first.batch, second.batch) == ("monday; stain 3", "")


def test_a_slide_listed_twice_with_different_columns_is_refused(tmp_path: Path) -> None:
    """One row a slide: of two that differ one would be lost without a word."""
    manifest = write(tmp_path, "slide,slide_id,mpp", "a.svs,one,0.25", "a.svs,two,0.5")
    with pytest.raises(ConfigError, match=r"a.svs is listed twice"):
        list_slides([manifest])
    again = write(tmp_path, "slide,slide_id", "a.svs,one", "a.svs,one")
    assert [entry.slide_id for entry in list_slides([again])] == ["one"]
    # What a manifest tells of a file that is named beside it, too.
    assert [e.slide_id for e in list_slides([again, tmp_path / "a.svs"])] == ["one"]
