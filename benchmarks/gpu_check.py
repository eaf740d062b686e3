"""Everything that is to be known about the CUDA engine on a machine with a GPU; `make gpu-check` builds and calls this.

1. tests/test_gpu.py, and once more under each tool of compute-sanitizer where that is installed (--quick: not);
2. every image of the folder, compressed with a shipped model at three qualities: the latents of its strings by the CUDA
   engine and by the CPU engine, which must be equal;
3. the latency of each stage: CUDA events, median and quartiles over repeats, the L2 cache emptied before each; and of
   the first three images from file to pixels, as `ccm-fast profile --graph` tells it.

Results of 2. are written as they come; --limit S begins no image after S seconds, --resume goes on where --out ends.
Needs no network. The last line says "ok" or what failed, the exit status too. The JSON has the environment. With
--emulated, 2. alone, by the emulated kernels on any machine (its seconds mean nothing).

    python benchmarks/gpu_check.py [--images FOLDER] [--model ccm-small] [--repeats 20] [--emulated]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/emu")]
import ccm_fast  # noqa: E402
from ccm_fast import _backend  # noqa: E402
from ccm_fast.command.profile import profile, report  # noqa: E402
from ccm_fast.decoding import parse_packets  # noqa: E402
from ccm_fast.environment import collect  # noqa: E402

QUALITIES = (2.0, 4.0, 6.0)
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")

# Without torch's pool, which hides overruns; a graph cannot be captured without it.
SANITIZED = {"ccm or deep": {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "graph": {}}


def run_tests(quick):
    """Exit statuses of the GPU tests, plain and under each sanitizer."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]
    results = {"plain": subprocess.run(pytest, cwd=ROOT).returncode}
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if quick or not tool:
        print("gpu-check: not run under compute-sanitizer:", "--quick" if quick else "it was not found")
        return results
    for name in SANITIZERS:
        for tests, more in SANITIZED.items():
            command = [tool, "--tool", name, "--error-exitcode", "9", *pytest, "-k", tests]
            status = subprocess.run(command, cwd=ROOT, env={**os.environ, **more}).returncode
            results[name] = results.get(name) or status
    return results


def latencies(call, repeats, device="cuda"):
    """Milliseconds: median and quartiles. `call` once to warm up, then with a cold L2 each time."""
    scratch = torch.empty(256 << 20, dtype=torch.uint8, device=device)  # larger than any L2
    call()
    times = []
    for _ in range(repeats):
        scratch.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    low, median, high = np.percentile(times, [25, 50, 75])
    return {"median_ms": float(median), "quartiles_ms": [float(low), float(high)], "repeats": repeats}


def joined(streams):
    """Streams of one image -> data uint8, segments int64 [1, streams, 3] (offset, length, lanes)."""
    data = b"".join(s[0] for s in streams)
    ends = np.cumsum([len(s[0]) for s in streams])
    rows = [(int(end) - len(s[0]), len(s[0]), s[1]) for end, s in zip(ends, streams)]
    return torch.frombuffer(bytearray(data), dtype=torch.uint8), torch.tensor([rows], dtype=torch.int64)


