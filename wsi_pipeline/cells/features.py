"""The registry of morphological features: name, unit, formula and source of each, in the order of their columns."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

GRANULE_UM = (0.15, 0.3)
"""Sigmas of the difference of Gaussians for granules of the cytoplasm, um: spots of about 0.6 um answer most."""
CHROMATIN_UM = (0.25, 0.5)
"""Sigmas for clumps of chromatin: spots of about 1 um."""
EDGE_UM = 0.4
"""Width of the edge of nucleus and cytoplasm that granules and chromatin leave out: blur mixes the two there."""
PAIR_UM = 0.5
"""Distance of the pixels that co-occurrence compares."""
DEFECT_UM = 0.5
"""Depth from which a concavity of the outline counts, at least one pixel."""
CONCAVITY_UM = 1.0
"""Depth from which a concavity of the nucleus counts, at least one and a half pixels."""
LOBE_UM = 0.4
"""How far the middle of a lobe must rise above the bridge to a larger one, at least 0.75 pixels."""

HARALICK = "Haralick et al., IEEE Trans. Syst. Man Cybern. 3:610, 1973"
_HU = "second moments, a pixel being a unit square (Hu, IRE Trans. Inf. Theory 8:179, 1962)"
_DIGITAL = "pixel centres in the convex hull of all pixel centres"
_STAINS = "Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23:291, 2001; vectors of ImageJ's Giemsa (Landini)"
_DOG = "Marr and Hildreth, Proc. R. Soc. Lond. B 207:187, 1980; normalised as Knutsson and Westin, CVPR 1993"
_CROFTON = "Cauchy-Crofton in four directions: Legland et al., Image Anal. Stereol. 26:83, 2007"
_OD = "law of Beer and Lambert"


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of the morphology of a cell.

    Attributes
    ----------
    name
        Of the column.
    unit
        ``um``, ``um2``, ``OD`` (decadic optical density), ``bit``, ``count``, or ``1`` for a ratio.
    formula
        How it is computed.
    source
        Where the formula is from.
    kinds
        Kinds of cells that the cell table gives it of; empty for all.
    """

    name: str
    unit: str
    formula: str
    source: str
    kinds: tuple[str, ...] = ()

    def applies_to(self, kind: str) -> bool:
        """Return whether cells of a kind have it in the cell table."""
        return not self.kinds or kind in self.kinds


_NUCLEATED, _RED = ("white", "megakaryocyte"), ("red",)
_BODY = ("white", "red", "platelet", "megakaryocyte")
"""Cells with a nucleus to see, cells with a pallor, and cells whose cytoplasm is all but the nucleus."""


def _texture(part: str, where: str, kinds: tuple[str, ...] = ()) -> tuple[Feature, ...]:
    formulas = {
        "contrast": ("1", "sum of p(i, j) (i - j)^2"),
        "homogeneity": ("1", "sum of p(i, j) / (1 + (i - j)^2)"),
        "energy": ("1", "root of the sum of p(i, j)^2"),
        "correlation": ("1", "covariance of i and j over their variance; 1 where the variance is 0"),
        "entropy": ("bit", "-sum of p(i, j) log2 p(i, j)"),
    }
    return tuple(
        Feature(name=f"{part}_glcm_{name}", unit=unit, formula=f"{formula}; {where}", source=HARALICK, kinds=kinds)
        for name, (unit, formula) in formulas.items()
    )


def _feature(name: str, unit: str, formula: str, source: str) -> Feature:
    part = name.partition("_")[0]
    kinds = {"nucleus": _NUCLEATED, "nc": _NUCLEATED, "cytoplasm": _BODY, "pallor": _RED}.get(part, ())
    kinds = ("megakaryocyte",) if name == "nucleus_concavities" else kinds
    return Feature(name=name, unit=unit, formula=formula, source=source, kinds=kinds)


