"""Random changes that real and generated images both get before the discriminator sees them.

Differentiable augmentation keeps a GAN from learning a small set by heart without teaching the generator the changes
(Zhao et al., NeurIPS 2020, arXiv 2006.10738): colour, translation and cut-out, in the strengths of that paper.
"""

from __future__ import annotations

import torch


def turn(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return each image in one of its eight turned and mirrored views; a cell has no upside.

    Parameters
    ----------
    images
        ``(n, c, side, side)``.
    generator
        On the CPU; all randomness comes from it.
    """
    view = torch.randint(0, 8, (len(images),), generator=generator).to(images.device)
    out = images.clone()
    for number in range(1, 8):
        chosen = view == number
        if chosen.any():
            part = torch.rot90(images[chosen], number % 4, (2, 3))
            out[chosen] = part.flip(3) if number >= 4 else part
    return out


def differentiable_augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return changed images ``(n, 3, side, side)`` of -1 to 1, through which gradients flow.

    Parameters
    ----------
    images
        Real or generated.
    generator
        On the CPU; two batches that must get changes of one distribution may share it.
    """
    n, _, side, _ = images.shape

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).to(images.device, images.dtype)

    x = images + (uniform(n, 1, 1, 1) - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (2 * uniform(n, 1, 1, 1))
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (0.5 + uniform(n, 1, 1, 1))
    reach = max(1, side // 8)
    y0, x0 = (torch.randint(0, 2 * reach + 1, (2, n), generator=generator)).tolist()
    # Padded with the image's edge: around a cell lies background, not black.
    padded = torch.nn.functional.pad(x, (reach,) * 4, mode="replicate")
    x = torch.stack([p[:, b : b + side, a : a + side] for p, b, a in zip(padded, y0, x0, strict=True)])
    hole = side // 2
    y1, x1 = torch.randint(0, side + 1 - hole % 2, (2, n), generator=generator).to(images.device)
    axis = torch.arange(side, device=images.device)
    rows = (axis[None] - y1[:, None] + hole // 2 >= 0) & (axis[None] - y1[:, None] < hole - hole // 2)
    columns = (axis[None] - x1[:, None] + hole // 2 >= 0) & (axis[None] - x1[:, None] < hole - hole // 2)
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])
