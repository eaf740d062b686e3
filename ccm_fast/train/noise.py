"""Simulates int8 weights and activations by uniform noise, so that a float entropy model trains for freezing.

Freezing turns weights and activations of the entropy model into bytes. What a float model is not told of it may lean
on: weights of one output that differ by a factor of thousands, activations of whose range a thousandth matters. Uniform
noise of the width of the steps (as for quantized latents, Balle et al. 2017, arXiv 1611.01704) tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ccm_fast.freezing.layers import WEIGHT_MAX

from ..models import CrossChannelContextModel
from .forwards import wrapped

__all__ = ["quantization_noise"]


def _noise(like: Tensor, largest: Tensor, steps: int) -> Tensor:
    return (torch.rand_like(like) - 0.5) * (largest / steps)


def _forward(conv: nn.Conv2d, bytes_in: bool, inner: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if bytes_in:
        x = x + _noise(x, x.detach().amax((0, 2, 3), keepdim=True), 255)
    weight = conv.weight
    noisy = weight + _noise(weight, weight.detach().abs().amax((1, 2, 3), keepdim=True), WEIGHT_MAX)
    conv._parameters["weight"] = noisy  # in its place: the order of parameters is the averages'
    try:
        return inner(x)
    finally:
        conv._parameters["weight"] = weight


def _convolutions(model: CrossChannelContextModel) -> Iterator[tuple[nn.Conv2d, bool]]:
    """Those that become integers, and whether they read bytes after a ReLU (and not latents)."""
    for k, conv in enumerate(m for m in model.h_s if isinstance(m, nn.Conv2d)):
        yield conv, k > 0
    for group in model.contexts:
        yield from ((conv, k > 0) for k, conv in enumerate(group.stack))
        yield from ((conv, False) for conv in (group.spatial, group.skip) if conv is not None)
        yield from ((conv, True) for conv in (group.hyper, *group.hidden, group.head))


@contextmanager
def quantization_noise(model: CrossChannelContextModel) -> Iterator[None]:
    """Inside, the model's h_s and contexts compute with noise in the place of int8's rounding.

    Of weights by the largest one of each output; of activations by the largest one of each channel in the batch. Within
    :func:`ccm_fast.train.convolutions.fast_convolutions` it has to be the inner one.
    """
    with wrapped((conv, partial(_forward, conv, bytes_in)) for conv, bytes_in in _convolutions(model)):
        yield
