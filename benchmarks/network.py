"""Network throughput: the compact network in bf16 and fp32 at several batch sizes, and Cellpose-SAM.

Measured: megapixels of tiles a second through the folded compact network. "with copies" goes from and to numpy arrays
as ``CompactModel.predict`` does; "resident" (CUDA only) leaves tiles and output on the GPU. The weights are random:
speed does not depend on them. The peer is ``cpsam`` on the same tiles through ``CellposeModel.predict``, where the
cellpose package and its weights are installed (nothing is downloaded); it is some hundred times larger, so the ratio
says what a run costs, not how good the answer is.

Not measured: overlap of tiles, blending, normalisation, accuracy. Printed memory is the process's; on CUDA the
largest amount allocated on the GPU follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import MIB, Contender, SkipContender, compare, parser, report, start, use_torch_threads


def _tiles(batch: int, tile: int, batches: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((batch, 3, tile, tile), dtype=np.float32) for _ in range(batches)]


def _gpu_mib(device: str) -> float | None:
    import torch

    return round(torch.cuda.max_memory_allocated() / MIB, 1) if device == "cuda" else None


def compact(
    dtype: str, device: str, kinds: int, batch: int, tile: int, batches: int, resident: bool
) -> Callable[[], Any]:
    use_torch_threads()
    import torch

    from wsi_pipeline.segmentation.networks import CompactFlowNet, fold_batch_norms

    if device == "cuda" and not torch.cuda.is_available():
        raise SkipContender("no CUDA device")
    torch.manual_seed(0)
    network: Any = fold_batch_norms(CompactFlowNet(kinds).eval())
    number = getattr(torch, dtype)
    network = network.to(device, number).to(memory_format=torch.channels_last)
    host = _tiles(batch, tile, batches)

    def load(tiles: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(tiles).to(device, number, memory_format=torch.channels_last)

    there = [load(tiles) for tiles in host] if resident else []

    def work() -> float | None:
        with torch.inference_mode():
            if resident:
                for tiles in there:
                    network(tiles)
                torch.cuda.synchronize()
            else:
                for tiles in host:
                    network(load(tiles)).float().cpu().numpy()
        return _gpu_mib(device)

    return work


def cpsam(name: str, device: str, batch: int, tile: int, batches: int) -> Callable[[], Any]:
    use_torch_threads()
    from wsi_pipeline.errors import ModelError
    from wsi_pipeline.segmentation.models import CellposeModel, cellpose_weights

    if tile != 256:
        raise SkipContender(f"{name} takes tiles of 256 pixels, not {tile}")
    try:
        path = cellpose_weights(name)
    except ModelError as error:
        raise SkipContender(str(error)) from None
    model = CellposeModel(name, path, device, precision="bf16", specimen="blood_smear")
    host = _tiles(batch, tile, batches)

    def work() -> float | None:
        for tiles in host:
            model.predict(tiles)
        return _gpu_mib(device)

    return work


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8, 16], help="batch sizes")
    options.add_argument("--size", type=int, default=2048, help="side of the field that the tiles make up, pixels")
    options.add_argument("--tile", type=int, default=256, help="side of a tile, pixels (default 256)")
    options.add_argument("--kinds", type=int, default=5, help="kind channels: 5 smears, 2 sections")
    options.add_argument("--peer", default="cpsam", help="cellpose model that is the peer")
    chosen = start(options.parse_args())
    if chosen.device == "cuda":
        import torch  # noqa: F401  so that the result line names the GPU
    for batch in chosen.batch:
        batches = max(1, chosen.size**2 // (batch * chosen.tile**2))
        amount = batches * batch * chosen.tile**2 / 1e6
        for resident in (False, True) if chosen.device == "cuda" else (False,):
            shape = (chosen.device, chosen.kinds, batch, chosen.tile, batches, resident)
            contenders = [
                Contender(name=f"compact {short}", prepare=compact, arguments=(dtype, *shape))
                for short, dtype in (("bf16", "bfloat16"), ("fp32", "float32"))
            ]
            if not resident:
                peer = (chosen.peer, chosen.device, batch, chosen.tile, batches)
                contenders.append(Contender(name=chosen.peer, prepare=cpsam, arguments=peer))
            timings = compare(contenders, repeats=chosen.repeats)
            if not timings:
                return
            extra = {f"GPU memory of {t.name}, MiB": t.value for t in timings if t.value is not None}
            case = f"batch {batch}, {'resident' if resident else 'with copies'}, {chosen.device}"
            work = {"batch": batch, "tile": chosen.tile, "tiles": batches * batch, "kinds": chosen.kinds}
            report(chosen, "network", case, timings, work=work, amount=amount, unit="Mpx", extra=extra)


if __name__ == "__main__":
    main()
