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
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.likelihood import gaussian_likelihood, scale_from_index
from ccm_fast.entropy.plan import NUM_INDEXES, GroupPlan, IntConv, Plan, requantization_factor
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.entropy.tables import COMPONENTS, fit_shapes
from ccm_fast.freezing.fitting import Latents, symbols
from ccm_fast.freezing.layers import Layer
from ccm_fast.freezing.rounded import Group, Network
from ccm_fast.freezing.tuning import fine_tune
from ccm_fast.models.ccm import CrossChannelContextModel

# Symbols less their offsets that shapes are fitted by.
_SHAPED = 64

__all__ = ["Coded", "TableLength", "channels_of", "coded", "put_back", "retrain", "rounded_network"]


class Coded(NamedTuple):
    """Of one crop, what a decoder has.

    Attributes:
        y_hat: int16 [1, M, h, w].
        psi: uint8 [1, P, h, w].
        bits: of all its symbols of y, by the frozen networks and :class:`TableLength`.
    """

    y_hat: Tensor
    psi: Tensor
    bits: float


def _assign(layer: Layer, plan: IntConv) -> None:
    factor = torch.from_numpy(requantization_factor(plan.mult, plan.shift))
    weight = torch.from_numpy(plan.weight.astype(np.float32)).permute(0, 3, 1, 2)
    layer.set(weight, factor.float(), (torch.from_numpy(plan.bias.astype(np.float64)) * factor).float())


