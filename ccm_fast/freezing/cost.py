"""What the integers cost: code lengths of the float model and of the frozen one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ccm_fast.constants import NUM_SCALES
from ccm_fast.entropy.likelihood import logistic_likelihood, scale_from_index
from ccm_fast.entropy.network import IntegerNetwork, TableCost, offsets_and_rows
from ccm_fast.entropy.plan import Plan
from ccm_fast.entropy.tables import typical_rows
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.pixels import image_tensor

__all__ = ["Cost", "integer_cost", "latents"]


@torch.no_grad()
def latents(model: CrossChannelContextModel, images: Tensor, quality: float) -> tuple[Tensor, Tensor]:
    """y_hat [B, M, h, w] and z_hat [B, N, hz, wz] of images [B, 3, H, W] in [0, 1], whole numbers in float32.

    Symbols of y are those that the float model's own encoder would code (:meth:`CrossChannelContextModel.coded`).
    """
    y = model.analysis(images, torch.full((images.shape[0],), float(quality)))
    z_hat = torch.round(model.h_a(y))
    return model.coded(y, z_hat), z_hat


class Cost(NamedTuple):
    """Code length of a set of images at one quality, in bits.

    Attributes:
        quality: the quality.
        pixels: of all images.
        float_bits: part ("z", "y0", "y1", ...) -> bits of the float model.
        integer_bits: the same of the frozen model.
        causes: cause -> added bits of all parts: "tables" (grids of mean and scale, 16-bit probabilities, escapes),
            "weights" (8-bit weights), "activations" (rounding and saturation of activations) and "shapes" (tables that
            fit better than the usual shape: less than none); they add up.
    """

    quality: float
    pixels: int
    float_bits: dict[str, float]
    integer_bits: dict[str, float]
    causes: dict[str, float]

    @property
    def growth(self) -> float:
        """Relative growth of the code length."""
        return sum(self.integer_bits.values()) / sum(self.float_bits.values()) - 1.0

    @property
    def integer_growth(self) -> float:
        """The same with tables of the usual shape: what integers alone cost."""
        return self.growth - self.causes["shapes"] / sum(self.float_bits.values())

    def __str__(self) -> str:
        total = sum(self.float_bits.values())
        parts = ", ".join(
            f"{k} {v:.0f} -> {self.integer_bits[k]:.0f} ({100 * (self.integer_bits[k] / v - 1):+.2f} %)"
            for k, v in self.float_bits.items()
        )
        causes = ", ".join(f"{k} {100 * v / total:+.3f} %" for k, v in self.causes.items())
        return (
            f"quality {self.quality:g}: {total / self.pixels:.4f} bpp, integers {100 * self.growth:+.3f} % ({causes}); "
            f"bits: {parts}"
        )


class _Meter:
    """Adds up code lengths of y and z in every variant."""

    def __init__(self, model: CrossChannelContextModel, plan: Plan):
        self.model, self.plan = model, plan
        self.exact, self.smooth = IntegerNetwork(plan), IntegerNetwork(plan, exact=False)
        self.y_cost, self.z_cost = TableCost(plan.y_rows), TableCost(plan.z_rows)
        # Plans have the rows of `typical_rows`, or of the same lengths: see freeze.
        own = len(plan.y_rows) != len(typical_rows()) or (plan.y_rows.n != typical_rows().n).any()
        self.typical_cost = self.y_cost if own else TableCost(typical_rows())

    def __call__(self, y_hat: Tensor, z_hat: Tensor) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        plan, h, w = self.plan, *y_hat.shape[-2:]
        y, z = y_hat.to(torch.int64), z_hat.to(torch.int64)

        mean, index = self.model.entropy_parameters(y_hat, z_hat)
        mean, index = mean.double(), index.double()
        real = -torch.log2(logistic_likelihood(y_hat.double(), mean, scale_from_index(index)))
        real_z = -torch.log2(self.model.z_prior(z_hat).double())

        per_index = (len(plan.scale_table) - 1) / (NUM_SCALES - 1)
        variants = {
            "tables": (16 * mean, index * per_index),
            "weights": self.smooth.codes(self.smooth.hyper(z_hat, h, w), y_hat),
            "activations": self.exact.codes(self.exact.hyper(z_hat, h, w), y_hat),
        }
        bits = {}
        for name, (m, s) in variants.items():
            offset, row = offsets_and_rows(plan, m, s)
            bits[name] = self.typical_cost(row, y - offset)
        bits["shapes"] = self.y_cost(row, y - offset)  # of the last variant, what is coded
        channel = torch.arange(plan.hyper_channels)[None, :, None, None].expand_as(z)
        coded_z = float(self.z_cost(channel, z).sum())

        def parts(of_y: Tensor, of_z: float) -> dict[str, float]:
            out = {"z": of_z}
            for g, part in enumerate(of_y.split(list(plan.group_channels), dim=1)):
                out[f"y{g}"] = float(part.sum())
            return out

        causes, before = {}, float(real.sum() + real_z.sum())
        for name, value in bits.items():
            after = float(value.sum()) + coded_z
            causes[name], before = after - before, after
        return parts(real, float(real_z.sum())), parts(bits["shapes"], coded_z), causes


def _added(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {k: a.get(k, 0.0) + v for k, v in b.items()}


@torch.no_grad()
def integer_cost(
    model: CrossChannelContextModel,
    plan: Plan,
    images: Iterable[Tensor | np.ndarray],
    qualities: Sequence[float] = (2.0, 4.0, 6.0),
) -> list[Cost]:
    """Code lengths of the float model and of its frozen one, summed over images.

    Latents are as the float model codes them. Float: exact likelihoods with continuous means and scales, at least 1e-9.
    Integer: -log2 of the frequencies of the table entries that would be coded, and the raw bits of escapes.

    Args:
        model: the float model, in evaluation mode.
        plan: its frozen entropy model, a :class:`Plan` or something with one as ``.plan``.
        images: as for :func:`image_tensor`.
        qualities: where to measure.

    Returns:
        One :class:`Cost` per quality.
    """
    plan = getattr(plan, "plan", plan)
    meter = _Meter(model, plan)
    totals: dict[float, list[dict[str, float]]] = {q: [{}, {}, {}] for q in qualities}
    pixels = 0
    for image in images:
        x = image_tensor(image)[None]
        pixels += x.shape[-2] * x.shape[-1]
        for q in qualities:
            found = meter(*latents(model, x, q))
            totals[q] = [_added(a, b) for a, b in zip(totals[q], found, strict=True)]
    return [Cost(q, pixels, *totals[q]) for q in qualities]
