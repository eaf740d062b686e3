"""How long the engines are predicted to take for the latents of given images: what the choice between them goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ._backend import native
from .stream.packet import Packet, Stream

if TYPE_CHECKING:
    import torch

    from .entropy.plan import Plan
    from .entropy.schedule import Schedule

__all__ = ["Gpu", "cpu_seconds", "gpu_of", "gpu_seconds", "gpu_seconds_of"]

# GPU: predicted for an H100 by the calibrated cost model (docs/cuda.md; tests/test_cuda_cost.py compares). Seconds of
# 16 positions of a step and for each byte of weights that these are multiplied with, of a round of a stream, and, where
# more images come than run side by side, of a latent position; steps by which a group starts behind the one before it.
_GPU_CHUNK, _GPU_CHUNK_BYTE = 2.75e-6, 18e-12
# Chunks of a step side by side, 4 blocks a group, where there are as many: what each but the first one adds to a step.
_GPU_BESIDE, _GPU_SLOTS = 0.6, 4
# A group with so many bytes of weights has them in other multiprocessors' memory, 20 of them, where there are as many.
_GPU_CREW_BYTES, _GPU_CREW, _GPU_CREW_CHUNK = 540_000, 20, 8e-6
_GPU_ROUND = 0.115e-6
_GPU_POSITION = 0.06e-6
_GPU_OFFSET = 25

# CPU: the context's products at what kernels reach on one core, and rANS with everything else, a symbol. Measured with
# ccm-small and mbt2018: avx512vnni (386 Gmac/s), avx2 (69), scalar (2); the others after their width.
_CPU_PRODUCTS = {
    "avx512amx": 386e9,
    "avx512vnni": 386e9,
    "avxvnni": 193e9,
    "avx2": 69e9,
    "neon": 69e9,
    "scalar": 2e9,
}
_CPU_SYMBOL = 8.4e-9

# Bytes say how many symbols are coded where a plan leaves some out: groups of photographs have 0.35 to 2 bits a coded
# symbol (qualities 2 to 6), the long streams the fewest.
_SYMBOLS_A_BYTE = 16


@dataclass(frozen=True)
class Gpu:
    """What is known of a GPU: multiprocessors, and its clock beside the 1.98 GHz of an H100.

    Latencies in cycles differ little from one generation to the next.
    """

    multiprocessors: int = 132
    clock: float = 1.0


def gpu_of(device: torch.device) -> Gpu:
    """The GPU's, as its driver says."""
    import torch

    found = torch.cuda.get_device_properties(device)
    kilohertz = getattr(found, "clock_rate", 0)  # not every torch tells it
    return Gpu(found.multi_processor_count, kilohertz / 1.98e6 if kilohertz else 1.0)


def _sizes(plan: Plan) -> tuple[int, int]:
    """Multiply-adds of the context a latent position, and bytes of weights of the widest group's step."""
    macs, widest = 0, 0
    for group in plan.groups:
        step = group.weight.size + sum(c.weight.size for c in group.hidden)
        step += group.head.weight.size if group.head else 0
        others = [group.hyper, *group.stack, *([group.skip] if group.skip else [])]
        macs += step + sum(c.weight.size for c in others)
        widest = max(widest, step)
    return macs, widest


def _coded(plan: Plan, symbols: int, stream: Stream) -> int:
    """About how many of a group's symbols are coded."""
    return symbols if plan.skip < 0 else min(symbols, _SYMBOLS_A_BYTE * len(stream.data))


def gpu_seconds(plan: Plan, packets: Sequence[Packet], gpu: Gpu) -> float:
    """Of images of equal size on a GPU."""
    positions = packets[0].y_shape[0] * packets[0].y_shape[1]
    rounds = [
        max(_coded(plan, positions * c, s) / s.lanes for s in (Stream(*p.y_streams[g]) for p in packets))
        for g, c in enumerate(plan.group_channels)
    ]
    return gpu_seconds_of(plan, packets[0].y_shape, len(packets), rounds, gpu)


@lru_cache(maxsize=64)
def _chunks(schedule: Schedule, h: int, w: int) -> tuple[int, int]:
    """Steps, and chunks of 16 positions of them."""
    counts = np.bincount(schedule.steps(h, w).ravel())
    return int(np.count_nonzero(counts)), int((-(-counts // 16)).sum())


def gpu_seconds_of(plan: Plan, shape: tuple[int, int], images: int, rounds: Sequence[float], gpu: Gpu) -> float:
    """The same, of images with latents of a shape, whose groups' streams have so many rounds.

    A round of rANS takes as long with one lane as with 32, and a stream's rounds and a group's steps follow each other:
    one image takes as long as a few dozen.
    """
    h, w = shape
    weights = _sizes(plan)[1]
    crew = weights > _GPU_CREW_BYTES and images * len(rounds) * (1 + _GPU_CREW) <= gpu.multiprocessors
    chunk = _GPU_CREW_CHUNK if crew else _GPU_CHUNK + weights * _GPU_CHUNK_BYTE
    start = one = 0.0
    for g, own in enumerate(rounds):
        steps, chunks = _chunks(plan.schedule_of(g), h, w)
        if 1 < steps < chunks and images * len(rounds) * _GPU_SLOTS <= gpu.multiprocessors:
            chunks = steps + _GPU_BESIDE * (chunks - steps)
        seconds = chunks * chunk + own * _GPU_ROUND
        one = max(one, start + seconds)
        start += min(steps, _GPU_OFFSET) * seconds / steps
    all_of_them = images * h * w * _GPU_POSITION * 132 / gpu.multiprocessors
    return max(one, all_of_them) / gpu.clock


def cpu_seconds(plan: Plan, packets: Sequence[Packet], threads: int) -> float:
    """Of images of equal size, an image a thread."""
    h, w = packets[0].y_shape
    one = _sizes(plan)[0] / _CPU_PRODUCTS.get(native().isa_list().split(",")[0], _CPU_PRODUCTS["avx2"])
    one += sum(plan.group_channels) * _CPU_SYMBOL
    return h * w * one * -(-len(packets) // max(1, threads))
