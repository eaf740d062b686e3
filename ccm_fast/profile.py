"""Where the time of a decoder goes: ``ccm-fast profile``.

Stages, in the order of decoding: ``parse`` (read the file, check it, find the streams), ``upload`` (GPU only: the bytes
onto the device), ``z``, ``h_s``, ``entropy`` (context and rANS of all groups, which run behind each other),
``centroids`` (models whose g_s reads them), ``g_s``, ``pixels`` (8-bit numbers), ``download`` (GPU only: the picture,
and whether the streams were whole; nothing waits for the GPU before). On one CPU thread the groups run one after
another, and each is listed too: the time of the first g + 1 groups, decoded by a plan that ends there, less that of the
first g.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .bench.timing import DeviceError, device_for, statistics_of, table
from .decoding import DecodedLatents, decoding_gain, render
from .engines import engine_for, frozen_of, torch_threads
from .errors import BitstreamError, ImageError
from .files import encode_picture, model_for
from .images import open_picture
from .integer.frozen import FrozenEntropyModel
from .integer.tensors import DeviceStreams
from .stream.container import parse_container
from .stream.limits import MAX_PIXELS
from .stream.packet import Packet, parse_file, peek

__all__ = ["chrome_trace", "profile", "report"]


@dataclass
class Span:
    """A stage of one repeat: start and length in seconds."""

    name: str
    start: float
    seconds: float


class HostClock:
    """Stages on the CPU, by the clock."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spans.append(Span(name, start, time.perf_counter() - start))

    def finish(self) -> list[Span]:
        return self.spans


