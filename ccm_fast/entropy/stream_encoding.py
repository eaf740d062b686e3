"""From latents to streams, by every engine."""

from __future__ import annotations

import torch
from torch import Tensor

from ccm_fast import _backend
from ccm_fast.entropy import reference, tensors
from ccm_fast.entropy.packed import PackedPlan
from ccm_fast.entropy.tensors import DeviceStreams
from ccm_fast.stream.packet import Stream, stream_code

__all__ = ["StreamEncoding"]


class StreamEncoding(PackedPlan):
    """The half of :class:`ccm_fast.entropy.frozen.FrozenEntropyModel` that encodes."""

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

    def encode_queued(self, z_hat: Tensor, psi: Tensor, y_hat: Tensor, lanes: int = 0) -> tuple[DeviceStreams, Tensor]:
        """:meth:`encode_z` and :meth:`encode_settled` on a GPU, streams of version 2, without waiting for any of it.

        After a first call for a model and a size nothing is copied from or to the device.

        Args:
            z_hat: int16 [B, hz, wz, N] after :meth:`fix_z`.
            psi: uint8 [B, h, w, P], of it.
            y_hat: int16 [B, h, w, M], there too.
            lanes: as for :meth:`encode_z`.

        Returns:
            The streams, for :meth:`fetch` or :meth:`decode_queued`, and y_hat as a decoder will have it.
        """
        tensors.check_lanes(lanes, 2)
        ops, packed, code = _backend.load().ops, self.packed_for("cuda", None), stream_code(lanes, 2)
        z_streams = ops.encode_z(packed, z_hat, code, 1)
        *y_streams, settled = ops.encode_settled(packed, psi, y_hat, code, 1)
        return DeviceStreams(*z_streams, *y_streams), settled

    @staticmethod
    def fetch(streams: DeviceStreams, *questions: Tensor) -> tuple[list[Stream], list[list[Stream]], list[list[bool]]]:
        """The bytes of :meth:`encode_queued`: the first time that the host waits for the device.

        Args:
            streams: on the device.
            questions: bool [B] each, there, whose values are wanted.

        Returns:
            z's stream of each image, y's of each image and group, and what the questions hold. Of what cannot be coded
            there is an empty stream of version 1.
        """
        parts = (streams.z_segments, streams.y_segments)
        known = torch.cat([*(q.to(torch.int64) for q in questions), *(p.flatten() for p in parts)]).cpu()
        *answers, z_segments, y_segments = known.split([p.numel() for p in (*questions, *parts)])
        # Of the room for streams a small part is filled: what leaves the device is gathered there.
        rows = [*z_segments.view(-1, 3).tolist(), *y_segments.view(-1, 3).tolist()]
        images = len(streams.z_segments)
        from_ = [streams.z_data] * images + [streams.y_data] * (len(rows) - images)
        pieces = [data[at : at + size] for data, (at, size, _) in zip(from_, rows, strict=True)]
        raw, at, found = memoryview(torch.cat(pieces).cpu().numpy()), 0, []
        for _, size, code in rows:
            found.append(Stream(bytes(raw[at : at + size]), code))
            at += size
        groups = streams.y_segments.shape[1]
        y_streams = [found[k : k + groups] for k in range(images, len(found), groups)]
        return found[:images], y_streams, [a.bool().tolist() for a in answers]

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
