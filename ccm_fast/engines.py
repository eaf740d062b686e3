"""What both directions of the codec run with: the model's integer half, an engine, threads, and a clock."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ._backend import has_cuda
from .errors import NotFrozenError
from .timing import stage

if TYPE_CHECKING:
    from ccm_fast.entropy.frozen import FrozenEntropyModel

    from .models import CrossChannelContextModel

__all__ = ["accelerated", "engine_for", "frozen_of", "stage", "stream_version", "torch_threads"]


def frozen_of(model: CrossChannelContextModel) -> FrozenEntropyModel:
    """The model's integer entropy model. Raises NotFrozenError if there is none, TypeError for what is no model."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is needed, as ccm_fast.load(name) gives, not {type(model).__name__}")
    if getattr(model, "frozen", None) is None:
        raise NotFrozenError(
            "the model has no integer entropy model: call ccm_fast.freeze(model, images) first (for nets of CompressAI:"
            " ccm_fast.accelerate(net)), or take a frozen one from ccm_fast.load(name)"
        )
    return model.frozen


def accelerated(model):
    """What :func:`ccm_fast.accelerate` made of a net of CompressAI, or None for models of our own."""
    return getattr(model, "accelerated", None)


def engine_for(engine: str | None, device: torch.device, version: int = 1) -> str:
    """The entropy engine for a model on ``device``.

    None becomes "cuda" if that is a GPU, the build has it, and it knows streams of this version; else "cpu".
    """
    return engine or ("cuda" if device.type == "cuda" and has_cuda() and version <= stream_version("cuda") else "cpu")


def stream_version(engine: str) -> int:
    """The version of the streams that an engine writes, and the newest that it reads."""
    return 1 if engine == "cuda" else 2


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Run torch with so many threads (None: as it is set); yields the number. torch's setting is global."""
    before = torch.get_num_threads()
    if threads is None:
        yield before
        return
    try:
        threads = operator.index(threads)
    except TypeError:
        raise TypeError(f"threads must be a whole number, not {threads!r}") from None
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)
