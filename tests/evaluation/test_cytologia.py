"""The CytologIA score on cases computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.cytologia import CytologiaScore, cytologia_score, giou, read_boxes

TRUTH = "NAME,x1,y1,x2,y2,class\na.jpg,0,0,10,10,PNN\nb.jpg,0,0,10,10,LY\nb.jpg,20,0,30,10,PNN\n"


def _score(folder: Path, predictions: str, truth: str = TRUTH) -> CytologiaScore:
    (folder / "t.csv").write_text(truth)
    (folder / "p.csv").write_text(predictions)
    return cytologia_score(read_boxes(folder / "t.csv"), read_boxes(folder / "p.csv"))


def test_giou_by_hand() -> None:
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10], [-10, -10, 20, 20], [10, 10, 20, 20]], float)
    # Halves shared: 50 of 150, nothing lost. Apart: union 200 of 300. Around: 100 of 900. At a corner: 200 of 400.
    np.testing.assert_allclose(giou(box, others)[0], [1, 1 / 3, -1 / 3, 1 / 9, -0.5])


def test_perfect(tmp_path: Path) -> None:
    found = _score(tmp_path, TRUTH)
    assert found.score == pytest.approx(1.0)
    assert found.score_interval == pytest.approx((1.0, 1.0))
    assert (found.n_images, found.without_answer, found.ignored) == (2, 0, 0)


def test_shifted_boxes_cost_their_share_alone(tmp_path: Path) -> None:
    found = _score(tmp_path, TRUTH.replace("a.jpg,0,0,10,10", "a.jpg,5,0,15,10"))
    assert found.box_part == pytest.approx((2 + (1 / 3 + 1) / 2) / 3)
    assert found.score == pytest.approx(0.2 * found.box_part + 0.8)


def test_a_missing_box_takes_the_nearest_of_its_image(tmp_path: Path) -> None:
    found = _score(tmp_path, "NAME,x1,y1,x2,y2,class\na.jpg,0,0,10,10,PNN\nb.jpg,0,0,10,10,LY\n")
    # The neutrophil of b is answered by the lymphocyte's box, 10 to its left: GIoU -1/3.
    assert found.box_part == pytest.approx((1 + 1 + 1 / 3) / 3)
    # PNN: 1 hit of 2 true and 1 answered; LY: 1 hit of 1 true and 2 answered.
    assert found.metrics.macro_f1.value == pytest.approx(2 / 3)
    assert found.score == pytest.approx(0.2 * found.box_part + 0.8 * 2 / 3)


def test_an_image_without_answer(tmp_path: Path) -> None:
    found = _score(tmp_path, "NAME,x1,y1,x2,y2,class\nb.jpg,0,0,10,10,LY\nb.jpg,20,0,30,10,PNN\n")
    assert found.without_answer == 1
    assert found.box_part == pytest.approx(2 / 3)
    assert found.metrics.macro_f1.value == pytest.approx((1 + 2 / 3) / 2)


def test_extra_boxes_and_other_images_are_not_punished(tmp_path: Path) -> None:
    extra = "a.jpg,50,50,60,60,BA\nc.jpg,0,0,5,5,EO\n"
    found = _score(tmp_path, TRUTH + extra)
    assert found.score == pytest.approx(1.0)
    assert found.ignored == 1


def test_a_wrong_class_and_one_the_truth_does_not_have(tmp_path: Path) -> None:
    wrong = _score(tmp_path, TRUTH.replace("a.jpg,0,0,10,10,PNN", "a.jpg,0,0,10,10,EO"))
    assert wrong.box_part == pytest.approx(1.0)
    assert wrong.metrics.macro_f1.value == pytest.approx((1 + 2 / 3) / 2)


def test_of_equal_boxes_the_surer_one_answers(tmp_path: Path) -> None:
    rows = "NAME,x1,y1,x2,y2,class,score\na.jpg,0,0,10,10,LY,0.2\na.jpg,0,0,10,10,PNN,0.9\n"
    assert _score(tmp_path, rows, "NAME,x1,y1,x2,y2,class\na.jpg,0,0,10,10,PNN\n").score == pytest.approx(1.0)
    earlier = rows.replace("0.9", "0.2")
    assert _score(tmp_path, earlier, "NAME,x1,y1,x2,y2,class\na.jpg,0,0,10,10,PNN\n").score == pytest.approx(0.2)


def test_boxes_beyond_the_image_count_as_they_are(tmp_path: Path) -> None:
    truth = "NAME,x1,y1,x2,y2,class\na.jpg,-5,0,5,10,PNN\n"
    assert _score(tmp_path, truth, truth).score == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("NAME,x1,y1,x2,class\na,0,0,1,PNN\n", "y2 missing"),
        ("NAME,x1,y1,x2,y2,class\na,0,0,0,9,PNN\n", "line 2.*no area"),
        ("NAME,x1,y1,x2,y2,class\na,0,zero,1,9,PNN\n", "line 2: y1 is 'zero'"),
        ("NAME,x1,y1,x2,y2,class\na,0,0,1,9,\n", "line 2: name and class"),
        ("NAME,x1,y1,x2,y2,class\n", "no rows"),
    ],
)
def test_what_cannot_be_scored_is_refused(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=what):
        _score(tmp_path, text)


def test_the_command_prints_the_table_and_writes_the_figures(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TRUTH)
    where = ["--truth", str(tmp_path / "t.csv"), "--predictions", str(tmp_path / "t.csv"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["evaluate", "cytologia", *where])
    assert result.exit_code == 0, result.output
    assert "score: 1.0000" in result.output
    assert json.loads((tmp_path / "metrics.json").read_text())["score"] == 1.0
