"""From flows to instances: our engine against cellpose.dynamics on the same flows.

Ours is ``flows_to_labels`` and ``extract_instances``: following, seeds, the flow-error check, holes, small cells, and
the sums and moments that morphology is computed from; by numba on the CPU and by PyTorch on ``--device``. The peer is
``cellpose.dynamics.compute_masks`` with the same thresholds, on ``--device`` too, which ends in
``utils.fill_holes_and_remove_small_masks``; it measures nothing.

Two cases: "synthetic", dense touching cells with smooth noise on their flows (the truth is known, so both are also
scored against it), and "network", what the compact network says of a virtual slide. The agreement of the two is
printed as average precision, TP / (TP + FP + FN), at IoU 0.9, border cells included.

``--parity`` measures no time: it prints the agreement over the whole declared matrix of ``_parity.py``, and exits with
status 1 when a row misses its bound.

Not measured: the network, reading, polygons.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _harness import Contender, SkipContender, compare, parser, report, start, use_torch_threads
from _inputs import dense_labels, noisy_fields, virtual_slide
from _parity import MATRIX, average_precision, measure

FLOW_THRESHOLD = 0.4
NITER = 200


def ours(path: Path, min_area: int, diameter: int) -> Callable[[], Any]:
    use_torch_threads()
    from wsi_pipeline.segmentation.dynamics import flows_to_labels
    from wsi_pipeline.segmentation.instances import extract_instances
    from wsi_pipeline.segmentation.networks import FLOW_SCALE
    from wsi_pipeline.units import Box

    fields = np.load(path)
    height, width = fields.shape[1:]
    layers = np.random.default_rng(0).integers(0, 256, (5, height, width), dtype=np.uint8)

    def work() -> npt.NDArray[np.int32]:
        foreground = fields[2] > 0
        flow = fields[:2] / np.float32(FLOW_SCALE)
        labels, seeds = flows_to_labels(flow * foreground, foreground, niter=NITER, max_cell_diameter_px=diameter)
        return extract_instances(
            labels, seeds, core=Box(x0=0, y0=0, x1=width, y1=height), flow=flow, foreground=foreground, layers=layers,
            flow_threshold=FLOW_THRESHOLD, min_area_px=min_area, max_cell_diameter_px=diameter,
        ).labels  # fmt: skip

    return work


def ours_in_torch(path: Path, min_area: int, diameter: int, device: str) -> Callable[[], Any]:
    use_torch_threads()
    import torch

    from wsi_pipeline.segmentation.networks import FLOW_SCALE
    from wsi_pipeline.segmentation.torch_dynamics import flows_to_labels
    from wsi_pipeline.segmentation.torch_instances import extract_instances
    from wsi_pipeline.units import Box

    if device == "cuda" and not torch.cuda.is_available():
        raise SkipContender("PyTorch sees no CUDA GPU")
    fields = torch.from_numpy(np.load(path)).to(device)
    height, width = fields.shape[1:]
    layers = np.random.default_rng(0).integers(0, 256, (5, height, width), dtype=np.uint8)
    on_device = torch.from_numpy(layers).to(device)

    def work() -> npt.NDArray[np.int32]:
        with torch.inference_mode():
            foreground = fields[2] > 0
            flow = fields[:2] / torch.tensor(FLOW_SCALE, dtype=torch.float32, device=device)
            labels, seeds = flows_to_labels(flow * foreground, foreground, niter=NITER, max_cell_diameter_px=diameter)
            return extract_instances(
                labels, seeds, core=Box(x0=0, y0=0, x1=width, y1=height), flow=flow, foreground=foreground,
                layers=on_device, flow_threshold=FLOW_THRESHOLD, min_area_px=min_area, max_cell_diameter_px=diameter,
            ).labels  # fmt: skip

    return work


def cellpose_masks(path: Path, min_area: int, device: str) -> Callable[[], Any]:
    use_torch_threads()
    import torch
    from cellpose import dynamics

    if device == "cuda" and not torch.cuda.is_available():
        raise SkipContender("PyTorch sees no CUDA GPU")

    fields = np.load(path)

    def work() -> npt.NDArray[Any]:
        masks = dynamics.compute_masks(
            fields[:2], fields[2], niter=NITER, cellprob_threshold=0.0, flow_threshold=FLOW_THRESHOLD,
            min_size=min_area, device=torch.device(device),
        )  # fmt: skip
        return np.asarray(masks, dtype=np.int32)

    return work


def network_fields(slide_path: Path, side: int, model_name: str) -> npt.NDArray[np.float32]:
    """Return ``(3, side, side)`` fields of the compact network over the slide's upper left corner."""
    import shapely

    from wsi_pipeline.errors import ModelError
    from wsi_pipeline.segmentation.models import load_model
    from wsi_pipeline.segmentation.normalise import colour_histogram, normalisation_from_histogram
    from wsi_pipeline.segmentation.predict import predict_window
    from wsi_pipeline.slides import open_slide
    from wsi_pipeline.tiling import TileLattice
    from wsi_pipeline.units import Box

    try:
        model = load_model(model_name, specimen="blood_smear", device="cpu")
    except ModelError as error:
        raise SkipContender(str(error)) from None
    window = Box(x0=0, y0=0, x1=side, y1=side)
    with open_slide(slide_path) as slide:
        width, height = slide.size_at(0.25)
        return predict_window(
            lambda box: slide.read(box, 0.25),
            window,
            lattice=TileLattice(tile_px=model.tile_px, overlap_px=model.overlap_px, width=width, height=height),
            dilated_region=shapely.box(0, 0, side, side),
            normalisation=normalisation_from_histogram(colour_histogram(slide.read(window, 0.25))),
            model=model,
            batch_size=8,
        ).output[:3]


