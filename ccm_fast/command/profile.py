"""Where the time of a decoder goes: ``ccm-fast profile``.

Stages, in the order of decoding: ``parse`` (read the file, check it, find the streams), ``upload`` (GPU only: the bytes
onto the device), ``z``, ``h_s``, ``entropy`` (context and rANS of all groups, which run behind each other),
``centroids`` (models whose g_s reads them), ``g_s``, ``pixels`` (8-bit numbers), ``download`` (GPU only: the picture,
and whether the streams were whole; nothing waits for the GPU before). On one CPU thread the groups run one after
another, and each is listed too: the time of the first g + 1 groups, decoded by a plan that ends there, less that of the
first g.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from ccm_fast.atomic import atomic_write
from ccm_fast.bench.stages import Decoder
from ccm_fast.bench.timing import DeviceError, device_for, statistics_of, table, write_json
from ccm_fast.engines import engine_for, torch_threads
from ccm_fast.errors import BitstreamError, ImageError
from ccm_fast.stream.limits import MAX_PIXELS

from .messages import FAILURES, complain, interactive, reason, say

__all__ = ["chrome_trace", "profile", "report", "run"]


def _decoder(name: str, *options) -> Decoder:
    """A decoder; errors say which file they are about."""
    try:
        return Decoder(name, *options)
    except (BitstreamError, ImageError) as error:
        raise type(error)(f"{name}: {error}") from error


def profile(
    files: Sequence[str | os.PathLike],
    model=None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    repeats: int = 10,
    warmup: int = 2,
    graph: bool = False,
    max_pixels: int | None = MAX_PIXELS,
    progress: bool = False,
) -> dict:
    """Decode files repeatedly and note how long each stage takes. Every decoding has to give the same picture.

    Args:
        files: .ccm files; pictures are encoded first, at quality 4.
        model: a model, a name or a weights file; None: the shipped one that a file names.
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads; None: torch's setting.
        repeats: decodings that count.
        warmup: decodings before them.
        graph: also time everything between parsing and download as one captured CUDA graph.
        max_pixels: larger images are refused.
        progress: show a bar.

    Returns:
        ``device``, ``threads``, ``repeats`` and ``files``: of each its ``name``, ``width``, ``height``, ``bytes``,
        ``latents``, ``stages`` (name -> median, best, spread, seconds; ``total`` is their sum in each repeat),
        ``groups`` (the same for each, on one CPU thread; otherwise empty), ``graph`` or None, and ``spans``: of every
        repeat [name, start, seconds] in seconds since the first.

    Raises:
        DeviceError: no such device, or a graph without a GPU.
        BitstreamError, ImageError, OSError, ValueError: as for decoding.
    """
    where = device_for(device)
    if graph and where.type != "cuda":
        raise DeviceError("a CUDA graph needs a GPU: use --device cuda")
    if graph and engine_for(None, where) != "cuda":
        raise DeviceError("a CUDA graph needs CUDA kernels, which this build has not: build again with CCM_CUDA=1")
    if repeats < 1 or warmup < 0:
        raise ValueError("repeats must be at least 1, and warmup not negative")
    with torch_threads(threads) as count:
        pass
    origin = time.perf_counter()
    found = []
    for name in files:
        with torch.cuda.device(where) if where.type == "cuda" else nullcontext():
            decoder = _decoder(os.fspath(name), model, where, threads, max_pixels)
            rounds = tqdm(range(warmup + repeats), Path(name).name, disable=not progress, leave=False, delay=1)
            runs = [decoder.run() for _ in rounds][warmup:]
            packet = decoder.parse()
            stages: dict[str, list[float]] = {}
            for spans in runs:
                sums: dict[str, float] = {}
                for span in spans:
                    sums[span.name] = sums.get(span.name, 0.0) + span.seconds
                for stage, seconds in {**sums, "total": sum(sums.values())}.items():
                    stages.setdefault(stage, []).append(seconds)
            found.append(
                {
                    "name": decoder.name,
                    "width": packet.width,
                    "height": packet.height,
                    "bytes": decoder.bytes,
                    "latents": packet.y_shape[0] * packet.y_shape[1] * decoder.frozen.plan.latent_channels,
                    "stages": {stage: statistics_of(seconds) for stage, seconds in stages.items()},
                    "groups": decoder.group_seconds(repeats) if where.type == "cpu" and count == 1 else [],
                    "graph": decoder.graph_seconds(repeats) if graph else None,
                    "spans": [[[s.name, s.start - origin, s.seconds] for s in spans] for spans in runs],
                }
            )
    return {"device": str(where), "threads": count, "repeats": repeats, "files": found}


def report(result: dict) -> str:
    """The result as a table for people; milliseconds."""
    lines = []
    for file in result["files"]:
        where = result["device"] if result["device"] != "cpu" else f"cpu, {result['threads']} thread(s)"
        lines.append(
            f"{file['name']}: {file['width']}x{file['height']}, {file['bytes']:,} bytes, {file['latents']:,} latents;"
            f" {where}, {result['repeats']} repeats"
        )
        total = file["stages"]["total"]["median"]
        rows: list[list] = [["stage", "median ms", "best ms", "spread %", "share %"]]

        def row(name: str, s: dict, total: float = total) -> list:
            best = 1e3 * s["best"] if s["best"] > 0 else None  # of groups it is a difference of two noisy times
            return [name, 1e3 * s["median"], best, 100 * s["spread"], 100 * s["median"] / total]

        for stage, s in file["stages"].items():
            if stage == "total":
                continue
            rows.append(row(stage, s))
            if stage == "entropy":
                rows += [row(f"  group {g}", s) for g, s in enumerate(file["groups"])]
        rows.append(row("total", file["stages"]["total"]))
        if file["graph"]:
            rows.append(row("z..pixels as a graph", file["graph"]))
        lines += [table(rows), ""]
    return "\n".join(lines).rstrip()


def chrome_trace(result: dict) -> dict:
    """The spans as a trace for chrome://tracing and Perfetto: a process per file, a thread for its stages."""
    events: list[dict] = []
    for pid, file in enumerate(result["files"], 1):
        names = {"process_name": Path(file["name"]).name, "thread_name": result["device"]}
        events += [{"ph": "M", "name": k, "pid": pid, "tid": 1, "args": {"name": v}} for k, v in names.items()]
        for repeat, spans in enumerate(file["spans"]):
            events += [
                {
                    "ph": "X",
                    "cat": "decode",
                    "name": name,
                    "pid": pid,
                    "tid": 1,
                    "ts": 1e6 * start,
                    "dur": 1e6 * seconds,
                    "args": {"repeat": repeat},
                }
                for name, start, seconds in spans
            ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def run(args) -> int:
    """``ccm-fast profile``."""
    options = {"device": args.device, "threads": args.threads, "repeats": args.repeats, "graph": args.graph}
    try:
        result = profile(args.files, args.model, progress=interactive(), **options)
        if args.trace:
            with atomic_write(args.trace) as file:
                file.write(json.dumps(chrome_trace(result)).encode())
        if args.json == "-":
            say(json.dumps(result))
        else:
            say(report(result))
        if args.json not in (None, "-"):
            write_json(args.json, result)
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    return 0
