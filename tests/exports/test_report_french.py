"""Reports in French: every text has French, sentences keep their numbers, pages hold no English of ours."""

from __future__ import annotations

import html
import json
import re
import string
from pathlib import Path

import numpy as np
import pytest
from fake_slide import FakeMpp, FakeSlide, summary, write_summary
from make_cells import make_cells
from messages import bare_text, every_message, of_sentences, of_templates, templates
from report_run import COUNTS, EVIL, TAXONOMY, counted
from section_pages import reticulin_page, trephine_page

from wsi_pipeline.exports.report import write_slide_report
from wsi_pipeline.exports.report.summary import Answer
from wsi_pipeline.exports.report.words import Words, read_french
from wsi_pipeline.predictions import Proportion
from wsi_pipeline.predictions.wording import describe_blasts
from wsi_pipeline.regions.assemble import note_of
from wsi_pipeline.sentences import Sentence, joined, made_of, said_again, say

FRENCH = read_french()


def names(text: str) -> set[str]:
    """Return what is filled in, with its format."""
    braces = {f"{name}:{form}" for _, name, form, _ in string.Formatter().parse(text) if name}
    return braces | set(re.findall(r"%\((\w+)\)s", text))


def test_every_text_has_french() -> None:
    found = every_message()
    assert len(found) > 500
    assert sorted(found - set(FRENCH)) == []


def test_french_of_nothing_is_kept() -> None:
    assert sorted(set(FRENCH) - every_message()) == []


def test_french_fills_in_the_same() -> None:
    for english in of_templates():
        if english in FRENCH:
            assert names(english.replace("{", "").replace("}", "")) == names(FRENCH[english]), english
            assert english.replace("%%", "").count("%") == FRENCH[english].replace("%%", "").count("%"), english
    for english in of_sentences():
        if english in FRENCH:
            assert names(english) == names(FRENCH[english]), english


def test_templates_say_nothing_outside_of_what_is_translated() -> None:
    assert bare_text("<p title='Not this'>Only {% trans %}this not{% endtrans %} this</p>") == ["Only", "this"]
    assert {name: words for name, source in templates().items() if (words := bare_text(source))} == {}


def test_values_are_never_taken_for_texts_of_ours() -> None:
    """What ``gettext`` returns is not escaped, so it may only be given literals."""
    for name, source in templates().items():
        for call in re.findall(r"\b(?:gettext|ngettext|_)\(\s*(.)", source):
            assert call == '"', name


def test_a_sentence_keeps_its_parts_and_says_them_in_french() -> None:
    blasts = Proportion(name=say("myeloid blasts"), k=30, n=185, confidence=0.95)
    english = describe_blasts(blasts, "blood_smear")
    assert english.startswith(
        "blasts 10-19 % (MDS-IB2 by WHO 2022, MDS/AML by ICC 2022). Myeloid blasts: 30 of 185, 16.2 %"
    )
    stored = json.loads(json.dumps(made_of({"wording": english})))
    french = Words("fr", stored).sentence(str(english))
    assert french.replace("\u202f", " ").replace("\xa0", " ") == (
        "blastes 10-19 % (SMD-IB2 selon l’OMS 2022, SMD/LAM selon l’ICC 2022). Blastes myéloïdes : 30 sur 185, 16,2 % "
        "(intervalle à 95 % : 11,6-22,2 %). L’intervalle chevauche 20 % : compter plus de cellules."
    )
    assert Words("en", stored).sentence(str(english)) == english


def test_notes_on_regions_are_said_in_french_after_a_ledger_kept_them() -> None:
    empty = say("nothing readable is left of {area:.3g} mm2 of film: mostly {reason}", area=1.25, reason="too-dark")
    note = note_of([say("no monolayer of red cells found"), empty])
    assert isinstance(note, Sentence)
    kept = said_again(json.loads(json.dumps(note.to_dict())))
    assert kept == note
    assert Words("fr", made_of({"provenance": {"regions note": kept}})).number(str(kept)).replace("\xa0", " ") == (
        "aucune monocouche d’hématies trouvée; il ne reste rien de lisible de 1,25 mm² de frottis ; cause principale : "
        "trop sombre : sous-exposé"
    )


@pytest.mark.parametrize("damaged", [{}, {"text": "{gone}", "values": {}}, {"text": "{n:.1f}", "values": {"n": "x"}}])
def test_damaged_parts_leave_the_english_sentence(damaged: dict[str, object]) -> None:
    assert Words("fr", {"As it was.": damaged}).sentence("As it was.") == "As it was."


def test_values_are_not_templates() -> None:
    sentence = joined([say("{n} cells", n=3), "{n} {0.__class__} %(n)s"])
    assert sentence == "3 cells {n} {0.__class__} %(n)s"
    assert Words("fr", made_of([sentence])).sentence(str(sentence)).endswith("{n} {0.__class__} %(n)s")


