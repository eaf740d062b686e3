"""From streams to latents, by every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from ccm_fast import _backend
from ccm_fast.entropy import reference, tensors
from ccm_fast.entropy.packed import PackedPlan
from ccm_fast.entropy.tensors import DeviceStreams, QueuedLatents

__all__ = ["StreamDecoding"]


class StreamDecoding(PackedPlan):
    """The half of :class:`ccm_fast.entropy.frozen.FrozenEntropyModel` that decodes."""

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
