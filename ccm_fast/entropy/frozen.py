"""The frozen entropy model: a plan, and the engines that run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ccm_fast import _backend
from ccm_fast.entropy import reference, tensors
from ccm_fast.entropy.plan import CODED, Plan
from ccm_fast.entropy.tensors import DeviceStreams, QueuedLatents
from ccm_fast.locks import ForkSafeLock
from ccm_fast.stream.packet import Stream, stream_code

if TYPE_CHECKING:
    from ccm_fast.entropy.centroids import Centroids

__all__ = ["FrozenEntropyModel"]


class FrozenEntropyModel:
    """Everything between the bytes of a stream and the latents, in integers.

    Latents and features are channel-last tensors, on the CPU or (engine "cuda") on a GPU: z_hat int16 [B, hz, wz, N]
    with hz = ceil(h / 4), psi uint8 [B, h, w, P], y_hat int16 [B, h, w, M] in units of ``y_unit``. All engines give the
    same bytes and numbers.

    Residual models round y - mean instead of y: :meth:`encode_y_residual` takes the place of :meth:`encode_y`.

    Args:
        plan: the frozen model's numbers.
        shifts: what symbols stand for beside themselves, see :class:`ccm_fast.entropy.centroids.Centroids`; no part of
            what files depend on.
    """

    def __init__(self, plan: Plan, shifts: Tensor | None = None):
        self.plan = plan
        self.shifts = shifts
        self._bytes = plan.to_bytes()  # validates and proves
        self._fingerprint = plan.fingerprint
        self._made: dict[tuple[str, ...], object] = {}  # what is made from the plan once, by kind and place
        self._lock = ForkSafeLock()

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that every stream of this model carries."""
        return self._fingerprint

    @property
    def residual(self) -> bool:
        """Whether y_hat is a whole number plus its mean, in 1/16, instead of a whole number."""
        return self.plan.residual

    @property
    def y_unit(self) -> float:
        """The unit of y_hat: 1, or 1/16 in residual models."""
        return 1 / 16 if self.plan.residual else 1.0

    @property
    def stream_version(self) -> int:
        """The least version of its streams: 2 if the plan does not code everything, or has several schedules."""
        return self.plan.stream_version

    def to_bytes(self) -> bytes:
        """The plan as bytes."""
        return self._bytes

    @classmethod
    def from_bytes(cls, data: bytes, shifts: Tensor | None = None) -> FrozenEntropyModel:
        """Read a plan; raises :class:`ccm_fast.entropy.plan.PlanError` on a bad one."""
        return cls(Plan.from_bytes(data), shifts)

    def __repr__(self) -> str:
        p = self.plan
        return f"FrozenEntropyModel({self.fingerprint.hex()}, groups={p.group_channels}, N={p.hyper_channels})"

    def __getstate__(self) -> dict:
        return {"data": self._bytes, "shifts": self.shifts}

    def __setstate__(self, state: dict) -> None:
        self.__init__(Plan.from_bytes(state["data"]), state["shifts"])

    def __deepcopy__(self, memo: dict) -> FrozenEntropyModel:
        return self  # immutable

    # -----------------------------------------------------------------------------------------------------------------

    def packed(self, isa: str | None = None) -> Tensor:
        """The model in the native engine's layout, uint8, made once per instruction set.

        Args:
            isa: one of ``torch.ops.ccm_fast.isa_list()``; None: as the environment variable CCM_FAST_ISA says, else the
                best.

        Raises:
            BuildError: the native library is missing.
            ValueError: no such instruction set on this machine.
        """
        ops, name = _backend.load().ops, _backend.native().isa(isa or "")
        return self._once(("cpu", name), lambda: ops.pack_plan(self._as_tensor(), name))

    def packed_for(self, engine: str, isa: str | None) -> Tensor:
        """The model in the layout of "cpu" or "cuda", both in host memory: the CUDA operators upload it themselves."""
        if engine == "cpu":
            return self.packed(isa)
        return self._once(("cuda",), lambda: _backend.load().ops.pack_plan_cuda(self._as_tensor()))

    def _once(self, key: tuple[str, ...], make: Callable[[], object]):
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def _as_tensor(self) -> Tensor:
        return torch.frombuffer(bytearray(self._bytes), dtype=torch.uint8)

    def hyper(
        self, z_hat: Tensor, h: int, w: int, *, engine: str = "cpu", threads: int | None = None, isa: str | None = None
    ) -> Tensor:
        """psi, uint8 [B, h, w, P], of z_hat int16 [B, ceil(h / 4), ceil(w / 4), N]."""
        z_hat = tensors.latents(z_hat, self.plan.hyper_channels, "z_hat", engine)
        if tuple(z_hat.shape[1:3]) != (-(-h // 4), -(-w // 4)):
            raise ValueError(f"z_hat of {tuple(z_hat.shape[1:3])} positions does not belong to y of {(h, w)}")
        if tensors.native(engine):
            return _backend.load().ops.hyper(self.packed_for(engine, isa), z_hat, h, w, tensors.threads_for(threads))
        return tensors.stacked([reference.hyper(self.plan, z, h, w) for z in z_hat.numpy()], torch.uint8)

    def parameters(
        self, psi: Tensor, y_hat: Tensor, *, engine: str = "cpu", threads: int | None = None, isa: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Offset and table row, int16 [B, h, w, M], of every symbol given all of y_hat.

        Raises:
            ValueError: engine "cuda" with a plan of version 2.
        """
        if engine == "cuda":
            return self.parameters_on(psi, y_hat)
        psi, y_hat = self._pair(psi, y_hat, engine)
        if tensors.native(engine):
            return _backend.load().ops.parameters(self.packed(isa), psi, y_hat, tensors.threads_for(threads))
        found = [reference.parameters(self.plan, p, y) for p, y in zip(tensors.wide(psi), y_hat.numpy(), strict=True)]
        return tensors.stacked([f[0] for f in found], torch.int16), tensors.stacked([f[1] for f in found], torch.int16)

    def fix_z(self, z_hat: Tensor) -> Tensor:
        """``z_hat`` [B, hz, wz, N] with the values of those channels that are not coded."""
        if self.plan.z_values is None:
            return z_hat
        values = torch.from_numpy(self.plan.z_values).to(z_hat)
        return torch.where(values == CODED, z_hat, values)

    def settle(
        self, psi: Tensor, y_hat: Tensor, *, engine: str = "cpu", threads: int | None = None, isa: str | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat as a decoder will have it, with its offset and row, int16 [B, h, w, M] each.

        Symbols that are not coded are their means' offsets; those hang on the symbols before them. Where everything is
        coded, y_hat is what it was. ``engine``: "cpu" or "reference".

        Raises:
            ValueError: the model is residual.
        """
        if self.residual:
            raise ValueError("residual models code all symbols")
        if self.plan.skip < 0:
            return y_hat, *self.parameters(psi, y_hat, engine=engine, threads=threads, isa=isa)
        psi, y_hat = self._pair(psi, y_hat, engine)
        if tensors.native(engine):
            return _backend.load().ops.settle_y(self.packed(isa), psi, y_hat, tensors.threads_for(threads))
        found = [reference.settle(self.plan, p, y) for p, y in zip(tensors.wide(psi), y_hat.numpy(), strict=True)]
        y_hat = tensors.stacked(found, torch.int16)
        return y_hat, *self.parameters(psi, y_hat, engine=engine)

    def parameters_on(self, psi: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`parameters` by torch's own operators, on the tensors' device: GPUs have no kernel for it.

        No part of decoding: the decoding kernels write what symbols stand for themselves (:meth:`decode_queued`).
        Float64 convolutions of integers, which are exact. After a first call for a size nothing waits for the device.

        Args:
            psi: uint8 [B, h, w, P].
            y_hat: int16 [B, h, w, M], on the same device.

        Returns:
            Offset and table row, int16 [B, h, w, M], on that device.

        Raises:
            ValueError: psi and y_hat do not belong together; a plan of version 2.
        """
        from ccm_fast.entropy.network import IntegerNetwork

        tensors.check_pair(psi, y_hat, "y_hat")
        where = str(y_hat.device)
        network = self._once(("torch", where), lambda: IntegerNetwork(self.plan, device=where))
        found = network.parameters(*(v.permute(0, 3, 1, 2).double() for v in (psi, y_hat)))
        return tuple(v.permute(0, 2, 3, 1).to(torch.int16) for v in found)

    def centroids(self, y_hat: Tensor, offset: Tensor, row: Tensor) -> Tensor:
        """What symbols stand for: float32 of y_hat's shape, see :class:`ccm_fast.entropy.centroids.Centroids`.

        Args:
            y_hat: int16.
            offset: of every symbol, from :meth:`parameters` or :meth:`decode_y_parameters`.
            row: likewise.

        Raises:
            ValueError: the model is residual.
        """
        return self._centroids(y_hat.device)(y_hat, offset, row)

    def _centroids(self, device: torch.device) -> Centroids:
        from ccm_fast.entropy.centroids import Centroids

        where = str(device)
        return self._once(("centroids", where), lambda: Centroids(self.plan, where, self.shifts))

    def encode_z(
        self,
        z_hat: Tensor,
        *,
        lanes: int = 0,
        version: int = 1,
        engine: str = "cpu",
        threads: int | None = None,
        isa: str | None = None,
    ) -> list[Stream]:
        """One stream per image of z_hat int16 [B, hz, wz, N]; lanes 0: chosen by the payload. version: of the streams.

        Raises:
            ValueError: a wrong lane count, or a value that the format cannot carry (-32768).
        """
        z_hat = tensors.codable(
            tensors.latents(z_hat, self.plan.hyper_channels, "z_hat", engine), lanes, version, "z_hat"
        )
        self._check_version(version)
        if engine == "cuda" and not torch.equal(self.fix_z(z_hat), z_hat):  # others see it themselves
            raise ValueError("a channel of z_hat that is not coded has another value: see fix_z")
        if tensors.native(engine):
            found = _backend.load().ops.encode_z(
                self.packed_for(engine, isa), z_hat, stream_code(lanes, version), tensors.threads_for(threads)
            )
            return [streams[0] for streams in tensors.split(*found)]
        return [reference.encode_z(self.plan, z, lanes, version) for z in z_hat.numpy()]

    def encode_y(
        self,
        psi: Tensor,
        y_hat: Tensor,
        *,
        lanes: int = 0,
        version: int = 1,
        engine: str = "cpu",
        threads: int | None = None,
        isa: str | None = None,
    ) -> list[list[Stream]]:
        """The streams of every image, one per group. Arguments and errors as for :meth:`encode_z`.

        Raises:
            ValueError: also for residual models, and for y_hat that is not what :meth:`settle` makes of it.
        """
        if self.residual:
            raise ValueError("this model codes residuals: use encode_y_residual")
        if self.plan.skip >= 0:
            options = {"lanes": lanes, "version": version, "engine": engine, "threads": threads, "isa": isa}
            streams, settled = self.encode_settled(psi, y_hat, **options)
            if not torch.equal(settled, y_hat.to(settled.device)):
                raise ValueError("a symbol of y_hat that is not coded is not its mean's offset: see settle")
            return streams
        psi, y_hat = self._pair(psi, y_hat, engine)
        tensors.codable(y_hat, lanes, version, "y_hat")
        self._check_version(version)
        if tensors.native(engine):
            found = _backend.load().ops.encode_y(
                self.packed_for(engine, isa),
                psi,
                y_hat,
                stream_code(lanes, version),
                tensors.threads_for(threads),
            )
            return tensors.split(*found)
        return [
            reference.encode_y(self.plan, p, y, lanes, version)
            for p, y in zip(tensors.wide(psi), y_hat.numpy(), strict=True)
        ]

    def encode_settled(
        self,
        psi: Tensor,
        y_hat: Tensor,
        *,
        lanes: int = 0,
        version: int = 2,
        engine: str = "cpu",
        threads: int | None = None,
        isa: str | None = None,
    ) -> tuple[list[list[Stream]], Tensor]:
        """:meth:`settle` and :meth:`encode_y` at once: the streams of every image, and y_hat as a decoder will have it.

        Raises:
            ValueError, UnsupportedVersionError: as :meth:`encode_y`.
        """
        options = {"engine": engine, "threads": threads, "isa": isa}
        if self.plan.skip < 0:
            return self.encode_y(psi, y_hat, lanes=lanes, version=version, **options), y_hat
        psi, y_hat = self._pair(psi, y_hat, engine)
        self._check_version(version)
        tensors.codable(y_hat, lanes, version, "y_hat")
        if engine == "reference":
            y_hat = self.settle(psi, y_hat, **options)[0]
            pairs = zip(tensors.wide(psi), y_hat.numpy(), strict=True)
            return [reference.encode_y(self.plan, p, y, lanes, version) for p, y in pairs], y_hat
        code = stream_code(lanes, version)
        data, segments, y_hat = _backend.load().ops.encode_settled(
            self.packed_for(engine, isa), psi, y_hat, code, tensors.threads_for(threads)
        )
        return tensors.split(data, segments), y_hat

    def _check_version(self, version: int) -> None:
        if version < self.stream_version:
            raise ValueError("this model needs streams of version 2")

    def encode_y_residual(
        self,
        psi: Tensor,
        y: Tensor,
        *,
        lanes: int = 0,
        version: int = 1,
        engine: str = "cpu",
        threads: int | None = None,
        isa: str | None = None,
    ) -> tuple[list[list[Stream]], Tensor]:
        """The streams of every image, one per group, and y_hat as :meth:`decode_y` will give it.

        Each value becomes its mean plus a whole number, the nearest one after rounding to 1/256.

        Args:
            psi: uint8 [B, h, w, P].
            y: [B, h, w, M]; floating-point numbers, or int32 in units of 1/256.
            lanes: as for :meth:`encode_z`.
            version: as for :meth:`encode_z`.
            engine: as everywhere.
            threads: as everywhere.
            isa: as everywhere.

        Raises:
            ValueError: the model is not residual, or a value is not finite, or beyond +-2047.4375 (y_hat has
                16 bits).
        """
        if not self.residual:
            raise ValueError("this model does not code residuals: use encode_y")
        psi = tensors.features(psi, self.plan.psi_channels, engine)
        y = tensors.in_256ths(y, self.plan.latent_channels, engine)
        tensors.check_pair(psi, y, "y")
        tensors.check_lanes(lanes, version)
        self._check_version(version)
        if tensors.native(engine):
            ops = _backend.load().ops
            data, segments, y_hat = ops.encode_y_residual(
                self.packed_for(engine, isa), psi, y, stream_code(lanes, version), tensors.threads_for(threads)
            )
            return tensors.split(data, segments), y_hat
        pairs = zip(tensors.wide(psi), y.numpy(), strict=True)
        found = [reference.encode_y_residual(self.plan, p, v, lanes, version) for p, v in pairs]
        return [f[0] for f in found], tensors.stacked([f[1] for f in found], torch.int16)

    def decode_z(
        self,
        streams: Sequence[tuple[bytes | memoryview, int]],
        hz: int,
        wz: int,
        *,
        engine: str = "cpu",
        device: torch.device | str | None = None,
        threads: int | None = None,
        isa: str | None = None,
    ) -> Tensor:
        """z_hat int16 [B, hz, wz, N] of one stream (bytes, code) per image.

        Raises:
            TruncatedError, DamagedError: naming the first image whose stream is not whole.
        """
        if tensors.native(engine):
            data, segments = tensors.joined([[s] for s in streams], tensors.device_for(engine, device))
            z_hat, status = _backend.load().ops.decode_z(
                self.packed_for(engine, isa), data, segments[:, 0].contiguous(), hz, wz, tensors.threads_for(threads)
            )
            tensors.raise_for(status, "z")
            return z_hat
        found = tensors.each(streams, "z", lambda s: reference.decode_z(self.plan, s, hz, wz))
        return tensors.stacked(found, torch.int16)

    def decode_y(
        self,
        psi: Tensor,
        streams: Sequence[Sequence[tuple[bytes | memoryview, int]]],
        *,
        engine: str = "cpu",
        threads: int | None = None,
        isa: str | None = None,
    ) -> Tensor:
        """y_hat int16 [B, h, w, M], in units of ``y_unit``, of psi and, for each image, one stream per group.

        Raises:
            TruncatedError, DamagedError: naming the first image whose streams are not whole.
            ValueError: a number of streams that is not the number of groups.
        """
        self._check_streams(streams, psi.shape[0])
        psi = tensors.features(psi, self.plan.psi_channels, engine)
        if tensors.native(engine):
            data, segments = tensors.joined(streams, psi.device)
            y_hat, status = _backend.load().ops.decode_y(
                self.packed_for(engine, isa), psi, data, segments, tensors.threads_for(threads)
            )
            tensors.raise_for(status, "y")
            return y_hat
        pairs = list(zip(tensors.wide(psi), streams, strict=True))
        found = tensors.each(pairs, "y", lambda pair: reference.decode_y(self.plan, pair[0], list(pair[1])))
        return tensors.stacked(found, torch.int16)

    def decode_y_restored(
        self, psi: Tensor, streams: Sequence[Sequence[tuple[bytes | memoryview, int]]], threads: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """y_hat by the CPU engine as by :meth:`decode_y`, and what it stands for, as the decoder goes along.

        Args:
            psi: uint8 [B, h, w, P].
            streams: for each image one (bytes, code) per group.
            threads: as everywhere.

        Returns:
            y_hat int16 [B, h, w, M], and float32 of that shape as :meth:`centroids` gives it.

        Raises:
            TruncatedError, DamagedError, ValueError: as :meth:`decode_y`.
            ValueError: the model is residual.
        """
        self._check_streams(streams, psi.shape[0])
        psi = tensors.features(psi, self.plan.psi_channels, "cpu")
        table = self._centroids(psi.device).table
        y_hat, status, restored = _backend.load().ops.decode_y_restored(
            self.packed(), psi, *tensors.joined(streams, psi.device), table, tensors.threads_for(threads)
        )
        tensors.raise_for(status, "y")
        return y_hat, restored

    def decode_y_parameters(
        self, psi: Tensor, streams: Sequence[Sequence[tuple[bytes | memoryview, int]]], threads: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat by the CPU engine as by :meth:`decode_y`, with the parameters that its decoder has used anyway.

        Args:
            psi: uint8 [B, h, w, P].
            streams: for each image one (bytes, code) per group.
            threads: as everywhere.

        Returns:
            y_hat int16 [B, h, w, M], then offset and table row of every symbol as :meth:`parameters` gives them.

        Raises:
            TruncatedError, DamagedError, ValueError: as :meth:`decode_y`.
        """
        self._check_streams(streams, psi.shape[0])
        psi = tensors.features(psi, self.plan.psi_channels, "cpu")
        y_hat, status, offset, row = _backend.load().ops.decode_y_parameters(
            self.packed(), psi, *tensors.joined(streams, psi.device), tensors.threads_for(threads)
        )
        tensors.raise_for(status, "y")
        return y_hat, offset, row

    def decode(
        self,
        z_streams: Sequence[tuple[bytes | memoryview, int]],
        y_streams: Sequence[Sequence[tuple[bytes | memoryview, int]]],
        shape: tuple[int, int],
        device: torch.device | str = "cuda",
    ) -> Tensor:
        """y_hat on a GPU, from the bytes on, without waiting for the GPU in between.

        Args:
            z_streams: one (bytes, code) per image.
            y_streams: for each image one (bytes, code) per group.
            shape: (h, w), positions of y.
            device: a CUDA device.

        Returns:
            int16 [B, h, w, M] in units of ``y_unit``.

        Raises:
            TruncatedError, DamagedError: naming the first image whose streams are not whole.
            ValueError: a number of streams that is not the number of groups; no such device.
            BuildError: this build has no CUDA kernels.
        """
        streams = self.upload(z_streams, y_streams, device)
        decoded = self.decode_queued(streams, shape)
        self.check(decoded.status)
        return decoded.y_hat

    def upload(
        self,
        z_streams: Sequence[tuple[bytes | memoryview, int]],
        y_streams: Sequence[Sequence[tuple[bytes | memoryview, int]]],
        device: torch.device | str = "cuda",
        capacity: tuple[int, int] = (0, 0),
    ) -> DeviceStreams:
        """The streams of a batch on a GPU, for :meth:`decode_queued`. Errors as for :meth:`decode`.

        Args:
            z_streams: one (bytes, code) per image.
            y_streams: for each image one (bytes, code) per group.
            device: a CUDA device.
            capacity: bytes of z and of y to have room for, if those are more: for :meth:`DeviceStreams.fill`.
        """
        arrays = self.packed_streams(z_streams, y_streams, capacity)
        return DeviceStreams(*tensors.uploaded(arrays, tensors.device_for("cuda", device)))

    def packed_streams(
        self,
        z_streams: Sequence[tuple[bytes | memoryview, int]],
        y_streams: Sequence[Sequence[tuple[bytes | memoryview, int]]],
        capacity: tuple[int, int] = (0, 0),
    ) -> list[np.ndarray]:
        """What :meth:`upload` copies: the fields of :class:`DeviceStreams`, for callers that copy more with it.

        Arguments and errors as for :meth:`upload`.
        """
        self._check_streams(y_streams, len(z_streams))
        z_data, z_segments = tensors.packed([[s] for s in z_streams], capacity[0])
        return [z_data, z_segments[:, 0], *tensors.packed(y_streams, capacity[1])]

    def decode_queued(
        self,
        streams: DeviceStreams,
        shape: tuple[int, int],
        stage: Callable[[str], AbstractContextManager] = nullcontext,
        restore: bool = False,
    ) -> QueuedLatents:
        """psi and y_hat on a GPU, and whether they are, without waiting for either.

        After a first call for a model and a size, nothing here waits for the GPU or copies anything from or to it, so
        that calls can be captured in a CUDA graph, together with what uses y_hat. Such a graph decodes whatever streams
        :meth:`DeviceStreams.fill` puts into ``streams``.

        Args:
            streams: from :meth:`upload`.
            shape: (h, w), positions of y.
            stage: makes a context around each stage, given its name: ``z``, ``h_s``, ``entropy``.
            restore: also what the symbols stand for, as :meth:`centroids` gives it.

        Raises:
            ValueError: ``restore`` of a residual model.
        """
        (h, w), packed, ops = shape, self.packed_for("cuda", None), _backend.load().ops
        with stage("z"):
            z_hat, z_status = ops.decode_z(packed, streams.z_data, streams.z_segments, -(-h // 4), -(-w // 4), 1)
        with stage("h_s"):
            psi = ops.hyper(packed, z_hat, h, w, 1)
        with stage("entropy"):
            coded, restored = (packed, psi, streams.y_data, streams.y_segments), None
            if restore:
                y_hat, y_status, restored = ops.decode_y_restored(*coded, self._centroids(psi.device).table, 1)
            else:
                y_hat, y_status = ops.decode_y(*coded, 1)
        return QueuedLatents(psi, y_hat, restored, (z_status, y_status))

    @staticmethod
    def check(status: tuple[Tensor, Tensor]) -> None:
        """Wait for the status of :meth:`decode_queued`.

        Raises:
            TruncatedError, DamagedError: naming the first image whose streams are not whole.
        """
        z_status, y_status = torch.stack(status).cpu()
        tensors.raise_for(z_status, "z")
        tensors.raise_for(y_status, "y")

    def _check_streams(self, streams: Sequence[Sequence[tuple[bytes | memoryview, int]]], images: int) -> None:
        groups = len(self.plan.groups)
        if len(streams) != images or any(len(s) != groups for s in streams):
            raise ValueError(f"one stream for each of {groups} groups and {images} images is needed")

    def _pair(self, psi: Tensor, y_hat: Tensor, engine: str) -> tuple[Tensor, Tensor]:
        psi = tensors.features(psi, self.plan.psi_channels, engine)
        y_hat = tensors.latents(y_hat, self.plan.latent_channels, "y_hat", engine)
        tensors.check_pair(psi, y_hat, "y_hat")
        return psi, y_hat
