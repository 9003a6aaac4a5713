"""What a training of a cell classifier leaves beside its weights: tables and pictures of its answers on test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path, write_json, write_text
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.predictions.assessment.calibration import Calibration
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics

_MIN_EACH = 1
_DPI = 130


def one_versus_rest(
    truth: npt.NDArray[np.str_], p: npt.NDArray[np.float32], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return for each class with cells on both sides ``auc`` and the ROC curve (``fpr``, ``tpr``)."""
    from sklearn.metrics import roc_auc_score, roc_curve

    curves = {}
    for i, name in enumerate(classes):
        own = truth == name
        if min(own.sum(), (~own).sum()) < _MIN_EACH:
            continue
        fpr, tpr, _ = roc_curve(own, p[:, i])
        curves[name] = {"auc": float(roc_auc_score(own, p[:, i])), "fpr": fpr, "tpr": tpr}
    return curves


def write_outputs(
    out: Path,
    *,
    metrics: ClassificationMetrics,
    calibration: Calibration,
    roc: Mapping[str, Mapping[str, Any]],
    history: Sequence[Mapping[str, float]],
    chosen: int,
    summary: Mapping[str, Any],
) -> None:
    """Write ``metrics.json``, ``per_class.csv``, ``confusion``, ``reliability``, ``roc`` and ``learning_curve``.

    The last four come as ``.csv`` and ``.png``; the learning curve only where the model has epochs or rounds.

    Parameters
    ----------
    history, chosen
        One record an epoch, and the number (from 1) of the one that was kept.
    summary
        Content of ``metrics.json``.
    """
    write_json(out / "metrics.json", dict(summary))
    names = list(metrics.classes)
    write_rows(
        out / "per_class.csv",
        ["class", "cells", "precision", "recall", "f1", "f1_lower", "f1_upper", "auc"],
        [
            [c.name, c.support, c.precision.value, c.recall.value, c.f1.value, c.f1.lower, c.f1.upper,
             roc.get(c.name, {}).get("auc")]
            for c in metrics.per_class
        ],
    )  # fmt: skip
    write_rows(
        out / "confusion.csv",
        ["true \\ answered", *metrics.answers],
        [[n, *row] for n, row in zip(names, metrics.confusion, strict=True)],
    )
    write_rows(
        out / "reliability.csv",
        ["from", "to", "cells", "confidence", "accuracy"],
        [[b.lower, b.upper, b.n, b.confidence, b.accuracy] for b in calibration.bins],
    )
    write_rows(
        out / "roc.csv",
        ["class", "false_positive_rate", "true_positive_rate"],
        [[n, x, y] for n, c in roc.items() for x, y in zip(c["fpr"], c["tpr"], strict=True)],
    )
    _plot_confusion(out / "confusion.png", metrics)
    _plot_reliability(out / "reliability.png", calibration)
    _plot_roc(out / "roc.png", roc)
    if history:
        columns = list(history[0])
        write_rows(
            out / "learning_curve.csv",
            ["epoch" if "val_macro_f1" in columns else "round", *columns],
            [[i, *(h[c] for c in columns)] for i, h in enumerate(history, 1)],
        )
        _plot_history(out / "learning_curve.png", history, chosen)


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file; fractions with six digits, None as an empty cell."""
    written = ([f"{v:.6g}" if isinstance(v, float | np.floating) else v for v in row] for row in rows)
    write_text(path, csv_text(header, written))


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches, without a window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, the same bytes for the same figure."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def in_words(name: str) -> str:
    """Return a code as it is read: blanks for underscores."""
    return name.replace("_", " ")


def _plot_confusion(path: Path, metrics: ClassificationMetrics) -> None:
    counts = np.array(metrics.confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.5, 0.55 * counts.shape[1] + 2.5)
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(counts.astype(int)):
        if n:
            axes.text(
                j, i, str(n), ha="center", va="center", fontsize=8, color="white" if shares[i, j] > 0.5 else "black"
            )
    axes.set_xticks(range(counts.shape[1]), [in_words(a) for a in metrics.answers], rotation=45, ha="right")
    axes.set_yticks(range(counts.shape[0]), [in_words(c) for c in metrics.classes])
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    axes.set_title(f"Test cells, n = {metrics.n}; colour: share of the true class", fontsize=10)
    figure.colorbar(picture, ax=axes, shrink=0.7)
    save_figure(figure, path)


def _plot_reliability(path: Path, calibration: Calibration) -> None:
    figure = new_figure(5, 5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    used = [b for b in calibration.bins if b.n]
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
    above.plot([b.confidence for b in used], [b.accuracy for b in used], marker="o", label="model")
    above.set_ylabel("share of right answers")
    above.set_title(f"Reliability on test cells; expected calibration error {calibration.ece:.3f}", fontsize=10)
    above.set_ylim(0, 1.02)
    above.legend(loc="upper left")
    below.bar(
        [b.lower for b in calibration.bins],
        [b.n for b in calibration.bins],
        width=[b.upper - b.lower for b in calibration.bins],
        align="edge",
        edgecolor="white",
    )
    below.set_xlabel("probability of the answer")
    below.set_ylabel("cells")
    below.set_xlim(0, 1)
    save_figure(figure, path)


def _plot_roc(path: Path, roc: Mapping[str, Mapping[str, Any]]) -> None:
    import matplotlib

    figure = new_figure(8 if len(roc) > 6 else 7, 5)
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab20"]
    for i, (name, curve) in enumerate(roc.items()):
        axes.plot(curve["fpr"], curve["tpr"], color=colours(i % 20), label=f"{in_words(name)}  {curve['auc']:.3f}")
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.set_title("Each class against all others, test cells", fontsize=10)
    axes.legend(title="class, AUC", fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_aspect("equal")
    save_figure(figure, path)


def _plot_history(path: Path, history: Sequence[Mapping[str, float]], chosen: int) -> None:
    figure = new_figure(6.5, 4)
    axes = figure.subplots()
    epochs = range(1, len(history) + 1)
    mark = "o" if len(history) < 30 else ""
    axes.plot(epochs, [h["loss"] for h in history], color="tab:gray", marker=mark, markersize=3, label="train loss")
    axes.set_xlabel("epoch" if "val_macro_f1" in history[0] else "round")
    axes.set_ylabel("loss")
    lines = axes.get_lines()
    if "val_loss" in history[0]:
        lines += axes.plot(epochs, [h["val_loss"] for h in history], color="tab:orange", label="validation loss")
    if "val_macro_f1" in history[0]:
        right = axes.twinx()
        scores = [h["val_macro_f1"] for h in history]
        lines = [*lines, *right.plot(epochs, scores, marker=mark, markersize=3, label="validation macro-F1")]
        right.set_ylim(0, 1.02)
        right.set_ylabel("macro-F1")
    lines = [*lines, axes.axvline(chosen, color="0.8", linestyle="--", label=f"chosen: {chosen}")]
    axes.legend(
        handles=lines, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=len(lines), fontsize=8, frameon=False
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)
