"""How often the corrected interval of the differential covers the truth, and how far the estimate is off.

True compositions are those of the simulator's smear profiles, and random ones. Each replicate draws, from a true
confusion, a count of cells and a calibration table of its own with as many images a class as the card's, and corrects
the one by the other. The true confusion is the card's, or the card's with unseen errors (``--unseen``). Printed by
class of 5 % or more: coverage, width, bias, absolute error. Nothing is asserted.

Not measured: a slide on which the classifier errs otherwise than on its test images, which is the correction's one
presumption, nor cells that were missed or found twice.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.correction import ConfusionTable, correct_proportions
from wsi_pipeline.simulation.profile import load_profile
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.weights import find_weights

GROUPS = ("neutrophils", "granulocyte_precursors", "granulocytic")


@dataclass
class Tally:
    """What was seen of one class in one composition."""

    covered: list[bool] = field(default_factory=list)
    width: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)


def compositions(specimen: str, classes: tuple[str, ...]) -> dict[str, npt.NDArray[np.float64] | None]:
    """Return true proportions by name; None stands for another random composition in every replicate."""
    found: dict[str, npt.NDArray[np.float64] | None] = {}
    for name in ("normal", "reactive", "aml"):
        profile = load_profile(name)
        if profile.specimen == specimen:
            mix = profile.layers["white"].mix
            p = np.array([mix.get(c, 0.0) for c in classes])
            found[name] = p / p.sum()
    return {**found, "random": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specimen", default="blood_smear", choices=["blood_smear", "marrow_smear"])
    parser.add_argument("--classifier", default="pbc-blast")
    parser.add_argument("--cells", type=int, default=1000, help="white cells counted (the denominator, on average)")
    parser.add_argument("--replicates", type=int, default=200, help="counts of each composition")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unseen", type=float, default=0.0, help="added to every count of the true confusion")
    parser.add_argument("--images", type=float, default=1.0, help="calibration images, times those of the card")
    args = parser.parse_args()

    table = ConfusionTable.from_card(find_weights(args.classifier, "cells").card, args.specimen)
    if table is None:
        raise SystemExit(f"the card of {args.classifier} has no confusion for {args.specimen}")
    taxonomy = load_taxonomy("pbc-blast")
    classes = table.classes
    inside = [c for c in taxonomy.countable(args.specimen) if c in classes]
    is_inside = np.isin(classes, inside)
    counts = np.array(table.counts)
    images = np.maximum(1, np.rint(args.images * counts.sum(axis=1))).astype(int)
    truth = (counts + args.unseen) / (counts + args.unseen).sum(axis=1, keepdims=True)
    rng = np.random.default_rng(args.seed)
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    started = time.perf_counter()
    n = 0
    mixes = compositions(args.specimen, classes).items()
    for name, fixed in (mix for mix in mixes for _ in range(args.replicates)):
        p = rng.dirichlet(np.full(len(classes), 0.5)) if fixed is None else fixed
        within = np.where(is_inside, p, 0) / p[is_inside].sum()
        k = rng.multinomial(round(args.cells / p[is_inside].sum()), p @ truth)
        own = tuple(tuple(int(v) for v in rng.multinomial(images[i], truth[i])) for i in range(len(classes)))
        answered = dict(zip(classes, (int(v) for v in k), strict=True))
        result = correct_proportions(answered, ConfusionTable(classes=classes, counts=own), draws=args.draws)
        n += 1
        wanted = {c: (c,) for c in inside} | {g: taxonomy.roll_ups[g] for g in GROUPS}
        for what, members in wanted.items():
            index = [classes.index(c) for c in members]
            true = within[index].sum()
            if true < 0.05 and what in GROUPS:
                continue
            label = what if true >= 0.05 else ("absent" if true == 0 else "below 5 %")
            if name == "random" and label not in ("absent", "below 5 %"):
                label = "a group" if what in GROUPS else "a class"
            value, lower, upper = result.share(members, inside, 0.95)
            tally = tallies[name, label]
            tally.covered.append(bool(lower <= true <= upper))
            tally.width.append(100 * (upper - lower))
            tally.error.append(100 * (value - true))
            tally.raw.append(100 * (k[index].sum() / k[is_inside].sum() - true))
    seconds = time.perf_counter() - started

    print(f"{args.specimen}, {args.cells} cells, {args.replicates} counts a composition, {args.draws} draws, ")
    print(
        f"seed {args.seed}, unseen {args.unseen:g}, images a class {dict(zip(classes, images.tolist(), strict=True))}"
    )
    print(f"{1000 * seconds / n:.0f} ms a correction\n")
    head = f"{'composition':12}{'class':26}{'n':>7}{'cover %':>9}{'width':>7}{'bias':>7}{'MAE':>7}{'P95':>7}{'<=2':>6}"
    print(head + f"{'raw MAE':>9}")
    pooled: dict[str, list[bool]] = defaultdict(list)
    for (name, label), t in tallies.items():
        error = np.abs(t.error)
        row = f"{name:12}{label:26}{len(error):>7}{100 * np.mean(t.covered):>9.1f}{np.mean(t.width):>7.1f}"
        row += f"{np.mean(t.error):>7.2f}{error.mean():>7.2f}{np.quantile(error, 0.95):>7.2f}"
        print(row + f"{100 * np.mean(error <= 2):>6.0f}{np.abs(t.raw).mean():>9.2f}")
        kind = label if label in ("absent", "below 5 %") else "groups" if label in (*GROUPS, "a group") else "classes"
        pooled[kind] += t.covered
    names = {"classes": "classes of 5 % or more", "groups": "groups of 5 % or more"}
    print()
    for kind, covered in pooled.items():
        print(f"pooled, {names.get(kind, kind)}: {100 * np.mean(covered):.2f} % of {len(covered)}")


if __name__ == "__main__":
    main()
