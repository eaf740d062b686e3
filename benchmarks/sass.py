"""Machine code of a kernel as a machine would meet it: one warp, in order, with the compiler's own control codes.

Every instruction of sm_70 and later carries how many cycles to stall after it, which scoreboard it sets when its result
arrives, and which scoreboards it waits for. With a latency for each instruction of variable duration (memory, shuffles)
that is all that the time of a lone warp depends on, but for branches and the instruction cache.
"""

from __future__ import annotations

import heapq
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "emu"))
ROOMS = ("base", "format", "model", "entropy/cuda")  # what the kernels are made of

SOURCE = re.compile(r'//## File "([^"]+)", line (\d+)')
CODE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+)?\s*([A-Z][^;]*);\s+/\* 0x[0-9a-f]{16} \*/")
CONTROL = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
SECTION = re.compile(r"^\s*\.section\s+\.text\.(\S+?),")
LABEL = re.compile(r"^(\.L_x_\d+):")

TAKEN_BRANCH = 8  # cycles to refill the front end; assumed
OPERANDS_READ = 15  # cycles until a load or store has read its registers; assumed


@dataclass
class Instruction:
    """One instruction; ``lines``: (file, line) of the source, innermost first."""

    address: int
    text: str
    lines: tuple[tuple[str, int], ...]
    stall: int = 0
    sets: int = 7  # scoreboard, 7: none
    reads: int = 7
    waits: int = 0  # mask of scoreboards
    predicate: str = ""
    taken: bool = False

    @property
    def op(self) -> str:
        return self.text.split()[0]

    def within(self, file: str, lines: range | set[int]) -> bool:
        return any(f == file and n in lines for f, n in self.lines)


@dataclass
class Code:
    """Instructions and the positions of their labels."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def target(self, i: Instruction) -> int | None:
        found = re.search(r"(\.L_x_\d+)", i.text) if i.op == "BRA" else None
        return self.labels.get(found[1]) if found else None

    def loops(self) -> list[range]:
        """Instructions from the target of a backward branch to the branch."""
        pairs = ((self.target(i), k) for k, i in enumerate(self.instructions))
        return [range(first, last + 1) for first, last in pairs if first is not None and first <= last]


def compile_kernel(folder: Path, arch: int) -> Path:
    """latents_cuda.cu for one architecture with setup.py's flags, and -lineinfo, which changes no instruction."""
    cubin = folder / f"sm_{arch}.cubin"
    sources = [*(path for room in ROOMS for path in (ROOT / "csrc" / room).iterdir())]
    if not cubin.exists() or cubin.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        compile_file(ROOT / "csrc/entropy/cuda/latents_cuda.cu", folder, arch)
    return cubin


def compile_file(source: Path, folder: Path, arch: int) -> Path:
    """The same of any file, each time."""
    folder.mkdir(parents=True, exist_ok=True)
    cubin = folder / f"sm_{arch}.cubin"
    flags = ["-std=c++17", "-O3", "-lineinfo", "-cubin", f"-arch=sm_{arch}", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["nvcc", *flags, str(source), "-o", str(cubin)], check=True)
    return cubin


def disassemble(cubin: Path, function: str = "") -> Code:
    """Needs nvdisasm: of the toolkit, or `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`.

    ``function``: what the mangled name of the one that is wanted holds.
    """
    import machine_code

    if not (tool := machine_code.tool()):
        sys.exit("needs nvdisasm: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    command = [str(tool.parent / "nvdisasm"), "-gi", "-hex", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout
    code, lines, labels, fresh, wanted = Code(), [], [], True, True
    for line in text.splitlines():
        if found := SECTION.match(line):
            wanted = function in found[1]
        if not wanted:
            continue
        if found := LABEL.match(line):
            labels.append(found[1])
        elif found := SOURCE.search(line):
            if fresh:
                lines, fresh = [], False
            lines.append((found[1].rsplit("/", 1)[-1], int(found[2])))
        elif found := CODE.match(line):
            code.labels.update((label, len(code.instructions)) for label in labels)
            labels, fresh = [], True
            code.instructions.append(
                Instruction(int(found[1], 16), found[3].strip(), tuple(lines), predicate=found[2] or "")
            )
        elif (found := CONTROL.match(line)) and code.instructions and not code.instructions[-1].stall:
            control = int(found[1], 16) >> 41
            i = code.instructions[-1]
            i.stall, i.sets, i.reads, i.waits = control & 15, control >> 5 & 7, control >> 8 & 7, control >> 11 & 63
    return code


def shortest_turn(
    code: Code,
    body: range,
    through: Callable[[Instruction], bool],
    times: int,
    avoid: set[int],
    file: str,
    limit: int = 4000,
) -> list[Instruction]:
    """The shortest way from a loop's head back to it that executes ``times`` instructions of ``through`` and as few as
    possible of ``avoid``, lines of ``file``.
    """
    head = body.start
    heap, seen, number = [(0, 0, head, 0, None)], set(), 0
    while heap:
        cost, _, k, met, path = heapq.heappop(heap)
        if (k, met) in seen:
            continue
        seen.add((k, met))
        i = code.instructions[k]
        lines = {n for f, n in i.lines if f == file}
        cost += 50 if lines & avoid else 1
        met += through(i)
        target = code.target(i)
        ways = [(k + 1, False)] if target is None or i.predicate else []
        if target is not None:
            ways.append((target, True))
        if i.op in ("EXIT", "RET.REL.NODEC", "BRX") and not i.predicate:
            continue
        for to, taken in ways:
            here = (replace(i, taken=taken), path)
            if to == head and taken:
                if met >= times:
                    trace = []
                    while here:
                        trace.append(here[0])
                        here = here[1]
                    return trace[::-1]
                continue
            if abs(to - head) < limit:
                number += 1
                heapq.heappush(heap, (cost, number, to, met, here))
    raise ValueError(f"no way {times} times through what is looked for in {file}")


def cycles(trace: list[Instruction], latency: Callable[[Instruction], float], warps: int = 1) -> float:
    """Cycles of a lone warp, or the issue slots of ``warps`` of them on one scheduler if that is more."""
    now, ready = 0.0, [0.0] * 8
    for i in trace:
        for s in range(6):
            if i.waits >> s & 1:
                now = max(now, ready[s])
        if i.sets < 6:
            ready[i.sets] = max(ready[i.sets], now + latency(i))
        if i.reads < 6:
            ready[i.reads] = max(ready[i.reads], now + OPERANDS_READ)
        now += max(1, i.stall) + (TAKEN_BRANCH if i.taken else 0)
    return max(now, warps * len(trace))


def per_round(trace: list[Instruction], latency: Callable[[Instruction], float], warps: int = 1) -> float:
    """Cycles of one more turn of a loop."""
    lone = (cycles(trace * 12, latency) - cycles(trace * 4, latency)) / 8
    return max(lone, warps * len(trace))
