"""Answers from counts alone, by published limits. No training, no diagnosis.

What the columns mean for ``model = criteria``
----------------------------------------------
``probability`` is the fraction of cells that decided the answer (``Prediction.basis`` names it), and ``lower`` and
``upper`` are its Wilson interval, so the three are one quantity. It is *not* the probability of the class: a
posterior of "20 % or more" would take the classifier for perfect and read 1.0000 on any large slide. For ``aml``
the fraction is always that of blasts; for ``smear_diagnosis`` it is blasts, or the group furthest from normal, or
the mature white cells when the class is ``normal``.

The classes are ranges of counts:

``aml``
    ``aml_range`` when the whole interval of blasts lies at 20 % or more, ``below_range`` when the whole interval
    lies below; otherwise abstains (``interval-spans-20-percent``). Promyelocytes of 10 % or more may be blast
    equivalents that the taxonomy cannot tell from normal ones: if blasts and promyelocytes together may reach
    20 %, it abstains too (``promyelocytes-may-be-blast-equivalents``). Where a taxonomy knows myeloid blasts,
    they alone are counted, and blasts of undetermined lineage only keep the answer open
    (``blast-lineage-undetermined``); lymphoblasts never count.
``smear_diagnosis``
    A set, joined by ``|``. It holds ``aml_range`` exactly when ``aml`` does not say ``below_range``, so the two
    cannot contradict each other. Below that range: raised blasts (from 2 % in blood, 5 % in marrow) leave
    ``mds_like|other_abnormal``. On blood a group outside its adult reference range gives ``other_abnormal``;
    ``normal`` stays in the set while only point estimates, not whole intervals, lie outside, and stands alone
    when nothing does. Marrow has no reference ranges here: below 5 % blasts the set is
    ``normal|mds_like|other_abnormal``. A set of all classes says nothing, so the task abstains instead.
``apl``
    ``apl_alert`` from 10 % abnormal promyelocytes (ICC 2022) where the taxonomy knows them, and ``aml`` then does
    not say ``below_range``; otherwise abstains (``no-abnormal-promyelocyte-class``). Where only those with bundles
    of Auer rods have a class, many of them alert, and few or none exclude nothing (``only-auer-bundles``).
``mds``
    Abstains (``no-dysplasia-classes``).

A trephine has one row, ``mpn``, which abstains (``no-real-training-data``); smear tasks are not asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsi_pipeline.config import PredictionsConfig, Specimen
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.differential import Differential
from wsi_pipeline.predictions.prediction import Prediction, PredictionLevel, Proportion
from wsi_pipeline.predictions.ranges import Finding, adult_blood_ranges, blood_findings
from wsi_pipeline.predictions.wording import (
    AML_LIMIT,
    APL_ALERT,
    APL_ALERT_FEW,
    COUNTING_ERROR_ONLY,
    LINEAGE_UNKNOWN,
    LYMPHOBLASTS_IN_RANGE,
    NOT_DYSPLASIA,
    ONLY_AUER_BUNDLES,
    RAISED_PROMYELOCYTES,
    describe_blasts,
    describe_promyelocytes,
    raised_blasts_limit,
)
from wsi_pipeline.sentences import Sentence, joined, say
from wsi_pipeline.taxonomies import Taxonomy

SMEAR_TASKS = ("smear_diagnosis", "aml", "apl", "mds")
AUER_BUNDLES = "auer_bundle_promyelocytes"
"""Roll-up of a taxonomy that knows abnormal promyelocytes by their bundles of Auer rods alone."""
SMEAR_CLASSES = ("normal", "aml_range", "mds_like", "other_abnormal")


def criteria_predictions(
    result: Differential,
    *,
    slide_id: str,
    subject_id: str,
    specimen: Specimen,
    taxonomy: Taxonomy,
    config: PredictionsConfig,
    level: PredictionLevel = "slide",
) -> list[Prediction]:
    """Answer every task of a specimen from its counts.

    Parameters
    ----------
    result
        The differential of the slide, or of a patient's pooled slides.
    slide_id, subject_id
        Carried into the rows; a patient's answer has no slide of its own.
    level
        Whose answer it is.

    Raises
    ------
    ConfigError
        The differential is of another specimen or taxonomy, or a patient's answer has no patient.
    """
    if (result.specimen, result.taxonomy) != (specimen, taxonomy.name):
        raise ConfigError(
            f"the differential is of {result.specimen} in {result.taxonomy}, "
            f"the answer was asked for {specimen} in {taxonomy.name}"
        )
    if level == "patient" and not subject_id:
        raise ConfigError("an answer for a patient needs subject_id")
    answer = _Answers(
        slide_id=slide_id if level == "slide" else "",
        subject_id=subject_id,
        level=level,
        n=result.n,
        target=config.target_cells,
    )
    if specimen == "trephine":
        wording = say("No model for myeloproliferative neoplasms has been trained on real cases.")
        return [answer.abstain("mpn", "no-real-training-data", wording, model="none")]
    if result.n < config.min_cells:
        return [answer.abstain(task, *_too_few(result, config)) for task in SMEAR_TASKS]
    evidence = _Evidence.of(result, taxonomy, config.confidence)
    return [
        _smear_diagnosis(answer, evidence, result, taxonomy),
        _aml(answer, evidence),
        _apl(answer, evidence),
        answer.abstain(
            "mds",
            "no-dysplasia-classes",
            say("MDS is not judged: the classes hold no dysplastic cells, and counts alone do not show dysplasia."),
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What all answers about one slide or patient share."""

    slide_id: str
    subject_id: str
    level: PredictionLevel
    n: int
    target: int

    def abstain(
        self, task: str, reason: str, wording: str, *, notes: tuple[str, ...] = (), model: str = "criteria"
    ) -> Prediction:
        return Prediction(
            slide_id=self.slide_id,
            level=self.level,
            subject_id=self.subject_id,
            task=task,
            class_name="",
            basis=None,
            abstained=True,
            reason=reason,
            n_cells=self.n,
            model=model,
            trained_on=model,
            wording=wording,
            notes=notes,
        )

    def give(
        self, task: str, class_name: str, basis: Proportion, wording: str, *, notes: tuple[str, ...] = ()
    ) -> Prediction:
        return Prediction(
            slide_id=self.slide_id,
            level=self.level,
            subject_id=self.subject_id,
            task=task,
            class_name=class_name,
            basis=basis,
            abstained=False,
            reason="few-cells" if self.n < self.target else "",
            n_cells=self.n,
            model="criteria",
            trained_on="criteria",
            wording=wording,
            notes=(*notes, COUNTING_ERROR_ONLY),
        )


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """The proportions the criteria look at; None where the taxonomy does not know the cells."""

    specimen: Specimen
    blasts: Proportion | None
    with_undetermined: Proportion | None
    lymphoblasts: Proportion | None
    promyelocytes: Proportion | None
    with_promyelocytes: Proportion | None
    abnormal_promyelocytes: Proportion | None
    auer_bundles: Proportion | None
    mature: Proportion

    @classmethod
    def of(cls, result: Differential, taxonomy: Taxonomy, confidence: float) -> _Evidence:
        groups = taxonomy.roll_ups

        def share(name: str, *wanted: str) -> Proportion | None:
            if not all(group in groups for group in wanted):
                return None
            codes = {code for group in wanted for code in groups[group]}
            return Proportion(name=name, k=result.count(codes), n=result.n, confidence=confidence)

        # Blasts of undetermined lineage stand in only where a taxonomy has no myeloid blasts of its own.
        myeloid = "myeloid_blasts" in groups
        group = "myeloid_blasts" if myeloid else "blasts"
        mature = share(say("mature white cells"), "five_part")
        if mature is None:
            raise ConfigError(f"taxonomy {taxonomy.name} has no roll-up five_part, which the criteria need")
        knows_abnormal = "abnormal_promyelocytes" in groups
        promyelocytes = ("promyelocytes", *(g for g in (AUER_BUNDLES,) if g in groups))
        return cls(
            specimen=result.specimen,
            blasts=share(say("myeloid blasts") if myeloid else LINEAGE_UNKNOWN, group),
            with_undetermined=share(say("blasts not known to be lymphoid"), group, "blasts") if myeloid else None,
            lymphoblasts=share(say("lymphoblasts"), "lymphoblasts"),
            promyelocytes=share(say("promyelocytes"), *promyelocytes),
            with_promyelocytes=None
            if knows_abnormal
            else share(say("blasts and promyelocytes"), group, *promyelocytes),
            abnormal_promyelocytes=share(say("abnormal promyelocytes"), "abnormal_promyelocytes"),
            auer_bundles=share(say("abnormal promyelocytes with bundles of Auer rods"), AUER_BUNDLES),
            mature=mature,
        )

    @property
    def raised_promyelocytes(self) -> Proportion | None:
        """Promyelocytes that may be abnormal: raised, in a taxonomy that cannot tell."""
        found = self.promyelocytes
        if self.abnormal_promyelocytes or found is None or found.fraction < RAISED_PROMYELOCYTES:
            return None
        return found

    @property
    def apl_alert(self) -> bool:
        found = self.abnormal_promyelocytes or self.auer_bundles
        return found is not None and found.fraction >= RAISED_PROMYELOCYTES

    @property
    def aml_is_open(self) -> str:
        """Why the AML range can be neither called nor excluded; empty when it can."""
        blasts = self.blasts
        if blasts is None:
            return "no-blast-class"
        if blasts.lower >= AML_LIMIT:
            return ""
        if blasts.upper >= AML_LIMIT:
            return "interval-spans-20-percent"
        if self.with_undetermined and self.with_undetermined.upper >= AML_LIMIT:
            return "blast-lineage-undetermined"
        if self.apl_alert:
            return "apl-alert"
        together = self.with_promyelocytes
        if self.raised_promyelocytes and together and together.upper >= AML_LIMIT:
            return "promyelocytes-may-be-blast-equivalents"
        return ""


