"""Training speed of the compact networks from packed fields: the whole loop, its crops alone, its network alone.

    python benchmarks/gpu_train.py --pack .pack --device cuda --steps 300

"whole" is ``wsi_pipeline.training.segmentation.fit.train_segmentation`` as a user gets it; "crops" only cuts and
augments the crops of the same steps on the CPU; "network" only runs forward, loss, backward and optimiser on one batch
that stays on the device. The ratios say which of the two the whole waits for. With ``--save`` the averaged network is
written as safetensors, so the same call can train for good (``--steps 0`` takes the recipe's number of steps).

Not measured: validation, accuracy. There is no peer: Cellpose does not train networks of this size or with kinds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import MIB, memory_mib, parser, print_table, record, start, use_torch_threads

if TYPE_CHECKING:
    from wsi_pipeline.training.segmentation.data import Sample
    from wsi_pipeline.training.segmentation.fit import Recipe


def crops_rate(samples: Sequence[Sample], recipe: Recipe, steps: int) -> float:
    """Return steps a second of cutting and augmenting alone."""
    from wsi_pipeline.training.segmentation.fit import batch_of

    batch_of(samples, recipe, 0)
    started = time.perf_counter()
    for step in range(steps):
        batch_of(samples, recipe, step)
    return steps / (time.perf_counter() - started)


def network_rate(samples: Sequence[Sample], recipe: Recipe, steps: int, device: str) -> float:
    """Return steps a second of the network alone (median over steps)."""
    import torch

    from wsi_pipeline.segmentation.networks import CompactFlowNet
    from wsi_pipeline.training.segmentation.fit import batch_of, losses

    torch.manual_seed(recipe.seed)
    network: Any = CompactFlowNet(len(recipe.kinds)).to(device).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate)
    crops = batch_of(samples, recipe, 0)
    image = torch.from_numpy(np.stack([c.image for c in crops])).to(device, memory_format=torch.channels_last)
    truth = [
        torch.from_numpy(np.stack([getattr(c, name) for c in crops])).to(device)
        for name in ("flows", "cell", "kinds", "known")
    ]
    seconds = []
    for step in range(steps + 2):
        started = time.perf_counter()
        with torch.autocast(device_type=device, dtype=torch.bfloat16):
            output = network(image)
        loss = losses(output.float(), *truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        loss.item()  # waits for the device, as training does
        if step >= 2:
            seconds.append(time.perf_counter() - started)
    return 1 / statistics.median(seconds)


def whole_rate(samples: Sequence[Sample], recipe: Recipe, device: str, folder: Path) -> tuple[float, Any]:
    """Return steps a second of training as it is, and the averaged network."""
    from wsi_pipeline.training.segmentation.fit import train_segmentation

    started = time.perf_counter()
    network = train_segmentation(
        samples, folder, recipe, device=device, report=lambda text: print(f"    {text}", flush=True)
    )
    return recipe.steps / (time.perf_counter() - started), network


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--pack", type=Path, default=Path(".pack"), help="folder of packs made by pack.py")
    options.add_argument("--model", nargs="+", help="packs to train from (default: all in the folder)")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--steps", type=int, default=300, help="training steps; 0 takes the recipe's number")
    options.add_argument("--batch", type=int, help="crops a step, instead of the recipe's")
    options.add_argument("--parts-steps", type=int, default=20, help="steps of crops and network alone")
    options.add_argument("--save", type=Path, help="folder to write the trained networks to")
    chosen = start(options.parse_args())
    from _pack import read_pack

    from wsi_pipeline.training.segmentation.fit import RECIPES

    use_torch_threads()
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no CUDA device here")
    names = chosen.model or sorted(p.stem for p in chosen.pack.glob("*.npz"))
    if not names:
        raise SystemExit(f"{chosen.pack} holds no packs; make them with benchmarks/pack.py")
    for name in names:
        started = time.perf_counter()
        samples = read_pack(chosen.pack / f"{name}.npz")
        reading = time.perf_counter() - started
        recipe = RECIPES[name]
        recipe = replace(recipe, steps=chosen.steps or recipe.steps, batch=chosen.batch or recipe.batch)
        print(f"\n{name}: {len(samples)} fields unpacked in {reading:.1f} s; {recipe.steps} steps", flush=True)
        crops = crops_rate(samples, recipe, chosen.parts_steps)
        network = network_rate(samples, recipe, chosen.parts_steps, chosen.device)
        with tempfile.TemporaryDirectory() as folder:
            whole, average = whole_rate(samples, recipe, chosen.device, Path(folder))
        pixels = recipe.batch * recipe.side**2 / 1e6
        rates = {"whole": whole, "crops": crops, "network": network}
        print_table(
            ("", "steps/s", "Mpx/s", "of it, whole reaches"),
            [(k, f"{v:.2f}", f"{v * pixels:.2f}", f"{whole / v:.2f}") for k, v in rates.items()],
        )
        gpu = round(torch.cuda.max_memory_allocated() / MIB, 1) if chosen.device == "cuda" else None
        peak = memory_mib("VmHWM")
        print(f"  peak memory {peak:,.0f} MiB" + (f", on the GPU {gpu:,.0f} MiB" if gpu else ""), flush=True)
        record(
            chosen.results, "gpu_train", f"{name}, {chosen.device}",
            {"fields": len(samples), "steps": recipe.steps, "batch": recipe.batch, "side": recipe.side},
            {
                **{f"{k}_steps_per_s": round(v, 3) for k, v in rates.items()},
                "whole_over_network": round(whole / network, 3), "whole_over_crops": round(whole / crops, 3),
                "unpacking_s": round(reading, 2), "peak_mib": round(peak, 1), "gpu_mib": gpu,
            },
        )  # fmt: skip
        if chosen.save:
            from safetensors.torch import save_file

            chosen.save.mkdir(parents=True, exist_ok=True)
            state = {k: v.detach().cpu().contiguous() for k, v in average.state_dict().items()}
            save_file(state, chosen.save / f"{name}-{recipe.steps}.safetensors")


if __name__ == "__main__":
    main()
