"""Everything that is to be known about the CUDA engine on a machine with a GPU; `make gpu-check` builds and calls this.

In parts, the most valuable first, each in a process of its own with a time limit, so that one that hangs or fails costs
no other its results (gpu_parts.py says what they do):

    exact       four photographs at three qualities: latents equal to the CPU engine's; latency of each stage
    lanes       decode_z and decode_y of these with 0 (as chosen), 8, 16 and 32 lanes
    batch       64 photographs at once: latents, images a second
    whole       from file to pixels, as `ccm-fast profile --graph` tells it
    mbt2018     nets of CompressAI, on a GPU that nobody else uses (dropin_gpu.py)
    encode      photographs to streams on the GPU, one and in batches
    filters     picture filters of one photograph and of 64, by the kernel and by torch's operators
    tests       tests/test_gpu.py
    kernels     `ccm-fast bench kernels --device cuda`
    sanitizers  tests/test_gpu.py under each tool of compute-sanitizer, where that is installed
    all         the other photographs, as in "exact"

Results lie in a file a part, written as they come, and in summary.json. Whatever is left when --seconds are over, and
what failed, is done by the next call; what is done stays done until --fresh. Needs no network. The last line says "ok"
or what failed or is left, the exit status too. With --emulated, latents of all photographs by the emulated kernels on
any machine (its seconds mean nothing).

    python benchmarks/gpu_check.py [--images FOLDER] [--seconds 720] [--only exact lanes] [--fresh]
    python benchmarks/gpu_check.py --emulated --images FOLDER [--crop 256 192]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    """Something to be measured: the command that does it, and the most seconds that it may take."""

    name: str
    seconds: float
    command: tuple[str, ...]


def parts_of(args: argparse.Namespace) -> list[Part]:
    """All parts, the most valuable first."""
    python = sys.executable

    def own(name: str, seconds: float) -> Part:
        command = [python, str(HERE / "gpu_parts.py"), name, "--out", str(args.out), "--model", args.model]
        command += ["--repeats", str(args.repeats)]
        return Part(name, seconds, (*command, *(["--images", str(args.images)] if args.images else [])))

    bench = (python, "-m", "ccm_fast", "bench", "kernels", "--device", "cuda", "--out", str(args.out))
    return [
        own("exact", 90),
        own("lanes", 120),
        own("batch", 60),
        own("whole", 60),
        Part("mbt2018", 120, (python, str(HERE / "dropin_gpu.py"), "--repeats", "10")),
        own("encode", 60),
        own("filters", 30),
        own("tests", 120),
        Part("kernels", 60, bench),
        own("sanitizers", 240),
        own("all", 120),
    ]


def run(part: Part, seconds: float) -> str:
    """Do a part in so many seconds: "done", "failed", or "out of time", after which none of its processes is left."""
    process = subprocess.Popen(part.command, cwd=ROOT, start_new_session=True)
    try:
        return "failed" if process.wait(timeout=seconds) else "done"
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:  # of the part's own session, if any is left: sanitizers' and tests' children, too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_parts(parts: list[Part], out: Path, seconds: float, clock: Callable[[], float] = time.monotonic) -> dict:
    """Do what an earlier call has not done, as far as the time goes; summary.json is written after each part."""
    summary = out / "summary.json"
    found: dict[str, dict] = json.loads(summary.read_text()) if summary.exists() else {}
    end = clock() + seconds
    for part in parts:
        if found.get(part.name, {}).get("status") == "done":
            continue
        start = clock()
        limit = min(part.seconds, end - start)
        if limit < 5:
            found[part.name] = {"status": "left"}
        else:
            print(f"gpu-check: {part.name}, at most {limit:.0f} s", flush=True)
            found[part.name] = {"status": run(part, limit), "seconds": round(clock() - start, 1)}
            print(f"gpu-check: {part.name} {found[part.name]}", flush=True)
        summary.write_text(json.dumps(found, indent=1) + "\n")  # a borrowed GPU may go at any time
    return found


def main() -> None:
    """Run what is to be run; the exit status says whether all is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of PNG files, such as the Kodak set")
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu_check", help="a folder")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=720.0, help="of all parts")
    parser.add_argument("--only", nargs="+", help="these parts, in the usual order")
    parser.add_argument("--fresh", action="store_true", help="forget what is done")
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--qualities", type=float, nargs="+", default=[2, 4, 6], help="--emulated: of the photographs")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("W", "H"), help="--emulated: the middle of each alone")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.images and not any(args.images.glob("*.png")):
        sys.exit(f"gpu-check: {args.images} has no PNG files")
    if args.emulated:
        import gpu_parts

        sys.exit(gpu_parts.emulated(args))
    if args.fresh:
        for old in args.out.glob("*.json"):
            old.unlink()
    parts = [p for p in parts_of(args) if not args.only or p.name in args.only]
    if args.only and (unknown := set(args.only) - {p.name for p in parts}):
        sys.exit(f"gpu-check: there is no part {', '.join(sorted(unknown))}")
    found = run_parts(parts, args.out, args.seconds)
    wrong = [f"{p.name} ({found[p.name]['status']})" for p in parts if found[p.name]["status"] != "done"]
    print("not done: " + ", ".join(wrong) if wrong else "ok")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
