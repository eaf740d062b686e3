"""One process or several: the few collective operations that training needs.

``torchrun --nproc-per-node=N -m ccm_fast train ...`` starts N processes; gloo connects them on CPUs, NCCL on GPUs.
Gradients are averaged here and not by DistributedDataParallel, which would need to know which parameters a stage leaves
out, and whose hooks a model of ten megabytes does not need.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Processes"]


class Processes:
    """This process among those of a run; a run of one needs no set-up and does no communication.

    Args:
        device: "cpu", "cuda" (each process then takes the GPU of its local rank), or a certain device.
    """

    def __init__(self, device: str = "cpu"):
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = torch.device(device)
        self._started = False
        if self.world > 1:
            if device == "cuda":
                self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
                torch.cuda.set_device(self.device)
            if not dist.is_initialized():
                dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
                self._started = True

    @property
    def first(self) -> bool:
        """Whether this is the process that writes checkpoints and the log."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the group, if it was joined here."""
        if self._started:
            dist.destroy_process_group()
            self._started = False

    @torch.no_grad()
    def equalise(self, model: nn.Module) -> None:
        """Everybody takes the first process's parameters."""
        if self.world > 1:
            for t in model.state_dict().values():
                dist.broadcast(t, 0)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over the processes, in one message."""
        if self.world > 1:
            grads = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([g.reshape(-1) for g in grads])
            dist.all_reduce(flat)
            flat /= self.world
            for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
                g.copy_(part.view_as(g))

    def largest(self, *values: float) -> list[float]:
        """The maximum of each value over the processes, so that all of them decide alike."""
        if self.world == 1:
            return list(values)
        t = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(t, dist.ReduceOp.MAX)
        return t.tolist()

    def gather(self, state: object) -> list:
        """One picklable object of each process, on every process."""
        if self.world == 1:
            return [state]
        out: list = [None] * self.world
        dist.all_gather_object(out, state)
        return out

    @torch.no_grad()
    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values
