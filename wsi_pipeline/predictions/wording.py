"""What a report may say about counts. Ranges and alerts, never a diagnosis.

Limits of blasts: WHO, 5th edition (Khoury et al., Leukemia 2022;36:1703-1719) and ICC (Arber et al., Blood
2022;140:1200-1228). Below 20 % they name a category only where the other criteria of a myelodysplastic
neoplasm are met, which a count does not show; the sentences say so.
"""

from __future__ import annotations

from wsi_pipeline.config import Specimen
from wsi_pipeline.predictions.prediction import Proportion
from wsi_pipeline.sentences import Sentence, joined, say

AML_LIMIT = 0.20
RAISED_PROMYELOCYTES = 0.10
"""From here promyelocytes are remarked on: ICC 2022 lets APL begin at 10 % blasts or abnormal promyelocytes."""

BLASTS_IN_AML_RANGE = say("blasts in AML range (20 % or more)")
LYMPHOBLASTS_IN_RANGE = say("lymphoblasts in acute-leukaemia range")
APL_ALERT = say("APL alert: abnormal promyelocytes; confirm PML::RARA and coagulation today")
APL_ALERT_FEW = say("cells with bundles of Auer rods: look at each; if seen, confirm PML::RARA and coagulation today")
ONLY_AUER_BUNDLES = say("Other abnormal promyelocytes are no class of this taxonomy, so APL is not excluded.")
LINEAGE_UNKNOWN = say("blasts (lineage not determined by morphology alone)")
COUNTING_ERROR_ONLY = say("The interval covers the error of counting, not errors of the classifier.")
NOT_DYSPLASIA = say("Dysplasia plays no part in this answer.")

# From the highest down: lower limit, sentence. Blood and marrow differ below 10 %.
_BELOW_20: dict[Specimen, tuple[tuple[float, Sentence], ...]] = {
    "marrow_smear": (
        (0.10, say("blasts 10-19 % (MDS-IB2 by WHO 2022, MDS/AML by ICC 2022)")),
        (
            0.05,
            say(
                "blasts 5-9 % in marrow (MDS-IB1 by WHO 2022, MDS-EB by ICC 2022, "
                "where the other criteria of MDS are met)"
            ),
        ),
        (0.0, say("blasts below 5 % in marrow")),
    ),
    "blood_smear": (
        (0.10, say("blasts 10-19 % (MDS-IB2 by WHO 2022, MDS/AML by ICC 2022)")),
        (
            0.05,
            say(
                "blasts 5-9 % in blood (MDS-IB2 by WHO 2022, MDS-EB by ICC 2022, "
                "where the other criteria of MDS are met)"
            ),
        ),
        (
            0.02,
            say(
                "blasts 2-4 % in blood (MDS-IB1 by WHO 2022, MDS-EB by ICC 2022, "
                "where the other criteria of MDS are met)"
            ),
        ),
        (0.0, say("blasts below 2 % in blood")),
    ),
}


def raised_blasts_limit(specimen: Specimen) -> float:
    """Return the fraction from which blasts are raised: 2 % in blood, 5 % in marrow (WHO 2022)."""
    return _BELOW_20[specimen][-2][0]


def describe_blasts(blasts: Proportion, specimen: Specimen) -> Sentence:
    """Return the range the observed fraction lies in, the count, and whether the interval reaches across 20 %."""
    fraction = blasts.fraction
    if fraction >= AML_LIMIT:
        text = BLASTS_IN_AML_RANGE
    else:
        text = next(sentence for limit, sentence in _BELOW_20[specimen] if fraction >= limit)
    parts = [say("{range}. {share!c}.", range=text, share=blasts.said)]
    if blasts.lower < AML_LIMIT <= blasts.upper:
        parts.append(say("The interval spans 20 %: count more cells."))
    if blasts.k and fraction < raised_blasts_limit(specimen):
        parts.append(say("Look at each of them."))
    return joined(parts)


def describe_promyelocytes(promyelocytes: Proportion) -> Sentence:
    """Return the remark on raised promyelocytes of a taxonomy that does not know abnormal ones."""
    return say(
        "Promyelocytes raised, which is not APL by itself (G-CSF, sepsis, regeneration). {share!c}. "
        "This model does not tell abnormal promyelocytes apart: look for faggot cells and heavy granules, "
        "and where APL is suspected confirm PML::RARA and coagulation today.",
        share=promyelocytes.said,
    )