def compare(model, image, quality, ops, device, repeats):
    """The CUDA engine against the CPU engine on one image; `equal` says whether all was."""
    frozen, cpu = model.frozen, _backend.load().ops
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    strings = ccm_fast.compress(model, x, quality)
    (packet,) = parse_packets(frozen, **strings)
    (hz, wz), (h, w) = packet.z_shape, packet.y_shape
    z = frozen.decode_z([packet.z_stream], hz, wz)
    psi = cpu.hyper(frozen.packed(), z, h, w, 1)
    y = frozen.decode_y(psi, [packet.y_streams])
    z_data, z_parts = joined([packet.z_stream])
    y_data, y_parts = joined(packet.y_streams)
    z_parts = z_parts[0]

    packed = ops.pack_plan_cuda(torch.frombuffer(bytearray(frozen.to_bytes()), dtype=torch.uint8))
    zd, zp, yd, yp = (t.to(device) for t in (z_data, z_parts, y_data, y_parts))
    threads = 0 if device == "cpu" else 1
    start = time.perf_counter()
    z2, z_status = ops.decode_z(packed, zd, zp, hz, wz, threads)
    psi2 = ops.hyper(packed, z2, h, w, threads)
    y2, y_status = ops.decode_y(packed, psi2, yd, yp, threads)
    equal = torch.equal(z2.cpu(), z) and torch.equal(psi2.cpu(), psi) and torch.equal(y2.cpu(), y)
    record = {"quality": quality, "latents": [h, w], "bytes": z_data.numel() + y_data.numel()}
    record["equal"] = bool(equal and not z_status.any() and not y_status.any())
    record["first_call_s"] = time.perf_counter() - start
    if device != "cpu":
        record["stages"] = {
            "decode_z": latencies(lambda: ops.decode_z(packed, zd, zp, hz, wz, 1), repeats, device),
            "hyper": latencies(lambda: ops.hyper(packed, z2, h, w, 1), repeats, device),
            "decode_y": latencies(lambda: ops.decode_y(packed, psi2, yd, yp, 1), repeats, device),
        }
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of PNG files, such as the Kodak set")
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--qualities", type=float, nargs="+", default=[2, 4, 6])
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu_check.json")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="no sanitizers")
    parser.add_argument("--no-tests", action="store_true", help="none of 1.")
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--resume", action="store_true", help="leave out the images that --out has already")
    parser.add_argument("--limit", type=float, default=0, metavar="S", help="begin no image after so many seconds")
    args = parser.parse_args()
    result = {"environment": collect(), "tests": {}, "images": []}
    if args.emulated:
        import build

        torch.ops.load_library(str(build.build_ops()))
        ops, device = torch.ops.ccm_fast_emu, "cpu"
    else:
        if not torch.cuda.is_available():
            sys.exit("gpu-check: torch sees no GPU here (torch.cuda.is_available() is False)")
        if not _backend.build_info().get("cuda"):
            sys.exit("gpu-check: this build has no CUDA kernels: CCM_CUDA=1 python setup.py build_ext --inplace")
        ops, device = _backend.load().ops, "cuda"
        if not args.no_tests:
            result["tests"] = run_tests(args.quick)
            print(json.dumps(result["tests"]))
    files = sorted(args.images.glob("*.png")) if args.images else []
    if args.images and not files:
        sys.exit(f"gpu-check: {args.images} has no PNG files")
    model = ccm_fast.load(args.model)  # on the CPU, where the strings are made; profile() moves it
    started = time.monotonic()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    known = set()
    if args.resume and args.out.exists():
        result["images"] = json.loads(args.out.read_text())["images"]
        known = {(r["file"], r["quality"]) for r in result["images"]}
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB"))
        for quality in args.qualities:
            if (file.name, quality) in known:
                continue
            if args.limit and time.monotonic() - started > args.limit:
                sys.exit(f"gpu-check: {args.limit:g} s are over; go on with --resume")
            record = {"file": file.name, **compare(model, image, quality, ops, device, args.repeats)}
            result["images"].append(record)
            args.out.write_text(json.dumps(result, indent=1) + "\n")  # a borrowed GPU may go at any time
            stages = {k: round(v["median_ms"], 3) for k, v in record.get("stages", {}).items()}
            verdict = "equal" if record["equal"] else "DIFFERENT"
            print(f"{file.name} {quality:g} {verdict} {record['first_call_s']:.1f} s", stages or "", flush=True)
    if files and not args.emulated:
        result["profile"] = profile(files[:3], model, device="cuda", repeats=args.repeats, graph=True)
        print(report(result["profile"]))
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    failed = [f"tests under {name}" for name, status in result["tests"].items() if status]
    failed += [f"{r['file']} at quality {r['quality']:g}" for r in result["images"] if not r["equal"]]
    print("failed: " + ", ".join(failed) if failed else "ok")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
