"""A Cellpose 4 network a thousand times smaller than ``cpsam``, made and saved by ``cellpose`` itself; and a slide.

``cellpose`` knows one SAM encoder, the ViT-L of ``segment_anything``'s registry; with a small one in its place its
own class builds, saves and loads a small network of the same layers, names and format.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

WIDTH, DEPTH, HEADS = 32, 2, 2


def _tiny_sam(_checkpoint: None = None) -> Any:
    from segment_anything.modeling import ImageEncoderViT

    class Sam(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image_encoder = ImageEncoderViT(
                depth=DEPTH, embed_dim=WIDTH, img_size=1024, mlp_ratio=2, patch_size=16, num_heads=HEADS, qkv_bias=True,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True, global_attn_indexes=(1,),
                window_size=14, out_chans=16,
            )  # fmt: skip

    return Sam()


@contextmanager
def tiny_sam() -> Iterator[None]:
    """Let ``cellpose`` build its networks from a tiny encoder."""
    from cellpose import vit

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.sam_model_registry, "vit_l", _tiny_sam)
        yield


def write_tiny(path: Path, seed: int = 0) -> Path:
    """Write random weights of a tiny network as ``cellpose`` writes them; only inside :func:`tiny_sam`."""
    from cellpose import vit

    torch.manual_seed(seed)
    network = vit.CPSAM()
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            # SAM's position biases start at zero, and its flows would all be near zero.
            torch.nn.init.normal_(parameter, std=0.2)
    network.save_model(path)
    return path


def write_slide(path: Path, side: int = 300) -> Path:
    """Write a slide of glass with one dark square at 0.25 um per pixel."""
    import tifffile

    rng = np.random.default_rng(3)
    pixels = np.clip(rng.normal(232, 4, (side, side, 3)), 0, 255).astype(np.uint8)
    pixels[100:150, 90:140] = (120, 70, 150)
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", resolution=(40_000, 40_000), resolutionunit=3)
    return path
