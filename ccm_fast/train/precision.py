"""What of a model stays in float32 under bf16 autocast.

With 8 bits, latents and means of a hundred are known to half a step, and pixels to half a level: 1.5 % of the squared
error at 40.7 dB. What leads to them and between resolutions is therefore computed in float32; the residual branches,
most of the work, add little to much and stay in bf16, on a float32 trunk, and so do the layers of contexts and
hyperprior but for the last ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..models import CrossChannelContextModel
from ..models.transforms import ResidualBlock
from .forwards import wrapped

__all__ = ["float32_trunk"]


def _forward(inner: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return inner(x.float())


@contextmanager
def float32_trunk(model: CrossChannelContextModel) -> Iterator[None]:
    """Inside, the convolutions of g_a and g_s that are not in residual blocks, and those that give z, means and scales,
    ignore autocast.

    Within :func:`ccm_fast.train.convolutions.fast_convolutions` it has to be the inner one.

    Args:
        model: on any device; its layers give float32 of whatever comes in.
    """
    transforms = model.g_a, model.g_s
    blocks = [m for t in transforms for m in t.modules() if isinstance(m, ResidualBlock)]
    inside = {conv for block in blocks for conv in block.modules()}
    trunk = [m for t in transforms for m in t.modules() if isinstance(m, nn.Conv2d) and m not in inside]
    with wrapped((conv, _forward) for conv in [*trunk, model.h_a[-1], *(group.head for group in model.contexts)]):
        yield
