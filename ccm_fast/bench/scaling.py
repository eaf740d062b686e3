"""How decoding grows with pixels, batches and threads; and its peak memory.

Every measurement is a process of its own, whose highest resident size is read at its end; ``base`` is that of a process
that has loaded the model and decoded nothing. The latents' hash is compared with the encoder's.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .timing import device_for, statistics_of, table

__all__ = ["report", "run"]

SIZES = ((256, 256), (512, 512), (768, 512), (1920, 1080), (3840, 2160))
BATCHES = (1, 2, 4, 8)  # of 256x256
THREADS = (1, 2)
LARGE = 4_000_000  # pixels from which three repeats have to do: each takes seconds


def _peak_bytes() -> int:
    """Highest resident size of this process.

    Linux lets a new program inherit the ``ru_maxrss`` of the process that started it; VmHWM begins with the program.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _child(task: dict) -> dict:
    """One measurement."""
    import torch

    from ccm_fast.codec import decompress
    from ccm_fast.decoding import decode_latents, parse_packets
    from ccm_fast.engines import frozen_of

    from . import material

    torch.set_num_threads(task["threads"])
    device = device_for(task["device"])
    net = material.model(task["model"])
    options = {"threads": task["threads"]}
    if device.type == "cuda":
        net, options = net.to(device), {**options, "device": device}
    if not task["strings"]:
        return {"peak_bytes": _peak_bytes()}
    with open(task["strings"], "rb") as file:
        out = pickle.load(file)
    frozen = frozen_of(net)
    entropy, whole = [], []
    for repeat in range(1 + task["repeats"]):
        packets = parse_packets(frozen, out["strings"], out["shape"])
        start = time.perf_counter()
        y_hat = decode_latents(frozen, packets, **options)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        middle = time.perf_counter()
        decompress(net, out["strings"], out["shape"], **options)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat:
            entropy.append(middle - start)
            whole.append(time.perf_counter() - middle)
    if hashlib.sha256(y_hat.cpu().numpy().tobytes()).hexdigest() != out["hash"]:
        raise RuntimeError("the latents differ from the encoder's")
    return {
        "entropy": statistics_of(entropy),
        "decompress": statistics_of(whole),
        "latents": y_hat.numel(),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_bytes(),
    }


def _strings(folder: Path, model: str, width: int, height: int, batch: int) -> Path:
    """Encoded pictures with the hash of their latents."""
    import torch

    from ccm_fast.codec import compress
    from ccm_fast.decoding import decode_latents, parse_packets
    from ccm_fast.engines import frozen_of

    from . import material

    net = material.model(model)
    out = compress(net, torch.cat([material.picture(width, height, seed) for seed in range(batch)]))
    y_hat = decode_latents(frozen_of(net), parse_packets(frozen_of(net), out["strings"], out["shape"]), threads=1)
    path = folder / f"{width}x{height}x{batch}"
    path.write_bytes(pickle.dumps({**out, "hash": hashlib.sha256(y_hat.numpy().tobytes()).hexdigest()}))
    return path


def run(
    device: str = "cpu", *, model: str = "ccm-small", quick: bool = False, repeats: int | None = None, threads=THREADS
) -> dict:
    """Measure.

    Returns:
        ``device``, ``model``, ``base_bytes`` and ``cases``: ``width``, ``height``, ``batch``, ``threads``, ``latents``,
        ``entropy`` (from strings to latents) and ``decompress`` (to pixels), statistics each, and ``peak_bytes``.
    """
    device_for(device)
    repeats = repeats or (1 if quick else 5)
    sizes = ((64, 48),) if quick else SIZES
    jobs = [(w, h, 1) for w, h in sizes] + [(*sizes[0], b) for b in (BATCHES[1:2] if quick else BATCHES[1:])]
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        common = {"device": device, "model": model, "repeats": repeats}
        base = _measure({**common, "threads": 1, "strings": None})["peak_bytes"]
        files = {job: str(_strings(Path(folder), model, *job)) for job in jobs}
        for count in threads[:1] if quick else threads:
            for job in jobs:
                task = {**common, "threads": count, "strings": files[job]}
                if job[0] * job[1] > LARGE:
                    task["repeats"] = min(repeats, 3)
                found = _measure(task)
                cases.append({"width": job[0], "height": job[1], "batch": job[2], "threads": count, **found})
    return {"device": device, "model": model, "base_bytes": base, "cases": cases}


def _measure(task: dict) -> dict:
    command = [sys.executable, "-m", "ccm_fast.bench.scaling", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"scaling: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def report(result: dict) -> str:
    """A table for people."""
    rows: list[list] = [
        [
            "size",
            "batch",
            "threads",
            "latents ms",
            "decompress ms",
            "us/kpixel",
            "spread %",
            "peak MB",
            "of it decoding",
        ]
    ]
    for c in result["cases"]:
        pixels = c["width"] * c["height"] * c["batch"]
        rows.append(
            [
                f"{c['width']}x{c['height']}",
                c["batch"],
                c["threads"],
                1e3 * c["entropy"]["median"],
                1e3 * c["decompress"]["median"],
                1e9 * c["decompress"]["median"] / pixels,
                100 * c["decompress"]["spread"],
                round(c["peak_bytes"] / 1e6),
                round((c["peak_bytes"] - result["base_bytes"]) / 1e6),
            ]
        )
    return f"{result['model']} on {result['device']}\n" + table(rows)


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[1]))))
