"""Short ways from latents to small pictures, fitted by least squares: part of freezing.

A picture of 1/4 or 1/8 of the sides needs no detail that the last stages of g_s make. One convolution makes it of what
the stages before have made, and is fitted to the means of the pixels that the coarse channels' whole way gives:

    1/4    from the features at 1/8, behind the residual blocks there
    1/8    from the latents themselves

For ``ccm-small`` that is 0.6 and 0.07 of the multiply-adds of g_s. csrc/transforms/reduced.cpp runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ccm_fast.models.config import CCMConfig
from ccm_fast.models.transforms import SynthesisTransform, main_path

if TYPE_CHECKING:
    from .fitting import Latents

__all__ = ["FITTED_OUTPUTS", "fit_reduced", "fitted_inputs"]

#: Of either convolution: three colours of 2x2 pixels.
FITTED_OUTPUTS = 12
_KERNEL = 3
# Of the mean square of an input, added to all: keeps channels that are next to never used out of it.
_RIDGE = 1e-4


def fitted_inputs(config: CCMConfig, factor: int) -> int:
    """Inputs of the convolution for pictures of 1 / factor of the sides, with the 1 that stands for a bias."""
    return _KERNEL**2 * (config.widths[1] if factor == 4 else config.coarse_channels) + 1


@torch.no_grad()
def fit_reduced(model: torch.nn.Module, crops: Sequence[Latents]) -> dict[int, Tensor]:
    """The convolutions by the factor of the sides, 4 and 8.

    Args:
        model: a :class:`~ccm_fast.models.CrossChannelContextModel`, on the CPU.
        crops: of varied photographs and all qualities.

    Returns:
        fp16 [12, 9 * channels + 1]: for colour, row and column of 2x2 pixels in that order, in the units of the last
        layer (a quarter of it and 1/2 make a pixel), the weights of channel, row and column of the kernel in that
        order, and the bias. Empty for transforms that are not this package's.
    """
    if type(model.g_s) is not SynthesisTransform or not crops:
        return {}
    config = model.config
    _, b8, b16 = config.synthesis_blocks or config.blocks
    path = torch.nn.Sequential(*main_path(model.g_s))
    to_eighth = 3 + b16 + b8  # layers: the first, blocks, a convolution and its shuffle, blocks
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    for crop in crops:
        y = crop.y_hat * model.inverse_gain(torch.tensor([crop.quality]))
        latents = y[:, : config.coarse_channels]
        features = path[:to_eighth](latents)
        pixels = path[to_eighth:](features)
        for factor, x in ((4, features), (8, latents)):
            columns = F.unfold(x, _KERNEL, padding=_KERNEL // 2)[0]
            rows = torch.cat([columns, torch.ones(1, columns.shape[1])])
            wanted = F.pixel_unshuffle(F.avg_pool2d(pixels, factor), 2)[0].flatten(1)
            found = (rows @ rows.T).double(), (rows @ wanted.T).double()
            sums[factor] = tuple(map(torch.add, sums[factor], found)) if factor in sums else found
    return {factor: _solved(*both).T.half().contiguous() for factor, both in sums.items()}


def _solved(squares: Tensor, products: Tensor) -> Tensor:
    ridge = _RIDGE * squares.diagonal().mean() * torch.eye(len(squares), dtype=squares.dtype)
    return torch.linalg.solve(squares + ridge, products)
