"""A plan, its packed forms, and what it says of symbols: their parameters and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ccm_fast import _backend
from ccm_fast.entropy import reference, tensors
from ccm_fast.entropy.plan import CODED, Plan
from ccm_fast.locks import ForkSafeLock

if TYPE_CHECKING:
    from typing_extensions import Self

    from ccm_fast.entropy.centroids import Centroids

__all__ = ["PackedPlan"]


class PackedPlan:
    """What both directions of :class:`ccm_fast.entropy.frozen.FrozenEntropyModel` share; its arguments are the same."""

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
    def from_bytes(cls, data: bytes, shifts: Tensor | None = None) -> Self:
        """Read a plan; raises :class:`ccm_fast.entropy.plan.PlanError` on a bad one."""
        return cls(Plan.from_bytes(data), shifts)

    def __repr__(self) -> str:
        p = self.plan
        return f"{type(self).__name__}({self.fingerprint.hex()}, groups={p.group_channels}, N={p.hyper_channels})"

    def __getstate__(self) -> dict:
        return {"data": self._bytes, "shifts": self.shifts}

    def __setstate__(self, state: dict) -> None:
        self.__init__(Plan.from_bytes(state["data"]), state["shifts"])

    def __deepcopy__(self, memo: dict) -> Self:
        return self  # immutable

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
        where = str(z_hat.device)
        found = self._once(("z values", where), lambda: torch.from_numpy(self.plan.z_values).to(where))
        values = found.to(z_hat.dtype)
        return torch.where(values == CODED, z_hat, values)

    def settle(
        self, psi: Tensor, y_hat: Tensor, *, engine: str = "cpu", threads: int | None = None, isa: str | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat as a decoder will have it, with its offset and row, int16 [B, h, w, M] each.

        Symbols that are not coded are their means' offsets; those hang on the symbols before them. Where everything is
        coded, y_hat is what it was. Engine "cuda": after a first call for a size nothing waits for the device.

        Raises:
            ValueError: the model is residual; engine "cuda" with a plan of version 2.
        """
        if self.residual:
            raise ValueError("residual models code all symbols")
        if self.plan.skip < 0:
            return y_hat, *self.parameters(psi, y_hat, engine=engine, threads=threads, isa=isa)
        psi, y_hat = self._pair(psi, y_hat, engine)
        if engine == "cuda":
            y_hat = _backend.load().ops.settled(self.packed_for(engine, isa), psi, y_hat, 1)
            return y_hat, *self.parameters_on(psi, y_hat)
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

    def centroid_shifts(self) -> Tensor:
        """What symbols stand for beside themselves, float32 [rows, 2 REACH + 1] on the CPU. Errors likewise."""
        return self._centroids(torch.device("cpu")).table

    def _centroids(self, device: torch.device) -> Centroids:
        from ccm_fast.entropy.centroids import Centroids

        where = str(device)
        return self._once(("centroids", where), lambda: Centroids(self.plan, where, self.shifts))

    def _check_streams(self, streams: Sequence[Sequence[tuple[bytes | memoryview, int]]], images: int) -> None:
        groups = len(self.plan.groups)
        if len(streams) != images or any(len(s) != groups for s in streams):
            raise ValueError(f"one stream for each of {groups} groups and {images} images is needed")

    def _check_version(self, version: int) -> None:
        if version < self.stream_version:
            raise ValueError("this model needs streams of version 2")

    def _pair(self, psi: Tensor, y_hat: Tensor, engine: str) -> tuple[Tensor, Tensor]:
        psi = tensors.features(psi, self.plan.psi_channels, engine)
        y_hat = tensors.latents(y_hat, self.plan.latent_channels, "y_hat", engine)
        tensors.check_pair(psi, y_hat, "y_hat")
        return psi, y_hat