def _too_few(result: Differential, config: PredictionsConfig) -> tuple[str, Sentence]:
    unclassified = result.counts.get("white_cell", 0)
    if result.n == 0 and unclassified:
        return "not-classified", say("{n} nucleated cells were found, none was classified.", n=unclassified)
    return (
        "too-few-cells",
        say(
            "{n} cells of the denominator ({denominator}); at least {least} are needed.",
            n=result.n,
            denominator=result.denominator,
            least=config.min_cells,
        ),
    )


def _aml(answer: _Answers, evidence: _Evidence) -> Prediction:
    blasts, reason = evidence.blasts, evidence.aml_is_open
    if blasts is None:
        return answer.abstain("aml", reason, say("Blasts are no class of this taxonomy."))
    wording = describe_blasts(blasts, evidence.specimen)
    notes = _promyelocyte_notes(evidence)
    if reason:
        return answer.abstain("aml", reason, wording, notes=notes)
    class_name = "aml_range" if blasts.lower >= AML_LIMIT else "below_range"
    return answer.give("aml", class_name, blasts, wording, notes=notes)


def _apl(answer: _Answers, evidence: _Evidence) -> Prediction:
    abnormal, bundles = evidence.abnormal_promyelocytes, evidence.auer_bundles
    if abnormal is None and bundles is not None and not evidence.apl_alert:
        wording = (
            ONLY_AUER_BUNDLES
            if bundles.k == 0
            else say("{alert}. {share}. {limit}", alert=APL_ALERT_FEW, share=bundles.said, limit=ONLY_AUER_BUNDLES)
        )
        return answer.abstain("apl", "only-auer-bundles", wording, notes=_promyelocyte_notes(evidence))
    abnormal = abnormal or bundles
    if abnormal is None:
        return answer.abstain(
            "apl",
            "no-abnormal-promyelocyte-class",
            say("APL is not judged: abnormal promyelocytes are no class of this taxonomy."),
            notes=_promyelocyte_notes(evidence),
        )
    if evidence.apl_alert:
        return answer.give("apl", "apl_alert", abnormal, say("{alert}. {share}.", alert=APL_ALERT, share=abnormal.said))
    return answer.give("apl", "no_alert", abnormal, say("No APL alert. {share}.", share=abnormal.said))


