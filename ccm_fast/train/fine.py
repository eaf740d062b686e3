"""A start for the fine group: the best linear description of what the coarse channels leave out.

Without any quantization, the 192 coarse channels of ``ccm-small`` restore Kodak to 37.6 dB and no better, and from
quality 6 on that is most of the error. Reduced-rank regression on the features at 1/4 finds the channels that tell most
of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import CrossChannelContextModel
from ..models.transforms import Split
from .data import to_tensor
from .klt import quantization_steps
from .stages import silence_group

__all__ = ["start_fine"]

# Images of at most 256x256: 60,000 blocks for the 1,024 features of each. A fit on as many left 1.68 of 3.82 (squared
# error of new images' blocks) in 128 channels; from features at 1/8 it left 1.99, from the pixels themselves 1.80.
_IMAGES, _SIDE = 240, 256
_BATCH = 8


def _rows(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B H W, C], in double precision."""
    return x.permute(0, 2, 3, 1).flatten(0, 2).double()


class _Regression:
    """Least squares [C, K] of outputs [n, K] by inputs [n, C], piece by piece."""

    def __init__(self):
        self.gram: Tensor | float = 0.0
        self.cross: Tensor | float = 0.0
        self.mean: Tensor | float = 0.0  # sums, at first
        self.wanted: Tensor | float = 0.0
        self.count = 0

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        self.gram = self.gram + inputs.T @ inputs
        self.cross = self.cross + inputs.T @ outputs
        self.mean = self.mean + inputs.sum(0)
        self.wanted = self.wanted + outputs.sum(0)
        self.count += len(inputs)

    def solve(self, ridge: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients [C, K] of what deviates from the means; covariance [C, C] and mean [C] of the inputs."""
        mean, wanted = self.mean / self.count, self.wanted / self.count
        covariance = self.gram / self.count - torch.outer(mean, mean)
        steady = covariance + torch.eye(len(mean)) * covariance.diagonal().mean() * ridge
        return torch.linalg.solve(steady, self.cross / self.count - torch.outer(mean, wanted)), covariance, mean


@torch.no_grad()
def start_fine(model: CrossChannelContextModel, images: Sequence[np.ndarray]) -> None:
    """Write the fine group's part of the transforms, its quantization steps, and what its entropy model starts from.

    Args:
        model: its coarse channels are trained, or start from the block transform; they stay as they are.
        images: photographs, uint8 [H, W, 3].

    Raises:
        ValueError: none of the images is as large as 64x64 pixels, or the model has no fine group.
    """
    if not model.config.fine:
        raise ValueError(f"{model.config.name} has no fine group")
    images = [i for i in (images[k] for k in range(min(_IMAGES, len(images)))) if min(i.shape[:2]) >= 64]
    if not images:
        raise ValueError("no image is as large as 64x64 pixels")
    fork = next(k for k, m in enumerate(model.g_a) if isinstance(m, Split))
    before, split, merge, shuffle = nn.Sequential(*list(model.g_a)[:fork]), model.g_a[fork], *model.g_s
    side = min(_SIDE, min(min(i.shape[:2]) for i in images)) // 16 * 16
    losses, weight = _Regression(), split.fine.weight
    for start in range(0, len(images), _BATCH):
        x = to_tensor([i[:side, :side] for i in images[start : start + _BATCH]]).to(weight.device)
        x = (x - 0.5) * 4.0
        features = before(x)
        lost = x - shuffle(merge.coarse(split.coarse(features)))
        losses.add(_rows(F.pixel_unshuffle(features, 4)).cpu(), _rows(F.pixel_unshuffle(lost, 16)).cpu())

    # Of the pixels that can be told, the directions of most power.
    tell, covariance, mean = losses.solve()
    _, directions = torch.linalg.eigh(tell.T @ covariance @ tell)
    directions = directions.flip(1)[:, : model.config.fine_channels]
    down = tell @ directions  # [16 n4, fine]
    weight.copy_(down.T.reshape(weight.shape))
    split.fine.bias.copy_(-(mean @ down))

    # Outputs as two pixel shuffles by 4 read them: colour, row and column in a cell of 4x4, row and column of cells.
    blocks = directions.reshape(3, 4, 4, 4, 4, -1).permute(0, 2, 4, 1, 3, 5)
    merge.fine[0].weight.copy_(blocks.reshape(768, -1, 1, 1))

    steps = quantization_steps(model.config.qualities)
    fine = model.config.fine_channels
    model.log_gain[:, -fine:] = -steps.log()[:, None]
    model.log_inverse_gain[:, -fine:] = steps.log()[:, None]
    group = model.contexts[-1]
    silence_group(group)
    sigma = ((down.T @ covariance) * down.T).sum(1).clamp(min=0).sqrt().float() / steps.log().mean().exp()
    group.start_from(sigma)