def test_numbers_are_written_as_french_writes_them() -> None:
    words = Words("fr")
    assert words.percent(12.34) == "12,3"
    assert words.interval(1.25, None) == "1,2 – ∞"
    assert words.number(0.25) == "0,25"
    assert words.number("1.2.3") == "1.2.3"
    assert words.number(True) == "oui"
    assert words.sentence(
        say("per 100x oil field of {area:,.0f} um2 (field number {number:g})", area=38013.3, number=22.5)
    ) == ("par champ à l’immersion 100x de 38\u202f013 µm² (indice de champ 22,5)")
    assert words.ngettext("%(n)s slide", "%(n)s slides", 0) == "%(n)s lame"
    assert words.reason("contradicts-aml") == "contredit la réponse à\xa0: Leucémie aiguë myéloïde"
    answer = Answer.model_validate({"task": "smear_diagnosis", "class": "normal|mds_like", "model": "criteria"})
    assert words.answer_class(answer) == "Dans les normes ou Évocateur de SMD"
    assert words.class_name("blast") == "Blaste (lignée non déterminée par la seule morphologie)"


def test_a_french_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    slide = FakeSlide(pixels=rng.integers(0, 255, (900, 1200, 3), dtype=np.uint8), mpp=FakeMpp(x=0.25, y=0.25))
    make_cells(tmp_path / "cells.parquet", 200, size_px0=(1200, 900))
    write_summary(tmp_path, {**summary(COUNTS), **counted(COUNTS, "slide-1", "P1"), "taxonomy": "pbc-blast"})
    write_slide_report(tmp_path, slide=slide, taxonomy=TAXONOMY, specimen="blood_smear", language="fr")  # type: ignore[arg-type]
    page = re.sub(r"[\u202f\xa0]", " ", (tmp_path / "report.html").read_text(encoding="utf-8"))
    for words in (
        '<html lang="fr">', "Réservé à la recherche.", "Frottis de sang périphérique",
        "Qualité : à lire avec prudence.",
        "185 cellules au dénominateur", "Formule", "intervalle à 95 %", "Normes de l’adulte",
        "Polynucléaire neutrophile segmenté", "16,2", "Les cellules les plus sûres", "hors dénominateur",
        "30 % des cellules sont coupées par un bord (limite 10 %)",
    ):  # fmt: skip
        assert words in page, words
    for english in ("Answers", "Differential count", "Quality", "cells", "interval)", "No answer"):
        assert not re.search(rf">[^<]*\b{re.escape(english)}", page.split("</style>")[1]), english


def shown(path: Path) -> str:
    """Return what a reader of a page sees or hears: text, names of pictures, titles; nothing hostile."""
    page = re.sub(r"[\u202f\xa0]", " ", path.read_text(encoding="utf-8")).split("</style>")[1]
    named = re.findall(r'(?:alt|title|aria-label)="([^"]*)"', page)
    return " ".join([re.sub(r"<[^>]*>", "|", page), *named]).replace(html.escape(EVIL), "").replace(EVIL, "")


ENGLISH = re.compile(
    r"(?i)\b(the|of|and|marrow|tiles?|cells?|bone|random|nucleus|fat|mean|learnt|share|cut|with|samples?)\b"
)


def test_a_french_page_of_a_trephine(tmp_path: Path) -> None:
    page = shown(trephine_page(tmp_path, "fr"))
    for words in (
        "Moelle et mégacaryocytes", "Phénotypes", "Indice de Clark et Evans", "à cytoplasme", "Au contact de l’os",
        "points au hasard, étendue de 39 répartitions", "ce prélèvement", "Composante 1 (", "Graisse",
        "Ce modèle ne distingue pas les mégacaryocytes", "carte de la graisse, de l’os et des mégacaryocytes",
        "Moelle, bords et décodage sont dans leurs limites.", "Modèle de mégacaryocytes",
    ):  # fmt: skip
        assert words in page, words
    assert sorted(set(ENGLISH.findall(page))) == []


def test_a_french_page_of_a_trephine_with_too_few_megakaryocytes(tmp_path: Path) -> None:
    page = shown(trephine_page(tmp_path, "fr", mix=(6, 2, 0)))
    assert "Ni phénotypes ni répartition : trop peu de mégacaryocytes." in page
    assert "8 mégacaryocytes sur 2,4 mm² de moelle ; il en faut au moins 20 pour les phénotypes" in page
    assert "Qualité : à lire avec prudence. 8 mégacaryocytes ; il en faut au moins 20" in re.sub(r"[|\s]+", " ", page)
    assert sorted(set(ENGLISH.findall(page))) == []


def test_a_french_page_of_reticulin(tmp_path: Path) -> None:
    page = shown(reticulin_page(tmp_path / "asked", "fr"))
    for words in (
        "Fibrose (réticuline)", "Indice de fibrose (0 à 1)", "Part de pixels sombres", "les plus fibreuses", "0,25",
        "36 tuiles selon : score de fibrose d’une tuile.", "Moelle et décodage sont dans leurs limites.",
        "Il classe les fibres ; ce n’est pas un grade.", "L’épaisseur de la coupe", "Tuiles de la région",
    ):  # fmt: skip
        assert words in page, words
    assert sorted(set(ENGLISH.findall(page))) == []
    without = shown(reticulin_page(tmp_path / "not", "fr", asked=False, least=99))
    for words in (
        "Aucun modèle ne classe les fibres",
        "trop peu de moelle",
        "36 tuiles de moelle ; il en faut au moins 99",
    ):
        assert words in without, words
    assert sorted(set(ENGLISH.findall(without))) == []