def _assign_group(group: Group, plan: GroupPlan, kernel: int) -> None:
    _assign(group.hyper, plan.hyper)
    for layer, conv in zip(group.stack, plan.stack, strict=True):
        _assign(layer, conv)
    if group.skip is not None:
        _assign(group.skip, plan.skip)
    spatial = None
    if group.usable is not None:
        width, _, channels = plan.weight.shape
        spatial = torch.zeros(width, channels, kernel, kernel)
        for t, (di, dj) in enumerate(plan.taps.tolist()):
            spatial[:, :, di + kernel // 2, dj + kernel // 2] = torch.from_numpy(plan.weight[:, t].astype(np.float32))
    group.set_spatial(spatial, torch.from_numpy(requantization_factor(plan.mult, plan.shift)).float())
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
    """The channels of y of a group, given by its number from 0."""
    start = sum(g.channels for g in network.groups[:group])
    return slice(start, start + network.groups[group].channels)


def _parameters(network: Network, group: int, y_hat: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    """Mean code and scale index of one group, rounded, with gradients."""
    own = channels_of(network, group)
    known = y_hat[:, : own.stop].float().clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
    return network.groups[group](psi.float(), known[:, : own.start], known[:, own])


@torch.no_grad()
def coded(model: CrossChannelContextModel, network: Network, length: TableLength, crop: Latents) -> Coded:
    """What the default encoder codes of a crop, and about how many bits that takes.

    Args:
        model: frozen.
        network: its :func:`rounded_network`.
        length: of its plan.
        crop: as :func:`ccm_fast.freezing.freeze.collect` gives them.
    """
    _, y_hat, _, _ = symbols(model, crop)
    z_hat = model.frozen.fix_z(crop.z_hat.permute(0, 2, 3, 1).short().contiguous())
    psi = model.frozen.hyper(z_hat, *crop.y_hat.shape[2:])
    y_hat, psi = (t.permute(0, 3, 1, 2).contiguous() for t in (y_hat, psi))
    bits = 0.0
    for group in range(len(network.groups)):
        mean, index = _parameters(network, group, y_hat, psi)
        bits += float(length(y_hat[:, channels_of(network, group)].float(), mean, index))
    return Coded(y_hat, psi, bits)


class TableLength:
    """What symbols cost by a plan's tables, as a smooth function of means and scales.

    Tables are scale mixtures of Gaussians (:mod:`ccm_fast.entropy.tables`), whose weights are fitted to them again: by
    the logistic distribution, which floats are trained with, a network took 0.03 % fewer bits than the one before, and
    by the tables 0.13 % more. Differences of the tables themselves are no gradients: what is rarest costs 16 bits,
    however far from its mean, and networks fell apart.

    Args:
        plan: whose tables.
    """

    def __init__(self, plan: Plan):
        counts = np.zeros((len(plan.y_rows), 2 * _SHAPED + 1))
        for r in range(len(counts)):
            low, frequencies = int(plan.y_rows.lo[r]), np.diff(plan.y_rows.row(r))[:-1]  # without the escape
            symbols = np.arange(low, low + len(frequencies))
            near = np.abs(symbols) <= _SHAPED
            counts[r, symbols[near] + _SHAPED] = frequencies[near]
        self.weights = torch.from_numpy(fit_shapes(counts)).float()  # [64, components]
        self.skip = plan.skip

    def __call__(self, y: Tensor, mean: Tensor, index: Tensor) -> Tensor:
        """Bits [B] of symbols [B, C, h, w], with their means in 1/16 and their scale indexes, both whole numbers.

        Symbols that are skipped cost nothing where they are what they would be decoded to. Others cost what they would
        if they were coded, so that networks do not learn to skip what differs.
        """
        away = y - mean / 16
        counted = ((index > self.skip + 0.5) | (away.abs() > 0.5)).nonzero(as_tuple=True)
        y, mean, index = y[counted], mean[counted] / 16, index[counted]
        shape = self.weights[index.detach().clamp(0, NUM_INDEXES - 1).long()]
        sigma = scale_from_index(index)
        total = torch.zeros_like(sigma)
        for k, width in enumerate(COMPONENTS):
            total = total + shape[:, k] * gaussian_likelihood(y, mean, width * sigma)
        bits = -torch.log2(total)
        return torch.zeros(len(away)).index_add(0, counted[0], bits)


def retrain(
    network: Network,
    length: TableLength,
    group: int,
    data: Sequence[Coded],
    *,
    steps: int,
    batch: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Train the integers of one group in place; returns the relative code length of every step.

    Of a batch's bits those of the group, relative to what all groups took before: 0.2 is a fifth. Symbols are those
    that fitted the network before. Chosen anew in every step, by what the network says then, they cost more and more.

    Args:
        network: of :func:`rounded_network`.
        length: of the model's plan.
        group: its number, from 0.
        data: of :func:`coded`.
        steps: of Adam, on a cosine schedule.
        batch: crops a step.
        seed: of their order.
        progress: show a bar.
    """
    bits, own = torch.tensor([c.bits for c in data]), channels_of(network, group)

    def loss(tensors: tuple[Tensor, ...], chosen: list[int]) -> Tensor:
        y_hat, psi = tensors
        mean, index = _parameters(network, group, y_hat, psi)
        return (length(y_hat[:, own].float(), mean, index) / bits[chosen]).mean()

    part = network.groups[group]
    part.share_scales()
    samples = [(c.y_hat[:, : own.stop], c.psi) for c in data]
    with torch.enable_grad():
        return fine_tune(part, samples, loss, steps, batch, seed=seed, progress=progress)


def put_back(model: CrossChannelContextModel, network: Network, group: int) -> None:
    """Give a frozen model the integers of one group of `network`; tables and centroids stay.

    A group without a context of its own gets the schedule in which all its positions are decoded at once, a row at a
    time (FORMAT.md, section 7).

    Args:
        model: frozen.
        network: of :func:`rounded_network`.
        group: its number, from 0.

    Raises:
        OverflowProofError: some input could overflow 32 bits.
    """
    plan, part = model.frozen.plan, network.groups[group].export()
    schedules = plan.schedules
    if not len(part.taps):
        schedules = [plan.schedule_of(g) for g in range(len(plan.groups))]
        schedules[group] = Schedule(row_step=1)
    groups = [*plan.groups[:group], part, *plan.groups[group + 1 :]]
    plan = replace(plan, groups=groups, schedules=None if schedules is None else tuple(schedules))
    model.frozen = FrozenEntropyModel(plan, model.frozen.shifts)
