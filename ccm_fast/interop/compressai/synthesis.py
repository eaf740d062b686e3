"""Transforms of CompressAI's nets, arranged for speed on a CPU by :mod:`ccm_fast.models.inference`."""

from __future__ import annotations

from torch import nn

from ccm_fast.models import inference

__all__ = ["fast_transform"]

# Blocks x -> second(first(x)) + skip(x), by the names of their parts: each convolution and its activation. A skip of
# None, or none at all, is the identity.
_BLOCKS = {
    "ResidualBlock": (("conv1", "leaky_relu"), ("conv2", "leaky_relu"), "skip"),
    "ResidualBlockWithStride": (("conv1", "leaky_relu"), ("conv2", "gdn"), "skip"),
    "ResidualBlockUpsample": (("subpel_conv", "leaky_relu"), ("conv", "igdn"), "upsample"),
}


def _block(m: nn.Module) -> nn.Module | None:
    """The fast form of one of CompressAI's residual blocks, or None."""
    first, second, skip = _BLOCKS.get(type(m).__name__, ((), (), ""))
    if not skip or not all(hasattr(m, part) for part in (*first, *second, skip)):
        return None
    parts = []
    for conv, activation in (first, second):
        then = inference.pointwise(getattr(m, activation))
        fast = None if then is None else inference.fast_conv(getattr(m, conv), then)
        if fast is None:
            return None
        parts.append(fast)
    around = getattr(m, skip)
    return inference.Residual(*parts, None if around is None else inference.rebuild(around, _block))


def fast_transform(module: nn.Module) -> nn.Module:
    """A copy of g_a, h_a or g_s for inference; ``module`` itself if it is not float32 on a CPU."""
    return inference.fast_transform(module, _block)