class DeviceClock:
    """Stages on a GPU, by events on the current stream; NVTX ranges of the same names for Nsight.

    Nothing is synchronised between the stages, so a stage that waits for the host shows it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = time.perf_counter()
        self.origin = self._event()
        self.marks: list[tuple] = []

    def _event(self):
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        torch.cuda.nvtx.range_push(name)
        before = self._event()
        yield
        self.marks.append((name, before, self._event()))
        torch.cuda.nvtx.range_pop()

    def finish(self) -> list[Span]:
        torch.cuda.synchronize(self.device)
        return [
            Span(name, self.start + self.origin.elapsed_time(a) / 1e3, a.elapsed_time(b) / 1e3)
            for name, a, b in self.marks
        ]


class Decoder:
    """One file, decoded again and again."""

    def __init__(self, name: str, model, device: torch.device, threads: int | None, max_pixels: int | None):
        self.name, self.device, self.threads = name, device, threads
        path = Path(name)
        self.read = path.read_bytes
        data = self.read()
        if data[:3] != b"CCM":  # a picture: what a user has at hand
            encoded = encode_picture(open_picture(path, max_pixels), model=model, threads=threads)
            self.read = lambda: encoded
            data = encoded
        self.max_pixels = max_pixels
        self.bytes = len(data)
        found = model_for(model, peek(parse_container(data).packet, max_pixels).fingerprint)
        # Modules move in place, and this one is the caller's, or the one that all calls by name share.
        here = next(found.parameters()).device == device
        self.model = found if here else copy.deepcopy(found).to(device)
        self.frozen = frozen_of(self.model)
        self.engine = engine_for(None, device)
        self.expected: tuple[torch.Tensor, torch.Tensor] | None = None

    def parse(self) -> Packet:
        """Read and check the file."""
        return parse_file(parse_container(self.read()).packet, len(self.frozen.plan.groups), self.max_pixels)

    def upload(self, packet: Packet) -> DeviceStreams:
        """The streams on the GPU."""
        return self.frozen.upload([packet.z_stream], [packet.y_streams], self.device)

    def latents(self, packet: Packet, clock, threads: int) -> DecodedLatents:
        """psi and y_hat by the CPU engine."""
        with clock.stage("z"):
            z_hat = self.frozen.decode_z([packet.z_stream], *packet.z_shape, threads=threads)
        with clock.stage("h_s"):
            psi = self.frozen.hyper(z_hat, *packet.y_shape, threads=threads)
        with clock.stage("entropy"):
            y_hat, *parameters = self.frozen.decode_y_parameters(psi, [packet.y_streams], threads)
        return DecodedLatents(self.frozen, y_hat.to(self.device), psi, self.engine, tuple(parameters))

    def picture(self, packet: Packet, decoded: DecodedLatents, clock, gain: torch.Tensor | None = None) -> torch.Tensor:
        """uint8 [H, W, 3], on the device."""
        out = torch.empty(packet.height, packet.width, 3, dtype=torch.uint8, device=self.device)
        y = decoded.y_hat
        if self.model.config.reconstruction == "centroid":
            with clock.stage("centroids"):
                y = decoded.reconstruct(self.model)
        pieces = render(self.model, y, [packet], gain=gain)
        while True:
            with clock.stage("g_s"):
                piece = next(pieces, None)
            if piece is None:
                return out
            rows, columns, pixels = piece
            with clock.stage("pixels"):
                out[rows, columns] = pixels[0].mul(255).round_().to(torch.uint8).permute(1, 2, 0)

    def run(self) -> list[Span]:
        """One decoding; its result is compared with the first one's."""
        queued = self.engine == "cuda"
        clock = DeviceClock(self.device) if self.device.type == "cuda" else HostClock()
        with torch.inference_mode(), torch_threads(self.threads) as threads:
            with clock.stage("parse"):
                packet = self.parse()
            if queued:
                with clock.stage("upload"):
                    streams, gain = self.upload(packet), decoding_gain(self.model, [packet])
                psi, y_hat, status = self.frozen.decode_queued(streams, packet.y_shape, clock.stage)
                decoded = DecodedLatents(self.frozen, y_hat, psi, self.engine, status=status)
            else:
                decoded, gain = self.latents(packet, clock, threads), None
            pixels = self.picture(packet, decoded, clock, gain)
            if self.device.type == "cuda" or queued:
                with clock.stage("download"):
                    pixels = pixels.cpu()
                    decoded.check()
            spans = clock.finish()
        if self.expected is None:
            self.expected = decoded.y_hat, pixels
        elif not (torch.equal(decoded.y_hat, self.expected[0]) and torch.equal(pixels, self.expected[1])):
            raise RuntimeError(f"{self.name}: two decodings differ")
        return spans

    def group_seconds(self, repeats: int) -> list[dict]:
        """Statistics of every group on one thread."""
        packet = self.parse()
        z_hat = self.frozen.decode_z([packet.z_stream], *packet.z_shape, threads=1)
        psi = self.frozen.hyper(z_hat, *packet.y_shape, threads=1)
        count = len(packet.y_streams)
        models = [_first_groups(self.frozen, g) for g in range(1, count)] + [self.frozen]
        seconds: list[list[float]] = [[] for _ in models]
        for repeat in range(1 + repeats):
            before = 0.0
            for g, frozen in enumerate(models):
                start = time.perf_counter()
                y_hat = frozen.decode_y(psi, [packet.y_streams[: g + 1]], threads=1)
                elapsed = time.perf_counter() - start
                if repeat:
                    seconds[g].append(elapsed - before)
                before = elapsed
                if not torch.equal(y_hat, self.expected[0].cpu()[..., : y_hat.shape[-1]]):
                    raise RuntimeError(f"{self.name}: the first {g + 1} groups decode differently by themselves")
        return [statistics_of(s) for s in seconds]

    def graph_seconds(self, repeats: int) -> dict:
        """Statistics of z .. pixels as a captured CUDA graph."""
        packet = self.parse()
        with torch.inference_mode():
            streams, gain = self.upload(packet), decoding_gain(self.model, [packet])

            def decode() -> tuple[torch.Tensor, DecodedLatents]:
                psi, y_hat, status = self.frozen.decode_queued(streams, packet.y_shape)
                decoded = DecodedLatents(self.frozen, y_hat, psi, self.engine, status=status)
                return self.picture(packet, decoded, HostClock(), gain), decoded

            side = torch.cuda.Stream(self.device)
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):  # capture wants everything lazy to have happened
                decode()
            side.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                pixels, decoded = decode()
            seconds = []
            for _ in range(repeats):
                pixels.zero_()
                clock = DeviceClock(self.device)
                with clock.stage("graph"):
                    graph.replay()
                seconds.append(clock.finish()[0].seconds)
            decoded.check()
            if not torch.equal(pixels.cpu(), self.expected[1]):
                raise RuntimeError(f"{self.name}: the graph's picture differs")
        return statistics_of(seconds)


def _decoder(name: str, *options) -> Decoder:
    """A decoder; errors say which file they are about."""
    try:
        return Decoder(name, *options)
    except (BitstreamError, ImageError) as error:
        raise type(error)(f"{name}: {error}") from error


def _first_groups(frozen: FrozenEntropyModel, count: int) -> FrozenEntropyModel:
    """The model of the first groups alone: later groups never reach back to them."""
    plan = frozen.plan
    channels = sum(plan.group_channels[:count])
    cut = {}
    if plan.context_mult is not None:
        cut = {"context_mult": plan.context_mult[:channels], "context_shift": plan.context_shift[:channels]}
    shorter = replace(plan, group_channels=plan.group_channels[:count], groups=plan.groups[:count], _bytes=None, **cut)
    return FrozenEntropyModel(shorter)


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
            runs = [decoder.run() for _ in range(warmup + repeats)][warmup:]
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
            return [name, 1e3 * s["median"], 1e3 * s["best"], 100 * s["spread"], 100 * s["median"] / total]

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