def _smear_diagnosis(answer: _Answers, evidence: _Evidence, result: Differential, taxonomy: Taxonomy) -> Prediction:
    task, blasts = "smear_diagnosis", evidence.blasts
    if blasts is None:
        return answer.abstain(task, evidence.aml_is_open, say("Blasts are no class of this taxonomy."))
    sentences = [describe_blasts(blasts, evidence.specimen)]
    notes = [*_promyelocyte_notes(evidence), NOT_DYSPLASIA]
    if blasts.lower >= AML_LIMIT:
        return answer.give(task, "aml_range", blasts, sentences[0], notes=tuple(notes))
    findings = _abnormal_blasts(evidence)
    if evidence.specimen == "blood_smear":
        table = adult_blood_ranges()
        outside = blood_findings(result, taxonomy, blasts.confidence)
        findings += outside
        sentences += [say("{finding!c}.", finding=f.text) for f in outside]
        if not outside:
            sentences.append(
                say("Otherwise the differential lies within the adult ranges.")
                if findings
                else say("The differential lies within the adult ranges.")
            )
        notes.append(
            say(
                "Ranges are those of {population}, in percent, and do not hold for a child; of healthy adults "
                "about one in twenty lies outside each. Source: {source}.",
                population=table.population,
                source=table.source,
            )
        )
    else:
        notes.append(say("Marrow is not compared with reference ranges."))
    extra = (evidence.with_undetermined, evidence.lymphoblasts)
    sentences += [f.text for f in findings if any(f.proportion is share for share in extra)]
    classes = _possible(findings, evidence)
    if classes == set(SMEAR_CLASSES):
        return answer.abstain(task, evidence.aml_is_open, joined(sentences), notes=tuple(notes))
    name = "|".join(c for c in SMEAR_CLASSES if c in classes)
    basis = _basis(findings, evidence, blasts)
    return answer.give(task, name, basis, joined(sentences), notes=tuple(notes))


