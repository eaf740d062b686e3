"""One file, decoded again and again, with a clock at every stage: what ``ccm-fast profile`` measures."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ccm_fast.decoding import DecodedLatents, decoding_gain, render
from ccm_fast.engines import engine_for, frozen_of, torch_threads
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.tensors import DeviceStreams
from ccm_fast.files import encode_picture, model_for
from ccm_fast.images import open_picture
from ccm_fast.picture_filter import PictureFilter, Samples, has_kernel, records_of
from ccm_fast.stream.container import parse_container
from ccm_fast.stream.packet import Packet, parse_file, peek

from .timing import statistics_of

__all__ = ["Decoder", "DeviceClock", "HostClock", "Span", "first_groups"]


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
        self.filter: PictureFilter | None = None
        self.expected: tuple[torch.Tensor, torch.Tensor] | None = None

    def parse(self) -> Packet:
        """Read and check the file; the picture's filter is kept."""
        container = parse_container(self.read())
        packet = parse_file(container.packet, len(self.frozen.plan.groups), self.max_pixels)
        self.filter = PictureFilter.of(container.chunks, packet.grey)
        return packet

    def records(self) -> torch.Tensor | None:
        """The filter as the GPU's kernel reads it, there; None without a filter or a GPU."""
        if self.filter is None or not has_kernel(self.device, self.engine):
            return None
        return torch.from_numpy(records_of([self.filter])).to(self.device)

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

    def queued(self, streams: DeviceStreams, packet: Packet, clock) -> DecodedLatents:
        """psi, y_hat and what g_s reads, by kernels that are queued on a GPU."""
        restore = self.model.config.reconstruction == "centroid"
        found = self.frozen.decode_queued(streams, packet.y_shape, clock.stage, restore)
        options = {"restored": found.restored, "status": found.status}
        return DecodedLatents(self.frozen, found.y_hat, found.psi, self.engine, **options)

    def picture(
        self,
        packet: Packet,
        decoded: DecodedLatents,
        clock,
        gain: torch.Tensor | None = None,
        records: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """uint8 [H, W, 3], on the device."""
        out = torch.empty(1, 3, packet.height, packet.width, dtype=torch.uint8, device=self.device)
        samples = Samples(out, [self.filter], records)
        y = decoded.y_hat
        if decoded.restored is not None:
            y = decoded.restored
        elif self.model.config.reconstruction == "centroid":
            with clock.stage("centroids"):
                y = decoded.reconstruct(self.model)
        pieces = render(self.model, y, [packet], gain=gain)
        while True:
            with clock.stage("g_s"):
                piece = next(pieces, None)
            with clock.stage("pixels"):
                if piece is None:
                    samples.finish()
                    return out[0].permute(1, 2, 0)
                samples.add(*piece)

    def run(self) -> list[Span]:
        """One decoding; its result is compared with the first one's."""
        queued = self.engine == "cuda"
        clock = DeviceClock(self.device) if self.device.type == "cuda" else HostClock()
        with torch.inference_mode(), torch_threads(self.threads) as threads:
            with clock.stage("parse"):
                packet = self.parse()
            if queued:
                with clock.stage("upload"):
                    streams, gain, records = self.upload(packet), decoding_gain(self.model, [packet]), self.records()
                decoded = self.queued(streams, packet, clock)
            else:
                decoded, gain, records = self.latents(packet, clock, threads), None, self.records()
            pixels = self.picture(packet, decoded, clock, gain, records)
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
        models = [first_groups(self.frozen, g) for g in range(1, count)] + [self.frozen]
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
            streams, gain, records = self.upload(packet), decoding_gain(self.model, [packet]), self.records()

            def decode() -> tuple[torch.Tensor, DecodedLatents]:
                decoded = self.queued(streams, packet, HostClock())
                return self.picture(packet, decoded, HostClock(), gain, records), decoded

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


def first_groups(frozen: FrozenEntropyModel, count: int) -> FrozenEntropyModel:
    """The model of the first groups alone: later groups never reach back to them."""
    plan = frozen.plan
    channels = sum(plan.group_channels[:count])
    cut = {}
    if plan.context_mult is not None:
        cut = {"context_mult": plan.context_mult[:channels], "context_shift": plan.context_shift[:channels]}
    if plan.schedules is not None:
        cut["schedules"] = plan.schedules[:count]
    shorter = replace(plan, group_channels=plan.group_channels[:count], groups=plan.groups[:count], **cut)
    return FrozenEntropyModel(shorter)
