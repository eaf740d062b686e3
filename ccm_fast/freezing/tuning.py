"""Fine-tuning: integers before they are rounded, by straight-through gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

__all__ = ["LEARNING_RATES", "fine_tune"]

#: Learning rates: of weights in steps of their integers, of log-factors, of biases in steps of the output, and of the
#: scales between layers.
LEARNING_RATES = {"value": 0.1, "log_factor": 1e-3, "bias": 0.05, "log_scale": 3e-3}


def fine_tune(
    network: nn.Module,
    data: Sequence[tuple[Tensor, ...]],
    loss: Callable[[tuple[Tensor, ...], list[int]], Tensor],
    steps: int,
    batch: int,
    rates: dict[str, float] = LEARNING_RATES,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Minimise a loss over the real-valued parameters; returns its value at each step.

    Args:
        network: made of :class:`ccm_fast.freezing.layers.Layer`.
        data: samples, each a tuple of tensors [1, ...]; those of equal first shape are batched together.
        loss: of a batch (the tuples' tensors, concatenated) and the numbers of its samples.
        steps: Adam steps, on a cosine schedule.
        batch: samples per step.
        rates: see LEARNING_RATES.
        seed: of the order.
        progress: show a bar.
    """
    shapes: dict[tuple, list[int]] = {}
    for k, sample in enumerate(data):
        shapes.setdefault(tuple(sample[0].shape), []).append(k)
    generator = torch.Generator().manual_seed(seed)
    groups = {kind: [] for kind in rates}
    for name, parameter in network.named_parameters():
        last = name.rpartition(".")[2]
        kind = "log_scale" if last.startswith("log_scale") else last if last in rates else "value"
        groups[kind].append(parameter)
    optimizer = torch.optim.Adam([{"params": p, "lr": rates[k]} for k, p in groups.items()], betas=(0.9, 0.99))
    base = [group["lr"] for group in optimizer.param_groups]
    queue: list[list[int]] = []
    history = []
    for step in tqdm(range(steps), disable=not progress, unit="step", desc="fine-tuning"):
        if not queue:
            for members in shapes.values():
                order = [members[k] for k in torch.randperm(len(members), generator=generator).tolist()]
                queue += [order[k : k + batch] for k in range(0, len(order), batch)]
            queue = [queue[k] for k in torch.randperm(len(queue), generator=generator).tolist()]
        chosen = queue.pop()
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        tensors = tuple(torch.cat(parts) for parts in zip(*(data[k] for k in chosen), strict=True))
        value = loss(tensors, chosen)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        history.append(float(value.detach()))
    return history
