"""Trains the integers of single groups on what the default encoder codes; everything else stays as it is.

Freezing tunes all integers together, on symbols that the float model would choose. Here the symbols are those of files:
tables, skipping and the other groups are the frozen model's own. So a group can be given another structure (the fine
group without a context of its own, which is then decoded in one step), or be fitted to a later encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.effort.search import SHRINK_PENALTY, round_towards_mean, symbol_curvature
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.likelihood import logistic_likelihood, scale_from_index
from ccm_fast.entropy.network import TableCost, offsets_and_rows
from ccm_fast.entropy.plan import NUM_INDEXES, GroupPlan, IntConv, Plan
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.freezing.calibration import code_length
from ccm_fast.freezing.fitting import Latents, symbols
from ccm_fast.freezing.layers import Layer, fine_tune
from ccm_fast.freezing.rounded import Group, Network
from ccm_fast.models.ccm import CrossChannelContextModel

__all__ = ["Chooser", "Coded", "TableLength", "channels_of", "coded", "put_back", "retrain", "rounded_network"]


class Coded(NamedTuple):
    """Of one crop, what an encoder starts from and what a decoder has.

    Attributes:
        y_hat: int16 [1, M, h, w], of the default encoder.
        psi: uint8 [1, P, h, w].
        y: float16 [1, M, h, w], not rounded.
        quality: 1 to 8.
        bits: of all its symbols of y, by the frozen networks and the distribution that training uses.
    """

    y_hat: Tensor
    psi: Tensor
    y: Tensor
    quality: float
    bits: float


def _assign(layer: Layer, plan: IntConv) -> None:
    factor = torch.from_numpy(np.ldexp(plan.mult.astype(np.float64), -plan.shift))
    weight = torch.from_numpy(plan.weight.astype(np.float32)).permute(0, 3, 1, 2)
    layer.set(weight, factor.float(), (torch.from_numpy(plan.bias.astype(np.float64)) * factor).float())


def _assign_group(group: Group, plan: GroupPlan, kernel: int) -> None:
    _assign(group.hyper, plan.hyper)
    for layer, conv in zip(group.stack, plan.stack, strict=True):
        _assign(layer, conv)
    if group.skip is not None:
        _assign(group.skip, plan.skip)
    spatial = None
    if group.schedule is not None:
        width, _, channels = plan.weight.shape
        spatial = torch.zeros(width, channels, kernel, kernel)
        for t, (di, dj) in enumerate(plan.taps.tolist()):
            spatial[:, :, di + kernel // 2, dj + kernel // 2] = torch.from_numpy(plan.weight[:, t].astype(np.float32))
    group.set_spatial(spatial, torch.from_numpy(np.ldexp(plan.mult.astype(np.float64), -plan.shift)).float())
    for layer, conv in zip([*group.hidden, group.head], [*plan.hidden, plan.head], strict=True):
        _assign(layer, conv)


@torch.no_grad()
def rounded_network(model: CrossChannelContextModel) -> Network:
    """The integers of a frozen model as :class:`~ccm_fast.freezing.rounded.Network`, which can be trained on.

    Taps that the schedule of a group has and its plan lacks are zero. What the model's configuration gives no own
    context is left without, whatever the plan has there.

    Raises:
        ValueError: the plan's layers are not those of the configuration.
    """
    plan, network = model.frozen.plan, Network(model)
    for layer, conv in zip(network.h_s, plan.hyper_synthesis, strict=True):
        _assign(layer, conv)
    for group, part in zip(network.groups, plan.groups, strict=True):
        _assign_group(group, part, model.config.context_kernel)
    return network


def channels_of(network: Network, group: int) -> slice:
    """The channels of y of a group."""
    start = sum(g.channels for g in network.groups[:group])
    return slice(start, start + network.groups[group].channels)


def _parameters(network: Network, group: int, y_hat: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    """Mean code and scale index of one group, rounded, with gradients."""
    own = channels_of(network, group)
    known = y_hat[:, : own.stop].float().clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
    return network.groups[group](psi.float(), known[:, : own.start], known[:, own])


@torch.no_grad()
def coded(model: CrossChannelContextModel, network: Network, crop: Latents) -> Coded:
    """What the default encoder codes of a crop, and about how many bits that takes.

    Args:
        model: frozen.
        network: its :func:`rounded_network`.
        crop: as :func:`ccm_fast.freezing.freeze.collect` gives them.
    """
    _, y_hat, _, _ = symbols(model, crop)
    z_hat = model.frozen.fix_z(crop.z_hat.permute(0, 2, 3, 1).short().contiguous())
    psi = model.frozen.hyper(z_hat, *crop.y_hat.shape[2:])
    y_hat, psi = (t.permute(0, 3, 1, 2).contiguous() for t in (y_hat, psi))
    bits = 0.0
    for group in range(len(network.groups)):
        mean, index = _parameters(network, group, y_hat, psi)
        bits += float(code_length(y_hat[:, channels_of(network, group)].float(), mean / 16, index))
    return Coded(y_hat, psi, (crop.y_hat + crop.rest).half(), crop.quality, bits)


class Chooser:
    """A group's symbols as the default encoder would choose them with other networks.

    Symbols that the plan skips are chosen, too: networks shall not learn that a small scale makes them cost nothing.

    Args:
        model: frozen; its tables, centroids and sensitivities are the encoder's.
        channels: of the group.
    """

    def __init__(self, model: CrossChannelContextModel, channels: slice):
        self.model, self.channels = model, channels
        self.bits = TableCost(model.frozen.plan.y_rows, torch.float32)

    @torch.no_grad()
    def __call__(self, y: Tensor, mean: Tensor, index: Tensor, quality: Tensor) -> Tensor:
        """Symbols, float of the shape of y: [B, C, h, w]; of means (in 1/16), scale indexes, and qualities [B]."""
        frozen = self.model.frozen
        offset, row = offsets_and_rows(frozen.plan, mean, index)
        weight = SHRINK_PENALTY * symbol_curvature(self.model, quality, grey=False)[:, self.channels]
        y, offset, row = y.float(), offset.int(), row.int()
        restored = frozen.centroids if self.model.config.reconstruction == "centroid" else _as_they_are
        return round_towards_mean(y, torch.round(y).int(), offset, row, self.bits, weight, restored).float()


def _as_they_are(y_hat: Tensor, offset: Tensor, row: Tensor) -> Tensor:
    return y_hat.float()


class TableLength:
    """What symbols cost by a plan's tables, with gradients of means and scale indexes by differences of the tables.

    Of what lies further than 64 steps from its mean, the logistic distribution's code length, which is as steep.

    Args:
        plan: whose tables; those of symbols that it skips count, too.
    """

    _REACH, _SPAN = 16 * 64, 4  # 1/16; tables of large scales tell no finer fractions apart than half a step

    def __init__(self, plan: Plan):
        distance = torch.arange(-self._REACH, self._REACH + 1)[None].expand(NUM_INDEXES, -1)
        index = torch.arange(NUM_INDEXES)[:, None].expand_as(distance)
        # As symbols of 0 with the means that lie so far below.
        offset, row = offsets_and_rows(plan, -distance, index)
        self.bits = TableCost(plan.y_rows, torch.float32)(row.int(), -offset.int())

    def __call__(self, y: Tensor, mean: Tensor, index: Tensor) -> Tensor:
        """Bits of every symbol: y, means in 1/16 and scale indexes, the latter two whole numbers; all of one shape."""
        with torch.no_grad():
            distance, s = torch.round(16 * y - mean), torch.round(index).clamp(0, NUM_INDEXES - 1).long()
            near = distance.abs() <= self._REACH - self._SPAN
            place = (distance.clamp(self._SPAN - self._REACH, self._REACH - self._SPAN) + self._REACH).long()
            below, above = (s - 1).clamp(min=0), (s + 1).clamp(max=NUM_INDEXES - 1)
            value = self.bits[s, place]
            by_mean = (self.bits[s, place - self._SPAN] - self.bits[s, place + self._SPAN]) / (2 * self._SPAN)
            by_index = (self.bits[above, place] - self.bits[below, place]) / (above - below)
        tables = value + (mean - mean.detach()) * by_mean + (index - index.detach()) * by_index
        return torch.where(near, tables, -torch.log2(logistic_likelihood(y, mean / 16, scale_from_index(index))))


def retrain(
    model: CrossChannelContextModel,
    network: Network,
    group: int,
    data: Sequence[Coded],
    *,
    steps: int,
    batch: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Train the integers of one group in place; returns the relative code length of every step.

    Of a batch's bits those of the group, relative to what all groups took before: 0.2 is a fifth. Its own symbols are
    chosen anew in every step: on those that fitted the old network, one without an own context took 0.03 % fewer bits
    than before, and 0.2 to 0.3 % more in files, where the encoder chooses by what the new one says.

    Args:
        model: frozen, with what its encoder needs.
        network: of :func:`rounded_network`.
        group: which.
        data: of :func:`coded`.
        steps: of Adam, on a cosine schedule.
        batch: crops a step.
        seed: of their order.
        progress: show a bar.
    """
    bits, quality = torch.tensor([c.bits for c in data]), torch.tensor([c.quality for c in data])
    own = channels_of(network, group)
    choose, length = Chooser(model, own), TableLength(model.frozen.plan)

    def loss(tensors: tuple[Tensor, ...], chosen: list[int]) -> Tensor:
        y_hat, psi, y = tensors
        mean, index = _parameters(network, group, y_hat, psi)
        wanted = choose(y, mean, index, quality[chosen])
        return (length(wanted, mean, index).flatten(1).sum(1) / bits[chosen]).mean()

    part = network.groups[group]
    part.share_scales()
    samples = [(c.y_hat[:, : own.stop], c.psi, c.y[:, own]) for c in data]
    with torch.enable_grad():
        return fine_tune(part, samples, loss, steps, batch, seed=seed, progress=progress)


def put_back(model: CrossChannelContextModel, network: Network, group: int) -> None:
    """Give a frozen model the integers of one group of `network`; tables and centroids stay.

    A group without a context of its own gets the schedule in which all its positions are decoded at once, a row at a
    time (FORMAT.md, section 7).

    Raises:
        OverflowProofError: some input could overflow 32 bits.
    """
    plan, part = model.frozen.plan, network.groups[group].export(model.config.context_kernel)
    schedules = plan.schedules
    if not len(part.taps):
        schedules = [plan.schedule_of(g) for g in range(len(plan.groups))]
        schedules[group] = Schedule(row_step=1)
    groups = [*plan.groups[:group], part, *plan.groups[group + 1 :]]
    plan = replace(plan, groups=groups, schedules=None if schedules is None else tuple(schedules))
    model.frozen = FrozenEntropyModel(plan, model.frozen.shifts)
