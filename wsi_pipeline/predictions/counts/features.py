"""What the model sees of a patient's values: the values, and six quantities made of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CLASSES = ("ALL", "AML", "APL")

ANALYTES = (
    "age",
    "WBC_G_L",
    "MCV_fL",
    "MCHC_g_L",
    "ANC_percent",
    "ANC_G_L",
    "Lymphocytes_percent",
    "Lymphocytes_G_L",
    "Monocytes_percent",
    "Monocytes_G_L",
    "Platelets_G_L",
    "PT_percent",
    "Fibrinogen_g_L",
    "LDH_UI_L",
)
"""Order of the columns everywhere in this package."""

_SYMMETRIC = ("age", "MCV_fL", "MCHC_g_L", "PT_percent")

_MADE_OF: tuple[tuple[str, ...], ...] = (
    ("ANC_percent", "Lymphocytes_percent", "Monocytes_percent"),
    ("WBC_G_L", "ANC_percent", "Lymphocytes_percent", "Monocytes_percent"),
    ("LDH_UI_L", "WBC_G_L"),
    ("Fibrinogen_g_L", "PT_percent"),
    ("Monocytes_percent", "Lymphocytes_percent"),
    ("Fibrinogen_g_L", "LDH_UI_L"),
)


def engineered(values: FloatArray) -> FloatArray:
    """Return values with six further columns, ``(n, 14)`` to ``(n, 20)``; NaN where a part is missing.

    They are: cells that are neither neutrophils, lymphocytes nor monocytes (mostly blasts), in percent and in G/L;
    log10 LDH less log10 WBC; fibrinogen times PT (both are low in the coagulopathy of APL); monocytes among
    mononuclear cells; fibrinogen over log10 LDH.
    """
    of = {name: values[:, i] for i, name in enumerate(ANALYTES)}
    other = 100 - of["ANC_percent"] - of["Lymphocytes_percent"] - of["Monocytes_percent"]
    ldh = np.log10(np.maximum(of["LDH_UI_L"], 1.0))
    return np.column_stack(
        [
            values,
            other,
            other * of["WBC_G_L"] / 100,
            ldh - np.log10(np.maximum(of["WBC_G_L"], 0.01)),
            of["Fibrinogen_g_L"] * of["PT_percent"],
            of["Monocytes_percent"] / (of["Monocytes_percent"] + of["Lymphocytes_percent"] + 1),
            of["Fibrinogen_g_L"] / np.maximum(ldh, 1.0),
        ]
    )


def shares_of_analytes() -> FloatArray:
    """Return ``(20, 14)``: which share of a column's effect belongs to each value, in equal parts."""
    shares = np.zeros((len(ANALYTES) + len(_MADE_OF), len(ANALYTES)))
    shares[: len(ANALYTES)] = np.eye(len(ANALYTES))
    for row, parts in enumerate(_MADE_OF, start=len(ANALYTES)):
        for part in parts:
            shares[row, ANALYTES.index(part)] = 1 / len(parts)
    return shares


def symmetrised(values: FloatArray) -> FloatArray:
    """Return values on scales on which patients are spread evenly: logarithms of counts, of fibrinogen and of LDH."""
    result = values.copy()
    for i, name in enumerate(ANALYTES):
        if name not in _SYMMETRIC:
            result[:, i] = np.log(np.maximum(values[:, i], 0.0) + 0.1)
    return result


def from_symmetrised(scaled: FloatArray) -> FloatArray:
    """Return values from their even scales; counts are at least 0."""
    result = scaled.copy()
    for i, name in enumerate(ANALYTES):
        if name not in _SYMMETRIC:
            result[:, i] = np.maximum(np.exp(scaled[:, i]) - 0.1, 0.0)
    return result
