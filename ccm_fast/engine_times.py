"""How long the engines are predicted to take for the latents of given images: what the choice between them goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._backend import native
from .stream.packet import Packet, Stream

if TYPE_CHECKING:
    import torch

    from .entropy.plan import Plan

__all__ = ["Gpu", "cpu_seconds", "gpu_of", "gpu_seconds"]

# GPU: predicted for an H100 by the calibrated cost model (docs/cuda.md; tests/test_cuda_cost.py compares). Seconds of
# everything that happens once, of a step of the longest group and for each byte of weights that a step multiplies, of a
# round of the longest stream, and, where more images come than run side by side, of a latent position.
_GPU_ONCE, _GPU_STEP, _GPU_STEP_BYTE = 0.25e-3, 15e-6, 25e-12
_GPU_ROUND = 0.135e-6
_GPU_POSITION = 0.13e-6

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
    """Of images of equal size on a GPU.

    A round of rANS takes as long with one lane as with 32, and a stream's rounds and a group's steps follow each other:
    one image takes as long as a few dozen.
    """
    h, w = packets[0].y_shape
    schedules = [plan.schedule_of(g) for g in range(len(plan.group_channels))]
    steps = max(s.row_step * (h - 1) + s.col_step * (w - 1) + max(map(max, s.pattern)) + 1 for s in schedules)
    rounds = max(
        _coded(plan, h * w * channels, Stream(*stream)) / Stream(*stream).lanes
        for packet in packets
        for channels, stream in zip(plan.group_channels, packet.y_streams, strict=True)
    )
    one = _GPU_ONCE + steps * (_GPU_STEP + _sizes(plan)[1] * _GPU_STEP_BYTE) + rounds * _GPU_ROUND
    all_of_them = len(packets) * h * w * _GPU_POSITION * 132 / gpu.multiprocessors
    return max(one, all_of_them) / gpu.clock


def cpu_seconds(plan: Plan, packets: Sequence[Packet], threads: int) -> float:
    """Of images of equal size, an image a thread."""
    h, w = packets[0].y_shape
    one = _sizes(plan)[0] / _CPU_PRODUCTS.get(native().isa_list().split(",")[0], _CPU_PRODUCTS["avx2"])
    one += sum(plan.group_channels) * _CPU_SYMBOL
    return h * w * one * -(-len(packets) // max(1, threads))
