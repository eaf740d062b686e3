"""Float entropy networks, layer by layer: what the readers of our models and of CompressAI's give the calibrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["FloatGroup", "FloatLayer"]


@dataclass(eq=False)
class FloatLayer:
    """A stride-1 convolution, then a pixel shuffle, then a leaky ReLU.

    Attributes:
        weight: [out, in, k, k], k odd, padding k // 2.
        bias: [out].
        upsample: of the pixel shuffle, 1 or 2.
        slope: of the leaky ReLU; 0: ReLU, 1: none.
    """

    weight: Tensor
    bias: Tensor
    upsample: int = 1
    slope: float = 1.0


@dataclass(eq=False)
class FloatGroup:
    """What gives a group of channels its means and scales, from contexts in the steps that the integers read.

    Attributes:
        hyper: from the features to their part of the sum of contexts, with the bias of all.
        stack: from the earlier groups to their part of the sum; may be empty.
        skip: one layer beside the stack, to the same; or None.
        spatial: [D, channels, k, k], from the group's own latents to their part of the sum; 0 where they are not known.
            Or None.
        tail: from the activated sum to means, then scales; empty where the sum is that already.
    """

    hyper: FloatLayer
    stack: Sequence[FloatLayer]
    skip: FloatLayer | None
    spatial: Tensor | None
    tail: Sequence[FloatLayer]