def _possible(findings: list[Finding], evidence: _Evidence) -> set[str]:
    """Return the classes the counts leave open, below the AML range."""
    deciding = [f for f in findings if f.decides]
    classes = {"other_abnormal"} if deciding else {"normal"}
    if any(f.proportion is evidence.blasts for f in deciding):
        classes.add("mds_like")
    if not any(f.certain for f in deciding):
        classes.add("normal")
        if evidence.specimen != "blood_smear":
            classes |= {"mds_like", "other_abnormal"}
    if evidence.aml_is_open:
        classes.add("aml_range")
    return classes


def _basis(findings: list[Finding], evidence: _Evidence, blasts: Proportion) -> Proportion:
    """Return the proportion that decided."""
    deciding = [f for f in findings if f.decides]
    if evidence.aml_is_open == "promyelocytes-may-be-blast-equivalents" and evidence.with_promyelocytes:
        return evidence.with_promyelocytes
    if evidence.aml_is_open:
        return blasts
    if deciding:
        return next((f for f in deciding if f.certain), deciding[0]).proportion
    return evidence.mature if evidence.specimen == "blood_smear" else blasts


def _abnormal_blasts(evidence: _Evidence) -> list[Finding]:
    """Return the groups of blasts that are raised, where myeloid blasts are not in the AML range for certain."""
    limit = raised_blasts_limit(evidence.specimen)
    findings = []
    for share in (evidence.blasts, evidence.with_undetermined, evidence.lymphoblasts):
        if share is not None and share.fraction >= limit:
            in_range = share is evidence.lymphoblasts and share.fraction >= AML_LIMIT
            text = (
                say("{range}: {share}.", range=LYMPHOBLASTS_IN_RANGE, share=share.said)
                if in_range
                else say("{share}.", share=share.said)
            )
            findings.append(Finding(proportion=share, text=text, certain=share.lower >= limit, decides=True))
    return findings


def _promyelocyte_notes(evidence: _Evidence) -> tuple[str, ...]:
    raised = evidence.raised_promyelocytes
    return (describe_promyelocytes(raised),) if raised else ()
