"""Rate, distortion and time of a shipped model on a folder of photographs (the Kodak set, for the published figures).

For every image and quality: the real file's size, PSNR, the distance of the file from the ideal code length of the
integer tables, and the seconds of each stage of encoding and decoding in the library, on 1 and 2 threads; for some
images also the seconds of the whole commands `ccm-fast encode` and `ccm-fast decode`, interpreter and imports included.
With `--rates` seconds are those of the result file that is there, which goes on saying what they are of.

    python benchmarks/kodak.py FOLDER [--model ccm-small] [--qualities 2 4 6] [--rates]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, save
from PIL import Image

import ccm_fast
from ccm_fast.decoding import decode_latents, parse_packets
from ccm_fast.entropy import reference_streams


def ideal_bytes(frozen, strings, shape) -> float:
    """Code length of all coded symbols by the integer tables, in bytes, without any header or coder."""
    packets = parse_packets(frozen, strings, shape)
    z_hat = frozen.decode_z([p.z_stream for p in packets], *packets[0].z_shape)
    psi = frozen.hyper(z_hat, *packets[0].y_shape)
    y_hat = decode_latents(frozen, packets)
    offset, row = frozen.parameters(psi, y_hat)
    row = row.numpy().astype(np.int64)
    plan = frozen.plan
    coded = row >= plan.skip_rows
    bits = code_length(plan.y_rows, row[coded], (y_hat - offset).numpy().astype(np.int64)[coded])
    z = z_hat.numpy().astype(np.int64)[..., plan.coded_channels]
    z_row = np.broadcast_to(plan.coded_channels, z.shape)
    return (bits + code_length(plan.z_rows, z_row.ravel(), z.ravel())) / 8


def code_length(rows, row, symbol) -> float:
    """Bits of symbols by their rows' tables, each pair looked up once."""
    (row, symbol), counts = np.unique(np.stack([row, symbol]), axis=1, return_counts=True)
    each = (reference_streams.ideal_bits(rows, r, s) for r, s in zip(row, symbol))
    return sum(count * bits for count, bits in zip(counts.tolist(), each))


def whole_command(path: Path, quality: float, model: str, threads: int) -> dict:
    """Seconds of the two commands and the file's size."""
    with tempfile.TemporaryDirectory() as folder:
        coded, decoded = Path(folder, "a.ccm"), Path(folder, "a.png")
        command = [sys.executable, "-m", "ccm_fast"]
        options = ["--threads", str(threads)]
        seconds = []
        for arguments in (
            ["encode", str(path), str(coded), "--quality", str(quality), "--model", model, *options],
            ["decode", str(coded), str(decoded), *options],
        ):
            start = time.perf_counter()
            subprocess.run([*command, *arguments], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        return {"bytes": coded.stat().st_size, "encode": seconds[0], "decode": seconds[1]}


def main() -> None:
    """Run, print, write benchmarks/results/kodak_MODEL.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--qualities", type=float, nargs="+", default=[2, 4, 6])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--commands", type=int, default=2, help="images whose whole commands are timed")
    parser.add_argument("--rates", action="store_true", help="measure files alone, and keep the times from before")
    args = parser.parse_args()
    model = ccm_fast.load(args.model)
    name = f"kodak_{Path(args.model).stem}"
    weights = model.frozen.fingerprint.hex()
    before = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) if args.rates else None
    earlier = {(r["image"], r["quality"]): r["times"] for r in before["images"]} if before else {}
    sums = {s["quality"]: s["seconds"] for s in before["summary"]} if before else {}
    paths = sorted(args.folder.glob("*.png"))
    images = {p: np.asarray(Image.open(p).convert("RGB")) for p in paths}
    rows, summary = [], []
    for quality in args.qualities:
        for path, image in images.items():
            x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
            row = {"image": path.stem, "quality": quality, "times": {}}
            for threads in args.threads[:1] if before else args.threads:  # in turns, image by image
                encode, decode = {}, {}
                out = ccm_fast.compress(model, x, quality, threads=threads, timings=encode)
                x_hat = ccm_fast.decompress(model, **out, threads=threads, timings=decode)["x_hat"]
                row["times"][threads] = {"encode": encode, "decode": decode}
            if before:
                row["times"] = earlier[path.stem, quality]
            restored = (x_hat[0].permute(1, 2, 0).numpy() * 255).round()
            mse = float(np.square(restored - image.astype(np.float64)).mean())
            # The container adds its magic and version to the two strings.
            row["bytes"] = 4 + len(out["strings"][0][0]) + len(out["strings"][1][0])
            row["bpp"] = 8 * row["bytes"] / (image.shape[0] * image.shape[1])
            row["psnr"] = 10 * math.log10(255**2 / mse)
            row["ideal_bytes"] = ideal_bytes(model.frozen, **out)
            row["overhead"] = row["bytes"] / row["ideal_bytes"] - 1
            rows.append(row)
        chosen = [r for r in rows if r["quality"] == quality]
        line = {
            "quality": quality,
            "bpp": statistics.mean(r["bpp"] for r in chosen),
            "psnr": statistics.mean(r["psnr"] for r in chosen),
            "overhead_percent": 100 * (sum(r["bytes"] for r in chosen) / sum(r["ideal_bytes"] for r in chosen) - 1),
            "worst_overhead_percent_from_10kB": 100
            * max((r["overhead"] for r in chosen if r["bytes"] >= 10_000), default=float("nan")),
            "seconds": sums.get(quality)
            or {
                f"{way} {threads}t": {
                    stage: statistics.median(r["times"][threads][way][stage] for r in chosen)
                    for stage in chosen[0]["times"][threads][way]
                }
                for threads in args.threads
                for way in ("encode", "decode")
            },
        }
        timed = [] if before else paths[: args.commands]
        commands = [whole_command(p, quality, args.model, t) for p in timed for t in args.threads]
        for k, threads in enumerate(args.threads if commands else ()):
            part = commands[k :: len(args.threads)]
            for way in ("encode", "decode"):
                line["seconds"][f"{way} {threads}t"]["whole command"] = statistics.median(c[way] for c in part)
        for command, row in zip(commands[:: len(args.threads)], chosen, strict=False):
            assert command["bytes"] == row["bytes"], "the command and the library disagree"
        summary.append(line)
        print(f"quality {quality:g}: {line['bpp']:.4f} bpp, {line['psnr']:.2f} dB, ", end="")
        print(f"{line['overhead_percent']:.3f} % above the ideal code length")
        for way, stages in line["seconds"].items():
            print(f"  {way}: " + ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in stages.items()))
    result = {"model": args.model, "weights": weights, "summary": summary, "images": rows}
    if before:
        result["times_of"] = {"weights": before.get("weights"), "environment": before["environment"]}
        result["times_of"] |= before.get("times_of", {})
    print("written to", save(name, result))


if __name__ == "__main__":
    main()