def print_parity() -> int:
    """Print every row of the parity matrix as it comes; return 1 when one misses its bound, else 0."""
    print(f"{'row':32}  {'cells':>5}  {'ours':>5}  {'AP at 0.9':>9}  {'its own':>7}  {'bound':>7}", flush=True)
    missed = 0
    for case in MATRIX:
        row = measure(case)
        own = "" if row.own_agreement is None else f"{row.own_agreement:.4f}"
        verdict = "" if row.holds else "  MISSED"
        missed += not row.holds
        print(
            f"{case.name:32}  {row.theirs:5}  {row.ours:5}  {row.agreement:9.4f}  {own:>7}  {row.bound:7.4f}{verdict}",
            flush=True,
        )
    print(f"{len(MATRIX)} rows, {missed} missed")
    return int(missed > 0)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=2048, help="side of the field, pixels (default 2048)")
    options.add_argument("--spacing", type=int, default=28, help="distance of synthetic cells, pixels")
    options.add_argument("--noise", type=float, default=0.25, help="noise of synthetic flows, of the unit flow")
    options.add_argument("--diameter", type=int, default=160, help="largest cell, pixels (160 is a blood smear's)")
    options.add_argument("--min-area", type=int, default=16, help="smallest cell, pixels")
    options.add_argument("--model", default="compact-smear", help="network of the second case")
    options.add_argument("--cases", nargs="+", choices=("synthetic", "network"), default=["synthetic", "network"])
    options.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="of Cellpose and of our PyTorch engine"
    )
    options.add_argument("--parity", action="store_true", help="print the matrix of agreement with Cellpose instead")
    chosen = start(options.parse_args())
    if chosen.parity:
        sys.exit(print_parity())
    for case in chosen.cases:
        truth = None
        if case == "synthetic":
            truth = dense_labels(chosen.size, spacing_px=chosen.spacing, seed=1)
            fields = noisy_fields(truth, noise=chosen.noise, seed=2)
        else:
            use_torch_threads()
            side = max(1024, chosen.size)
            slide = virtual_slide(chosen.scratch, profile="normal", size_px=side)
            try:
                fields = network_fields(slide, chosen.size, chosen.model)
            except SkipContender as reason:
                print(f"  left out: the case network ({reason})")
                continue
        path = chosen.scratch / f"fields-{case}.npy"
        np.save(path, np.ascontiguousarray(fields))
        in_torch = [
            Contender(
                name=f"ours, torch on {chosen.device}",
                prepare=ours_in_torch,
                arguments=(path, chosen.min_area, chosen.diameter, chosen.device),
            )
        ]
        timings = compare(
            [
                Contender(name="ours", prepare=ours, arguments=(path, chosen.min_area, chosen.diameter)),
                Contender(name="cellpose", prepare=cellpose_masks, arguments=(path, chosen.min_area, chosen.device)),
                *in_torch,
            ],
            repeats=chosen.repeats,
        )
        labels = {t.name: t.value for t in timings}
        extra: dict[str, Any] = {f"cells, {name}": int(found.max()) for name, found in labels.items()}
        if "cellpose" in labels:
            extra["agreement, AP at IoU 0.9"] = round(average_precision(labels["cellpose"], labels["ours"], 0.9), 4)
        if truth is not None:
            extra["cells, truth"] = int(truth.max())
            for name, found in labels.items():
                for threshold in (0.5, 0.9):
                    extra[f"{name} against truth, AP at IoU {threshold}"] = round(
                        average_precision(truth, found, threshold), 4
                    )
        foreground = round(float((fields[2] > 0).mean()), 3)
        work = {"size": chosen.size, "foreground": foreground, "niter": NITER, "diameter": chosen.diameter}
        report(chosen, "dynamics", case, timings, work=work, amount=chosen.size**2 / 1e6, unit="Mpx", extra=extra)


if __name__ == "__main__":
    main()