FEATURES: tuple[Feature, ...] = (
    _feature("area_um2", "um2", "pixels of the mask times mpp^2", "count"),
    _feature("perimeter_um", "um", "P, length of all boundaries, of holes too", _CROFTON),
    _feature("shape_equivalent_diameter_um", "um", "2 sqrt(A / pi)", "diameter of the disc of equal area"),
    _feature("shape_axis_ratio", "1", "minor over major axis of the ellipse of equal moments", _HU),
    _feature("eccentricity", "1", "sqrt(1 - (minor / major)^2)", _HU),
    _feature(
        "circularity", "1", "4 pi A / P^2, at most 1",
        "Cox, J. Paleontol. 1:179, 1927",
    ),
    _feature("solidity", "1", f"A over {_DIGITAL}", "Pick's theorem; Andrew, Inf. Process. Lett. 9:216, 1979"),
    _feature(
        "shape_convexity", "1", "perimeter of that hull, widened by half a pixel (+ pi px), over P, at most 1",
        "Steiner's formula",
    ),
    _feature(
        "shape_hull_defects", "count",
        f"concavities of the outline at least {DEFECT_UM} um (and one pixel) deep, between corners of its hull",
        "Sklansky, IEEE Trans. Comput. C-21:1355, 1972",
    ),
    _feature(
        "shape_hull_defect_depth_um", "um", "largest distance of outline and hull; pixels alone give up to one pixel",
        "as above",
    ),
    *(
        _feature(
            f"shape_fourier_{k}", "1",
            f"sqrt(a^2 + b^2 + c^2 + d^2) of harmonic {k} of the longest outline, over that of harmonic 1",
            "Kuhl and Giardina, Comput. Graph. Image Process. 18:236, 1982",
        )
        for k in range(2, 9)
    ),
    _feature("nucleus_area_um2", "um2", "pixels of the nucleus inside the cell times mpp^2", "count"),
    _feature("nc_ratio", "1", "nucleus over cell area (N:C ratio)", "count"),
    _feature(
        "nucleus_lobes", "count",
        f"maxima of the distance from the nuclear outline that rise {LOBE_UM} um (and 0.75 px) above the pass to a "
        "higher one; the ground counts as 0, so separate parts are lobes",
        "h-maxima: Soille, Morphological Image Analysis, 2003, ch. 6",
    ),
    _feature("nucleus_eccentricity", "1", "as eccentricity, of all parts together", _HU),
    _feature("nucleus_solidity", "1", f"nucleus area over {_DIGITAL}", "as solidity"),
    _feature("nucleus_form_factor", "1", "as circularity, of all parts together", "as circularity"),
    _feature(
        "nucleus_concavities", "count",
        f"concavities at least {CONCAVITY_UM} um (and 1.5 px) deep of the outer outlines of all parts",
        "as shape_hull_defects",
    ),
    _feature("nucleus_od", "OD", "mean over nucleus of D, the mean density of the three channels", _OD),
    _feature("nucleus_od_sd", "OD", "standard deviation of D over the nucleus", _OD),
    _feature(
        "nucleus_chromatin", "OD",
        f"root mean square over the nucleus of G({CHROMATIN_UM[0]} um) - G({CHROMATIN_UM[1]} um) of D, "
        f"less its outer {EDGE_UM} um",
        _DOG,
    ),
    *_texture("nucleus", "within the nucleus", _NUCLEATED),
    _feature("cytoplasm_azure", "OD", "mean over the cytoplasm of the methylene-blue share of the densities", _STAINS),
    _feature("cytoplasm_eosin", "OD", "mean over the cytoplasm of the eosin share of the densities", _STAINS),
    _feature("cytoplasm_od_sd", "OD", "standard deviation of D over the cytoplasm", _OD),
    _feature(
        "cytoplasm_granularity", "OD",
        f"root mean square over the cytoplasm of G({GRANULE_UM[0]} um) - G({GRANULE_UM[1]} um) of D, "
        f"less its edges of {EDGE_UM} um",
        _DOG,
    ),
    _feature("cell_od_red", "OD", "mean over the cell of -log10(max(I, 1) / background), red", _OD),
    _feature("cell_od_green", "OD", "the same, green", _OD),
    _feature("cell_od_blue", "OD", "the same, blue", _OD),
    *_texture("cell", "within the cell"),
    _feature(
        "pallor_area_share", "1",
        "pixels deeper than the rim and below the middle of rim and centre density (green), over A; 0 without pallor",
        "rim and centre: wsi_pipeline.cells.interior.pallor",
    ),
    _feature("pallor_depth", "1", "1 - centre / rim density (green); 0 where below 0.05", "as above"),
    *(
        _feature(
            f"pallor_ring_{k}", "1",
            f"mean density (green) of ring {k} of eight of equal depth, 1 the outermost, over that of the cell",
            "wsi_pipeline.cells.interior.ring_densities",
        )
        for k in range(1, 9)
    ),
    _feature(
        "pallor_axis_ratio", "1",
        "minor over major axis of the palest quarter (green) of the pixels deeper than half of the largest depth",
        "wsi_pipeline.cells.interior.pale_part",
    ),
    _feature(
        "pallor_offset", "1",
        "distance of that quarter's centre of mass from the cell's, over the radius of the disc of equal area",
        "as above",
    ),
)  # fmt: skip
"""All features; :func:`~wsi_pipeline.cells.morphology.measure_morphology` returns its columns in this order."""

NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)


def features_table() -> str:
    """Return ``docs/morphology.md``'s table, one row a feature, as Markdown."""
    rows = ["| feature | unit | of | formula | source |", "|---|---|---|---|---|"]
    rows += [f"| `{f.name}` | {f.unit} | {', '.join(f.kinds) or 'all'} | {f.formula} | {f.source} |" for f in FEATURES]
    return "\n".join(rows) + "\n"


def refresh(path: Path) -> None:
    """Replace the table at the end of a Markdown file, or append it."""
    text = path.read_text(encoding="utf-8")
    head = text.partition("| feature |")[0].rstrip("\n")
    path.write_text(f"{head}\n\n{features_table()}", encoding="utf-8")


if __name__ == "__main__":
    refresh(Path(sys.argv[1]))
