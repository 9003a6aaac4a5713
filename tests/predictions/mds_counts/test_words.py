"""The tree for people: words in two languages, and the picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.predictions.mds_counts.trees import document
from wsi_pipeline.predictions.mds_counts import MdsTree, tree_svg, tree_text
from wsi_pipeline.predictions.mds_counts.tree import Language

TREE = MdsTree.model_validate(document())
SVG = "{http://www.w3.org/2000/svg}"


def test_english_text_is_the_tree() -> None:
    assert tree_text(TREE, "en").splitlines()[4:] == [
        "Ne-WX <= 320.5  (this way when missing)",
        "  MCV <= 98.5 fL  (this way when missing)  ->  other  [MDS 1 of 54: 1.9 % (0.3 - 9.8 %)]",
        "  MCV > 98.5 fL  ->  other  [MDS 3 of 10: 30 % (10.8 - 60.3 %)]",
        "Ne-WX > 320.5",
        "  IPF <= 6 %  (this way when missing)  ->  MDS  [MDS 4 of 11: 36.4 % (15.2 - 64.6 %)]",
        "  IPF > 6 %  ->  MDS  [MDS 24 of 25: 96 % (80.5 - 99.3 %)]",
    ]


def test_french_text_has_commas() -> None:
    text = tree_text(TREE, "fr")
    assert "Ne-WX <= 320,5  (par ici si absent)" in text
    assert "MDS 24 sur 25: 96 % (80,5 - 99,3 %)" in text
    assert "320.5" not in text


def test_sex_is_asked_in_words() -> None:
    nodes = document()["nodes"]
    nodes[1]["split"] |= {"analyte": "sex", "threshold": 0.5}
    tree = MdsTree.model_validate(document(nodes=nodes))
    assert "Sex: female" in tree_text(tree, "en")
    assert "Sex: homme" in tree_text(tree, "fr")


@pytest.mark.parametrize("language", ["en", "fr"])
def test_simulated_is_said_in_text_and_picture(language: Language) -> None:
    tree = MdsTree.model_validate(document(simulated=True))
    for made in (tree_text, tree_svg):
        assert "SIMUL" in made(tree, language)
        assert "SIMUL" not in made(TREE, language)


@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_picture_shows_each_node_inside_it(language: Language) -> None:
    root = ET.fromstring(tree_svg(TREE, language))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [r for r in root.iter(f"{SVG}rect") if "rx" in r.attrib]
    assert len(boxes) == len(TREE.nodes)
    places = []
    for box in boxes:
        x, y, w, h = (float(box.attrib[k]) for k in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + w <= width
        assert y + h <= height
        places.append((x, y))
    for i, (x, y) in enumerate(places):
        for u, v in places[i + 1 :]:
            assert abs(x - u) >= 190 or abs(y - v) >= 62
    lines = list(root.iter(f"{SVG}line"))
    assert len(lines) == 6
    assert sum("stroke-dasharray" in line.attrib for line in lines) == 3
    assert tree_text(TREE, language) in (root.find(f"{SVG}desc").text or "")  # type: ignore[union-attr]


def test_labels_cannot_act_as_markup() -> None:
    tree = MdsTree.model_validate(document(positive='<script>alert("x")</script>\x07', trained_on="a & b <i>"))
    svg = tree_svg(tree, "en")
    root = ET.fromstring(svg)
    assert "<script" not in svg
    assert not [e for e in root.iter() if e.tag.endswith("script")]
