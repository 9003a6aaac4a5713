"""What is written beside an MDS tree for people: the card and the table of importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.predictions.mds_counts import MdsTree, tree_text
from wsi_pipeline.training.mds_counts.forest import Importance

_FAILS = (
    "Known only from this table's laboratory and analyser: Ne-WX, IPF and MPV differ between makers, models and "
    "anticoagulants. Assess it on patients of another centre before you believe it there.",
    "Shares are of a population like the table. Where MDS is rarer or commoner, they are not probabilities.",
    "Valid for adults with a known cytopenia whose cause is asked. It does not replace morphology, cytogenetics or "
    "molecular tests, and a negative answer does not exclude MDS.",
    "One cross-validation: the intervals do not carry how the figure varies with the arrangement of the folds.",
    "Which questions the tree asks changes with the patients (see the folds); the figures are of the method.",
)


def importance_csv(importance: Sequence[Importance]) -> str:
    """Return ``importance.csv``, from the most to the least important by permutation."""
    rows: list[list[object]] = []
    for rank, one in enumerate(importance, start=1):
        numbers = (one.auc_drop, one.lowest, one.highest)
        rows.append([rank, one.analyte, *(f"{v:.4f}" for v in numbers), f"{one.impurity_percent:.1f}"])
    return csv_text(
        ("rank", "analyte", "permutation_auc_drop", "lowest_fold", "highest_fold", "impurity_percent"), rows
    )


def card_text(tree: MdsTree, metrics: Mapping[str, Any], importance: Sequence[Importance]) -> str:
    """Return the card as Markdown; the text of tables and labels is kept from acting as markup."""
    table = metrics["table"]
    positive, negative = _plain(tree.positive), _plain(tree.negative)
    folds, repeats, seed = (metrics[key] for key in ("folds", "repeats", "seed"))
    several = table["repeated"]
    repeated = f"; {several} patients have several rows, kept on one side of each fold" if several else ""
    lines = ["# MDS from analyser values (`mds_cbc`)", ""]
    if tree.simulated:
        lines += [
            "**SIMULATED.** Learnt and measured on simulated values; no figure here says anything about patients. "
            "It answers only with `--allow-simulated`.", "",
        ]  # fmt: skip
    lines += [
        f"A decision tree that tells {positive} from {negative} among patients with cytopenia. "
        "Research use only; not a medical device.",
        "",
        f"- Trained on: {_plain(tree.trained_on)}",
        f"- Patients: {table['patients']} ({table['positive']} {positive}), {table['rows']} rows"
        + repeated,
        f"- Analytes: {', '.join(a.short['en'] for a in tree.analytes)}",
        *([f"- Left out, known of less than half of the patients: {', '.join(metrics['left_out'])}"]
          if metrics["left_out"] else []),
        f"- A leaf answers {positive} above {100 * tree.cut:.1f} %, the share in the table (both labels weigh alike)",
        "- Missing values: a missing value goes to the side of the training median; where missing values leave both "
        "answers open there is no answer",
        f"- Patients without cytopenia (not judged when asked): {table['without_cytopenia']} of the table",
        "",
        "## The tree",
        "",
        "```",
        tree_text(tree, "en").replace("`", "'").rstrip(),
        "```",
        "",
        "## How good",
        "",
        f"Nested cross-validation, {folds} outer folds by patient, pruned inside each by {repeats} x {folds} folds; "
        f"the first row of each held-out patient; seed {seed}.",
        "",
        "| | AUC (95 % interval) | against the tree (DeLong) |",
        "|---|---|---|",
        *(
            f"| {name} | {_estimate(metrics['auc'][key])} | {_difference(metrics['compared'].get(key))} |"
            for key, name in (
                ("tree", "the tree"), ("forest", "the forest, not shipped"),
                ("single_split", "baseline: best single split"), ("constant", "baseline: the same answer for all"),
            )
        ),
        "",
        "| at the tree's cut, of the answered | value (95 % Wilson interval) | right / answered | not answered |",
        "|---|---|---|---|",
        *(
            f"| {name} | {_estimate(point)} | {point['k']} / {point['n']} | {point['unanswered']} |"
            for name, point in metrics["operating_point"].items()
        ),
        "",
        "AUCs are of all held-out patients, answered or not. Always answering one label has a sensitivity of 0 or 1 "
        "and a specificity of 1 or 0. Not answered, by reason: "
        + (", ".join(f"{reason} {n}" for reason, n in metrics["unanswered"].items()) or "none") + ".",
        "",
        "## What carries the answer (forest)",
        "",
        "| analyte | fall of AUC when shuffled, held-out patients (range over folds) | impurity |",
        "|---|---|---|",
        *(
            f"| {one.analyte} | {one.auc_drop:.4f} ({one.lowest:.4f} to {one.highest:.4f}) | "
            f"{one.impurity_percent:.1f} % |"
            for one in importance
        ),
        "",
        "## Stability",
        "",
        "| outer fold | leaves | asks |",
        "|---|---|---|",
        *(
            f"| {i} | {fold['leaves']} | {', '.join(fold['asked']) or 'nothing'} |"
            for i, fold in enumerate(metrics["outer_folds"], start=1)
        ),
        "",
        "## Where it fails",
        "",
        *(f"- {text}" for text in (*_warnings(tree, metrics), *_FAILS)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _warnings(tree: MdsTree, metrics: Mapping[str, Any]) -> list[str]:
    found = []
    if len(tree.nodes) == 1:
        found.append("No question survived pruning: the table does not support a tree, and it answers nothing.")
    found += metrics["leakage"]
    for gap in metrics["telling_gaps"]:
        found.append(
            f"{gap['analyte']} is missing for {gap['missing_positive']} of {gap['positive']} positive and "
            f"{gap['missing_negative']} of {gap['negative']} other patients (p {gap['p']:.1g}): who was measured tells "
            "the label, and part of the figures may be that."
        )
    return found


def _estimate(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "-"
    if found["lower"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ({found['lower']:.3f}-{found['upper']:.3f})"


def _difference(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['difference']:+.3f}, p {found['p']:.2g}"


def _plain(text: str) -> str:
    """Return text that Markdown and HTML take literally."""
    return "".join(f"&#{ord(c)};" if c in "<>&|`*_[]\\#" or not c.isprintable() else c for c in text)
