"""Tables and centroids from what an encoder codes: the last step of freezing.

Both are tables that the decoder looks things up in, so that their form is free: :func:`fit_shapes` makes the
distributions that scales stand for, :class:`ShiftFit` the values that symbols stand for. They are fitted to symbols as
the default encoder chooses them, which depends on both, so it is done twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ccm_fast.entropy.centroids import ShiftFit
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.tables import fit_shapes, shaped_rows
from ccm_fast.freezing.reduced import fit_reduced
from ccm_fast.tiles import TILE_PIXELS

if TYPE_CHECKING:
    from ccm_fast.models import CrossChannelContextModel

__all__ = ["FITTED_CROPS", "Latents", "fit_to_symbols", "symbols"]

# Symbols less their offsets that are counted for shapes; how many symbols there have to be; rounds; crops that the
# sensitivities of g_s are measured on, and short ways to smaller pictures fitted to.
_COUNTED, _ENOUGH, _ROUNDS = 64, 1 << 20, 2
_PROBED = 64
#: Crops that are looked at.
FITTED_CROPS = 480


class Latents(NamedTuple):
    """Of one crop.

    Attributes:
        y_hat: float32 [1, M, h, w], y rounded as the float model would code it.
        z_hat: float32 [1, N, hz, wz], z rounded.
        rest: float16, y - y_hat.
        quality: 1 to 8.
        size: (H, W) of the crop.
    """

    y_hat: Tensor
    z_hat: Tensor
    rest: Tensor
    quality: float
    size: tuple[int, int]


def symbols(model: CrossChannelContextModel, data: Latents) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, and the default encoder's symbols with their offsets and rows; [1, h, w, M]."""
    from ccm_fast.effort import level_for
    from ccm_fast.effort.search import better_symbols

    level = level_for(model, None)
    y, z = data.y_hat + data.rest, data.z_hat
    z_hat = model.frozen.fix_z(z.permute(0, 2, 3, 1).short().contiguous())
    psi = model.frozen.hyper(z_hat, *y.shape[2:])
    if level.rounding:
        options = {"read": _no_pixels, "size": data.size, "grey": False, "tile_pixels": TILE_PIXELS, "engine": "cpu"}
        quality = torch.tensor([data.quality])
        y_hat, *_ = better_symbols(model, y, z, z_hat, psi, quality, level, threads=1, **options)
    else:
        y_hat = torch.round(y).permute(0, 2, 3, 1).short().contiguous()
    return y.permute(0, 2, 3, 1), *model.frozen.settle(psi, y_hat)


def _no_pixels(rows: slice, columns: slice) -> Tensor:
    raise AssertionError("the default effort looks at no pixels")


@torch.no_grad()
def fit_to_symbols(model: CrossChannelContextModel, crops: Sequence[Latents]) -> FrozenEntropyModel:
    """The frozen model with tables and centroids that fit; as it is where there is too little to go by.

    Args:
        model: with ``frozen``, which is left as the result; ``sensitivities`` are measured, which the default encoder's
            rounding needs, and the short ways to smaller pictures fitted.
        crops: of varied photographs and all qualities; no more than 480 are taken.
    """
    from ccm_fast.effort.distortion import photographs_sensitivities

    crops = crops[:FITTED_CROPS]
    if sum(c.y_hat.numel() for c in crops) < _ENOUGH:
        return model.frozen
    model.sensitivities = photographs_sensitivities(model, crops[:_PROBED])
    model.reduced = fit_reduced(model, crops[:_PROBED])
    size = 2 * _COUNTED + 1
    for _ in range(_ROUNDS):
        plan = model.frozen.plan
        counts = torch.zeros(len(plan.y_rows) * size, dtype=torch.int64)
        shifts = ShiftFit(plan)
        for data in crops:
            y, y_hat, offset, row = symbols(model, data)
            v = y_hat.int() - offset.int()
            near = (v.abs() <= _COUNTED) & (row >= plan.skip_rows)
            counts += torch.bincount(row[near].long() * size + v[near] + _COUNTED, minlength=len(counts))
            shifts.add(y, y_hat, offset, row)
        rows = shaped_rows(fit_shapes(counts.view(-1, size).numpy()).tolist())
        centroids = shifts.result() if model.config.reconstruction == "centroid" else None
        model.frozen = FrozenEntropyModel(replace(plan, y_rows=rows), centroids)
    return model.frozen
