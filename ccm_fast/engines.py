"""Run-time helpers of encoder and decoder: the frozen model, the choice of an engine, threads."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ._backend import has_cuda
from .engine_times import cpu_seconds, gpu_of, gpu_seconds
from .errors import NotFrozenError
from .openmp import set_threads
from .stream.packet import Packet
from .timing import stage

if TYPE_CHECKING:
    from ccm_fast.entropy.frozen import FrozenEntropyModel

    from .models import CrossChannelContextModel

__all__ = [
    "accelerated",
    "decoding_engine",
    "engine_for",
    "frozen_of",
    "on_cpu_by_default",
    "stage",
    "torch_threads",
]

_F = TypeVar("_F", bound=Callable)

#: As csrc/torch/ops_common.h.
MAX_THREADS = 1024


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


def accelerated(model: object) -> Any:
    """What :func:`ccm_fast.accelerate` made of a net of CompressAI, or None for models of our own."""
    return getattr(model, "accelerated", None)


def decoding_engine(
    engine: str | None, device: torch.device, frozen: FrozenEntropyModel, packets: Sequence[Packet], threads: int | None
) -> str:
    """The engine that decodes these images, of equal size, soonest: a prediction where None leaves the choice.

    By sizes of the model and of the images, lanes and bytes of the streams, what the GPU's driver says of it, the
    processor's kernels and the threads (:mod:`ccm_fast.engine_times`): single images with few lanes for many coded
    symbols are faster on a processor, batches and many lanes on the GPU.

    Args:
        engine: the caller's; None: chosen.
        device: where the model is.
        frozen: the integer entropy model.
        packets: the images.
        threads: of the CPU engine; None: torch's setting.
    """
    if engine_for(engine, device) != "cuda" or engine:
        return engine_for(engine, device)
    on_gpu = gpu_seconds(frozen.plan, packets, gpu_of(device))
    return "cuda" if on_gpu < cpu_seconds(frozen.plan, packets, threads or torch.get_num_threads()) else "cpu"


def engine_for(engine: str | None, device: torch.device) -> str:
    """The entropy engine for a model on ``device``.

    None becomes "cuda" if that is a GPU and the build has it, else "cpu". Which one decodes given images sooner,
    :func:`decoding_engine` says.
    """
    return engine or ("cuda" if device.type == "cuda" and has_cuda() else "cpu")


def on_cpu_by_default(function: _F) -> _F:
    """The function, whose new tensors are on the CPU whatever `torch.set_default_device` says."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if torch.get_default_device().type == "cpu":
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return call


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Run torch with so many threads (None: as it is set) in this thread alone; yields the number."""
    if threads is None:
        yield torch.get_num_threads()
        return
    try:
        threads = operator.index(threads)
    except TypeError:
        raise TypeError(f"threads must be a whole number, not {threads!r}") from None
    if not 1 <= threads <= MAX_THREADS:  # more end the process inside of OpenMP
        raise ValueError(f"threads must lie in 1..{MAX_THREADS}, not be {threads}")
    restore = set_threads(threads)
    try:
        yield threads
    finally:
        restore()
