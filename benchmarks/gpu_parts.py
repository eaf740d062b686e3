"""What `make gpu-check` measures, part by part; gpu_check.py runs each in a process of its own.

python benchmarks/gpu_parts.py PART --out FOLDER [--images FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/emu")]
import ccm_fast  # noqa: E402
from ccm_fast import _backend  # noqa: E402
from ccm_fast.command.profile import profile, report  # noqa: E402
from ccm_fast.decoding import decode_latents, parse_packets  # noqa: E402
from ccm_fast.environment import collect  # noqa: E402
from ccm_fast.picture_filter import PictureFilter, levels_of, records_of  # noqa: E402

QUALITIES = (2.0, 4.0, 6.0)
FIRST = ("kodim05.png", "kodim13.png", "kodim15.png", "kodim19.png")
LANES = (0, 8, 16, 32)  # 0: as the encoder chooses
BATCH = 64
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")

# Without torch's pool, which hides overruns; a graph cannot be captured without it.
SANITIZED = {"ccm or deep": {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "graph": {}}


class Results:
    """Records of a part in a JSON file, which is written after each one and found again by the next call."""

    def __init__(self, file: Path):
        self.file = file
        self.records: list[dict] = json.loads(file.read_text())["records"] if file.exists() else []
        file.parent.mkdir(parents=True, exist_ok=True)

    def has(self, **key) -> bool:
        return any(all(r.get(k) == v for k, v in key.items()) for r in self.records)

    def add(self, record: dict) -> None:
        self.records.append(record)
        print(json.dumps(record), flush=True)
        text = json.dumps({"environment": collect(), "records": self.records}, indent=1)
        self.file.write_text(text + "\n", encoding="utf-8")


def load_picture(file: Path, crop: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, 3]; ``crop``: (width, height) of its middle."""
    with Image.open(file) as image:
        picture = np.asarray(image.convert("RGB"))
    if not crop:
        return picture
    (h, w), (width, height) = picture.shape[:2], crop
    top, left = max(0, (h - height) // 2), max(0, (w - width) // 2)
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def tensor_of(picture: np.ndarray) -> torch.Tensor:
    """float32 [1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def latencies(call: Callable, repeats: int, device: str = "cuda") -> dict:
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


def joined(images: list[list]) -> tuple[torch.Tensor, torch.Tensor]:
    """Streams of images -> data uint8, segments int64 [images, streams, 3] (offset, length, lanes)."""
    data, rows, at = [], [], 0
    for streams in images:
        rows.append([])
        for stream in streams:
            rows[-1].append((at, len(stream[0]), stream[1]))
            data.append(stream[0])
            at += len(stream[0])
    return torch.frombuffer(bytearray(b"".join(data)), dtype=torch.uint8), torch.tensor(rows, dtype=torch.int64)


class Queued:
    """Images of one size on a device, and the operators that decode them there."""

    def __init__(self, model, packets: list, ops, device):
        self.ops, self.threads = ops, 0 if str(device) == "cpu" else 1
        (self.hz, self.wz), (self.h, self.w) = packets[0].z_shape, packets[0].y_shape
        z_data, z_parts = joined([[p.z_stream] for p in packets])
        y_data, y_parts = joined([p.y_streams for p in packets])
        self.bytes = z_data.numel() + y_data.numel()
        self.packed = ops.pack_plan_cuda(torch.frombuffer(bytearray(model.frozen.to_bytes()), dtype=torch.uint8))
        self.zd, self.zp, self.yd, self.yp = (t.to(device) for t in (z_data, z_parts[:, 0], y_data, y_parts))

    def z(self):
        return self.ops.decode_z(self.packed, self.zd, self.zp, self.hz, self.wz, self.threads)

    def psi(self, z):
        return self.ops.hyper(self.packed, z, self.h, self.w, self.threads)

    def y(self, psi):
        return self.ops.decode_y(self.packed, psi, self.yd, self.yp, self.threads)

    def decode(self):
        """y, psi and whether no stream is called damaged."""
        z, z_status = self.z()
        psi = self.psi(z)
        y, y_status = self.y(psi)
        return y, z, psi, not z_status.any() and not y_status.any()


def compare(model, image, quality, ops, device, repeats) -> dict:
    """The CUDA engine against the CPU engine on one image; `equal` says whether all was."""
    frozen, cpu = model.frozen, _backend.load().ops
    (packet,) = parse_packets(frozen, **ccm_fast.compress(model, tensor_of(image), quality))
    z = frozen.decode_z([packet.z_stream], *packet.z_shape)
    psi = cpu.hyper(frozen.packed(), z, *packet.y_shape, 1)
    y = frozen.decode_y(psi, [packet.y_streams])
    queued = Queued(model, [packet], ops, device)
    start = time.perf_counter()
    y2, z2, psi2, fine = queued.decode()
    equal = fine and torch.equal(z2.cpu(), z) and torch.equal(psi2.cpu(), psi) and torch.equal(y2.cpu(), y)
    record = {"quality": quality, "latents": list(packet.y_shape), "bytes": queued.bytes, "equal": bool(equal)}
    record["lanes"] = [stream[1] % 256 for stream in packet.y_streams]
    record["first_call_s"] = time.perf_counter() - start
    if str(device) != "cpu":
        record["stages"] = {
            "decode_z": latencies(queued.z, repeats, device),
            "hyper": latencies(lambda: queued.psi(z2), repeats, device),
            "decode_y": latencies(lambda: queued.y(psi2), repeats, device),
        }
    return record


def clocks() -> str:
    """What nvidia-smi says of the GPU right now."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,utilization.gpu", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


def compared(model, files: list[Path], results: Results, ops, device, repeats, qualities=QUALITIES, crop=None) -> None:
    """Latents and latencies of photographs."""
    for file in files:
        picture = load_picture(file, crop)
        for quality in qualities:
            if not results.has(file=file.name, quality=quality):
                results.add({"file": file.name, **compare(model, picture, quality, ops, device, repeats)})


def lanes(model, files: list[Path], results: Results, ops, device, repeats) -> None:
    """Stages with other numbers of lanes."""
    for quality in (4.0, 2.0, 6.0):
        for file in files:
            for n in LANES:
                key = {"file": file.name, "quality": quality, "asked": n}
                if results.has(**key):
                    continue
                strings = ccm_fast.compress(model, tensor_of(load_picture(file)), quality, lanes=n)
                queued = Queued(model, parse_packets(model.frozen, **strings), ops, device)
                _, _, psi, fine = queued.decode()
                results.add({
                    **key, "equal": bool(fine), "bytes": queued.bytes, "clock": clocks(),
                    "decode_z": latencies(queued.z, repeats, device),
                    "decode_y": latencies(lambda q=queued, p=psi: q.y(p), repeats, device),
                })  # fmt: skip


def batch(model, files: list[Path], results: Results, ops, device, repeats) -> None:
    """Many photographs of one size at once, mixed, and one of them as often; with other lanes, and fewer."""
    pictures = [load_picture(f) for f in files]
    pictures = [p for p in pictures if p.shape == pictures[0].shape]
    for asked, name, n in ((0, "mixed", BATCH), (32, "mixed", BATCH), (0, "the same", BATCH), (0, "mixed", BATCH // 4)):
        key = {"what": name, "images": n, "asked": asked}
        if results.has(**key):
            continue
        some = pictures if name == "mixed" else pictures[:1]
        strings = [ccm_fast.compress(model, tensor_of(p), 4.0, lanes=asked) for p in some]
        packets = [parse_packets(model.frozen, **s)[0] for s in strings]
        queued = Queued(model, [packets[k % len(packets)] for k in range(n)], ops, device)
        y, _, psi, fine = queued.decode()
        expected = [decode_latents(model.frozen, [p]) for p in packets]
        equal = fine and all(torch.equal(y[i : i + 1].cpu(), expected[i % len(packets)]) for i in range(n))
        took = latencies(lambda q=queued, p=psi: q.y(p), repeats, device)
        rate = 1000 * n / took["median_ms"]
        results.add({**key, "equal": bool(equal), "clock": clocks(), "decode_y": took, "images_a_second": rate})


def encode(model, files: list[Path], results: Results, device) -> None:
    """Photographs to streams by the CUDA engine, with the model on the GPU; the CPU engine's streams."""
    pictures = [tensor_of(load_picture(f)) for f in files]
    pictures = [p for p in pictures if p.shape == pictures[0].shape]
    here = model.to(device)
    for n in (1, 16, 64):
        x = torch.cat([pictures[k % len(pictures)] for k in range(n)]).to(device)
        seconds, strings = [], None
        for _ in range(6):
            start = time.perf_counter()
            strings = ccm_fast.compress(here, x, 4.0, engine="cuda")
            seconds.append(time.perf_counter() - start)
        equal = strings == ccm_fast.compress(here, x, 4.0, engine="cpu")
        median = float(np.median(seconds[1:]))
        results.add({"images": n, "equal": equal, "seconds": median, "images_a_second": n / median})


def filters(results: Results, ops, device, repeats, size: tuple[int, int] = (512, 768)) -> None:
    """Picture filters of eight classes: the kernel and torch's operators."""
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.normal(0, 0.02, (8, 3, 18)).astype(np.float32))
    found = PictureFilter((256, 512, 1024, 2048, 4096, 8192, 16384), weights)
    on_device = found.to(weights.to(device))
    for n in (1, BATCH):
        if results.has(images=n):
            continue
        strength = 2.0 ** -(np.arange(size[1]) // 8 % 9)  # of every class there are pixels
        grain = 0.5 + (rng.random((n, 3, *size)) - 0.5) * strength
        pixels = torch.from_numpy(grain.astype(np.float32)).to(device)
        records = torch.from_numpy(records_of([found] * n)).to(device)
        out, by_torch = (torch.empty(n, 3, *size, dtype=torch.uint8, device=device) for _ in range(2))

        def apply(pixels=pixels, by_torch=by_torch) -> None:
            for one, to in zip(pixels, by_torch, strict=True):
                for rows, piece in on_device.bands(levels_of(one)):
                    to[:, rows] = piece.mul(255).round().to(torch.uint8)

        times = {
            "kernel": latencies(lambda a=(pixels, records, out): ops.picture_filter(*a), repeats, device),
            "torch": latencies(apply, repeats, device),
        }
        # The order of sums decides halves.
        off = (out.int() - by_torch.int()).abs()
        equal = int(off.max()) <= 1 and int((off > 0).sum()) <= off.numel() / 1000
        results.add({"images": n, "size": list(size), "equal": equal, "clock": clocks(), **times})


def run_tests(sanitizers: bool) -> dict[str, int]:
    """Exit statuses of the GPU tests, plain or under each sanitizer."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]
    if not sanitizers:
        return {"plain": subprocess.run(pytest, cwd=ROOT).returncode}
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if not tool:
        print("gpu-check: compute-sanitizer was not found")
        return {}
    results: dict[str, int] = {}
    for name in SANITIZERS:
        for tests, more in SANITIZED.items():
            command = [tool, "--tool", name, "--error-exitcode", "9", *pytest, "-k", tests]
            status = subprocess.run(command, cwd=ROOT, env={**os.environ, **more}).returncode
            results[name] = results.get(name) or status
    return results


def failures(results: Results) -> list[str]:
    """What is not as it should be."""
    return [json.dumps(r) for r in results.records if not r.get("equal", True) or r.get("status")]


def emulated(args: argparse.Namespace) -> int:
    """Latents of photographs by the emulated kernels; the exit status."""
    import build

    torch.ops.load_library(str(build.build_ops()))
    results = Results(args.out / "emulated.json")
    files = sorted(args.images.glob("*.png")) if args.images else []
    crop = tuple(args.crop) if args.crop else None
    compared(ccm_fast.load(args.model), files, results, torch.ops.ccm_fast_emu, "cpu", 0, args.qualities, crop)
    wrong = failures(results)
    print("\n".join(wrong) or "ok")
    return bool(wrong)


def chosen(folder: Path | None, first: bool) -> Iterator[Path]:
    """The four photographs of the first parts, or the others; where none of the four is there, the first four."""
    files = sorted(folder.glob("*.png")) if folder else []
    four = [f for f in files if f.name in FIRST] or files[:4]
    return (f for f in files if (f in four) == first)


def main() -> None:
    """Do one part; the exit status says whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    results = Results(args.out / f"{args.part}.json")
    if args.part in ("tests", "sanitizers"):
        results.records = [{"tool": k, "status": v} for k, v in run_tests(args.part == "sanitizers").items()]
        for record in results.records[:]:
            results.records.remove(record)
            results.add(record)
        sys.exit(bool(failures(results)))
    if not torch.cuda.is_available():
        sys.exit("gpu-check: torch sees no GPU here (torch.cuda.is_available() is False)")
    if not _backend.build_info().get("cuda"):
        sys.exit("gpu-check: this build has no CUDA kernels: CCM_CUDA=1 python setup.py build_ext --inplace")
    model = ccm_fast.load(args.model)  # on the CPU, where the strings are made; profile() moves it
    ops, four = _backend.load().ops, list(chosen(args.images, True))
    everything = [*four, *chosen(args.images, False)]
    parts: dict[str, Callable[[], object]] = {
        "exact": lambda: compared(model, four, results, ops, "cuda", args.repeats),
        "lanes": lambda: lanes(model, four, results, ops, "cuda", args.repeats),
        "batch": lambda: batch(model, everything, results, ops, "cuda", args.repeats),
        "encode": lambda: encode(model, everything, results, "cuda"),
        "filters": lambda: filters(results, ops, "cuda", args.repeats),
        "all": lambda: compared(model, everything[len(four) :], results, ops, "cuda", args.repeats),
    }
    if args.part == "whole":
        found = profile(four[:3], model, device="cuda", repeats=args.repeats, graph=True)
        results.add({"profile": found})
        print(report(found))
    else:
        parts[args.part]()
    wrong = failures(results)
    print("\n".join(wrong) or "ok")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
