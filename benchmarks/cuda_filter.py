"""What the picture filter's kernel should take: a prediction from its machine code, as cuda_cost.py predicts the rest.

    python benchmarks/cuda_filter.py     compiles the kernel; writes results/cuda_filter.json, which cuda_cost.py shows

A multiprocessor's time is the most of four: a warp's way through its tiles, with the latencies of what it waits for,
the instructions of all warps, their turns at shared memory, and the bytes that come through L2. Branches that a
photograph does not take are counted, too.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import sass
from cuda_nets import SIZES
from cuda_pieces import BANDS, GPUS, L2_BYTES, LAUNCH, SCHEDULERS, UNUSUAL, Gpu

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "csrc/transforms/cuda/picture_filter_cuda.cu"
RESULT = ROOT / "benchmarks/results/cuda_filter.json"
POSITION = 16  # pixels of a latent position's side


def _constant(name: str) -> int:
    found = re.search(rf"\b{name} = (\d+)", SOURCE.read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"{SOURCE.name} no longer has {name}: the prediction has to follow")
    return int(found[1])


TILE, THREADS = (_constant("kTileRows"), _constant("kTileColumns")), _constant("kThreads")
AROUND = TILE[0] + 2 * 3, TILE[1] + 2 * _constant("kBefore")  # rows, columns that are read
CLASSES = 8  # the most that an encoder sends
PIXEL_BYTES = 12  # three floats
RESIDENT = 4  # blocks of a multiprocessor, by registers
WEIGHT_TURNS = 2  # of a 16-byte load whose lanes have different classes; assumed
# A warp's turns of each loop: (function whose lines the loop has, turns).
WORDS = AROUND[0] * AROUND[1] / 2
LOOPS = {
    "read_tile": WORDS / THREADS,
    "read_weights": CLASSES * 54 / THREADS,
    "differ_tile": (TILE[0] + 2) * AROUND[1] / 2 / THREADS,
    "filter_tile": TILE[0] * 32 / THREADS,
}


def _lines(function: str) -> range:
    """Of the source: from a function's head to its end."""
    lines = SOURCE.read_text(encoding="utf-8").splitlines()
    first = next(n for n, line in enumerate(lines, 1) if f" {function}(" in line and line.startswith("CCM_DEVICE"))
    return range(first, next(n for n, line in enumerate(lines, 1) if n > first and line == "}") + 1)


def _loops(code: sass.Code) -> dict[str, list[sass.Instruction]]:
    """The outermost loop of each function, with what is inlined into it; of filter_tile the one for three colours."""
    found: dict[str, list[sass.Instruction]] = {}
    for body in sorted(code.loops(), key=len, reverse=True):
        trace = [code.instructions[k] for k in body]
        for function in LOOPS:
            if any(i.within(SOURCE.name, _lines(function)) for i in trace):
                found.setdefault(function, trace)
    classify = _lines("classify")
    inner = min(
        (b for b in code.loops() if any(code.instructions[k].within(SOURCE.name, classify) for k in b)), key=len
    )
    found["bound"] = [code.instructions[k] for k in inner]
    return found


def _latency(gpu: Gpu, scale: float) -> Callable[[sass.Instruction], float]:
    def latency(i: sass.Instruction) -> float:
        if i.op.startswith("LDG"):
            return gpu.l2 * scale
        if i.op.startswith("LDS"):
            return gpu.shared_load * scale
        return UNUSUAL * scale

    return latency


def measured(gpu: Gpu) -> dict:
    """Instructions and turns at shared memory of a warp, and its cycles alone in each band."""
    with tempfile.TemporaryDirectory() as folder:
        loops = _loops(sass.disassemble(sass.compile_file(SOURCE, Path(folder), gpu.arch)))
    turns = {**LOOPS, "bound": LOOPS["filter_tile"] * (CLASSES - 2)}  # one turn is among filter_tile's instructions

    def shared(i: sass.Instruction) -> float:
        width = 4 if ".128" in i.op else 2 if ".64" in i.op else 1
        return 0 if not i.op.startswith(("LDS", "STS")) else WEIGHT_TURNS if width == 4 else width

    return {
        "instructions": sum(turns[k] * len(v) for k, v in loops.items()),
        "shared": sum(turns[k] * sum(map(shared, v)) for k, v in loops.items()),
        "alone": {
            band: sum(turns[k] * sass.cycles(v, _latency(gpu, scale)) for k, v in loops.items())
            for band, scale in BANDS.items()
        },
    }


def microseconds(found: dict, gpu: Gpu, size: str, band: str) -> float:
    """Of one picture, from g_s's floats to samples."""
    h, w = (POSITION * side for side in SIZES[size])
    tiles = -(-h // TILE[0]) * -(-w // TILE[1])
    blocks = -(-tiles // gpu.multiprocessors)
    warps = blocks * THREADS / 32
    moved = blocks * (AROUND[0] * AROUND[1] * PIXEL_BYTES + 3 * TILE[0] * TILE[1])
    busy = max(warps * found["instructions"] / SCHEDULERS, warps * found["shared"], moved / L2_BYTES)
    return max(-(-blocks // RESIDENT) * found["alone"][band], busy) / gpu.clock / 1e3 + LAUNCH * BANDS[band]


def main() -> None:
    """Compile, and write the results."""
    gpu = GPUS["H100"]
    found = measured(gpu)
    found["us"] = {size: {band: microseconds(found, gpu, size, band) for band in BANDS} for size in SIZES}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
