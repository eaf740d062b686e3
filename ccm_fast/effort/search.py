"""The search for better symbols: rounding, passes of integer moves, and refinement by gradient before them.

    y --+-- correction -- rounding towards the mean (tables, sensitivities) ----+--> passes of +-1 moves --> best
        '-- gradient steps through soft rounding, g_s, the float entropy model -'

Everything is judged by what a file would hold: bits of the integer tables, error of the decoded picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.entropy.network import TableCost

from ..models import CrossChannelContextModel
from ..tiles import Tile
from .correction import correction
from .distortion import SquaredError
from .levels import Level
from .passes import ERROR_WEIGHT, Best, offer, passes
from .problem import Candidate, Problem, first, last, row_slices
from .refine import FAR_STEP, refine
from .structure import even_weights, structure_weights

__all__ = ["Found", "better_symbols", "stays_on_device"]

# Rounding weighs errors so much more than they cost one by one. Its moves are not independent: all of them shrink, and
# errors of neighbours in one direction add up. BD-rates of 0.7, 1 and 1.5 on 256x256 crops where g_s reads integers:
# -0.5, -2.3 and -3.1 %. Where it reads centroids, there is less to gain, and with sensitivities of a grey picture 2.25
# was best, for want of better ones. With those of photographs (65 validation crops, after 10.9 hours of training,
# default effort, against 2.25 times grey ones): 1.3 -2.0, 1.6 -2.1, 2.0 -1.9 %. For weights that were trained on such
# symbols (`ccm-fast train --rdoq`) 1.25 and 1.8 are 0.09 and 0.14 % worse than 1.5.
SHRINK_PENALTY = 1.5
# Memory of a tile for gradients over that of one that is only run forward.
BACKWARD = 4
# g_a has seen photographs alone. It misses a picture whose error without any rounding is more than this share of the
# error that rounding leaves (text, drawings and noise 0.87 and more; four photographs 0.18 to 0.65 up to quality 6 and
# 0.37 to 0.82 at 8). Gradient descent then begins with so many long steps, times the level's number.
MISSED, FAR_ITERATIONS = 0.85, 50


def round_towards_mean(
    y: Tensor,
    y_hat: Tensor,
    offset: Tensor,
    row: Tensor,
    bits: TableCost,
    weight: Tensor,
    restored: Callable[[Tensor, Tensor, Tensor], Tensor],
    waits: bool = True,
) -> Tensor:
    """Rate-distortion-optimized rounding: a step towards the mean wherever it saves more bits than its error costs.

    Contexts are taken as they are. A symbol's code length falls towards its mean, so that no other move can gain.

    Args:
        y: float [B, h, w, M], not rounded.
        y_hat: integers, y rounded.
        offset: of the tables, with y_hat as context; and
        row: likewise.
        bits: their code lengths.
        weight: float [B, 1, 1, M] or [B, h, w, M], bits per unit of squared error.
        restored: what g_s reads for symbols, offsets and rows.
        waits: whether the host may look at values: only symbols beside their means are worked out then, which a GPU
            would be waited for. The results are the same.

    Returns:
        int16 [B, h, w, M].
    """
    out = y_hat.to(torch.int16)
    v, weight = y_hat - offset, weight.expand(y.shape)
    # All of a tensor where nobody may ask which.
    where = v.nonzero(as_tuple=True) if waits else (...,)
    v, o, r, real = v[where], offset[where], row[where], y[where]
    step = torch.sign(v)
    saved = bits(r, v) - bits(r, v - step)
    before, after = restored(v + o, o, r) - real, restored(v + o - step, o, r) - real
    cost = weight[where] * (after.square() - before.square())
    out[where] -= (step * (saved > cost)).to(torch.int16)
    return out


def _rounded(problem: Problem, y: Tensor, c: Candidate, offset: Tensor, row: Tensor) -> Candidate:
    """Symbols c of y rounded towards their means, by parameters of c or of what c was before a correction."""
    y_hat = last(c.y_hat, problem.where).int()
    weight = SHRINK_PENALTY * problem.curvature.permute(0, 2, 3, 1).to(problem.where)
    values = y.permute(0, 2, 3, 1)
    out = torch.empty(y_hat.shape, dtype=torch.int16, device=problem.where)
    for part in row_slices(y_hat.shape):
        numbers = (values[:, part].to(problem.where, torch.float32), y_hat[:, part], offset[:, part], row[:, part])
        own = weight[:, part] if weight.shape[1] > 1 else weight
        waits = not problem.queued
        out[:, part] = round_towards_mean(*numbers, problem.y_bits, own, problem.restored, waits)
    return Candidate(first(out, y), c.z_hat, c.psi)


def _near(v: Tensor, whole: Tensor) -> Tensor:
    """What rounds to ``whole``, as near to ``v`` as that allows with some room."""
    return whole + (v - whole).clamp(-0.45, 0.45)


def _decoded(problem: Problem, c: Candidate) -> Tensor:
    """What g_s reads for a candidate."""
    return first(problem.restored(*problem.parameters(c)), c.y_hat)


class _Watched:
    """A candidate whose pictures are looked at while they are there for another reason."""

    def __init__(self, problem: Problem, c: Candidate):
        self.problem, self.c, self.known = problem, c, problem.parameters(c)
        self.error = torch.zeros(len(c.y_hat), device=c.y_hat.device)
        self.levels = problem.error.new_levels(len(c.y_hat)) if problem.filtered else None

    def look(self, pixels: Tensor, tile: Tile) -> None:
        """For :func:`correction`."""
        if self.levels is None:
            self.error += self.problem.error.of_pixels(pixels, tile)
        else:
            self.problem.error.put(pixels, tile, self.levels)

    def offer(self, best: Best) -> None:
        """Offer the candidate, with what is known of it."""
        error = self.error if self.levels is None else self.problem.error.of_levels(self.levels)
        best.offer(self.c, self.problem.lagrangian(self.c, self.known, error), self.levels)


def _start(problem: Problem, y: Tensor, z: Tensor) -> Candidate:
    """The nearest symbols to what gradient descent has found."""
    y_new, z_new = (v.round().clamp(-SYMBOL_MAX, SYMBOL_MAX) for v in (y, z))
    z_new = problem.frozen.fix_z(last(z_new))
    return Candidate(y_new, z_new, problem.hyper(z_new, *y.shape[2:]))


def _far(
    problem: Problem, y: Tensor, z: Tensor, missed: Tensor, level: Level, best: Best, tick: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """y and z of images that g_a has missed after long steps, where those have found something better.

    Args:
        problem: what it costs.
        y: float [B, M, h, w], not rounded.
        z: float [B, N, hz, wz], not rounded.
        missed: bool [B], on the CPU.
        level: for how many steps.
        best: the best so far, and afterwards.
        tick: called after each step and pass.
    """
    y_far, z_far = refine(problem, y, z, FAR_ITERATIONS * level.far, tick, FAR_STEP)
    before, best.only = best.value.clone(), missed
    passes(problem, _start(problem, y_far, z_far), level.passes, best, tick)
    best.only = None
    better = (best.value < before).to(y.device)[:, None, None, None]
    return torch.where(better, y_far, y), torch.where(better, z_far, z)


def stays_on_device(model: CrossChannelContextModel, level: Level) -> bool:
    """Whether :func:`better_symbols` can do a level's work on a GPU without waiting for it.

    Passes look at bits and gradients; the network of leaky or scaled plans is not among what torch's operators compute.
    """
    return not level.passes and model.frozen is not None and model.frozen.plan.plain


class Found(NamedTuple):
    """What :func:`better_symbols` has chosen; on the CPU or, if it stays there, the device.

    Attributes:
        y_hat: int16 [B, h, w, M].
        z_hat: int16 [B, hz, wz, N].
        psi: uint8 [B, h, w, P] of z_hat.
        levels: int16 [C, H, W] of :func:`ccm_fast.picture_filter.levels_of`, the picture that each image's symbols
            decode to, where it was asked for and is known. C is 1 for decoders that average the colours.
    """

    y_hat: Tensor
    z_hat: Tensor
    psi: Tensor
    levels: Sequence[Tensor | None] = ()


def better_symbols(
    model: CrossChannelContextModel,
    y: Tensor,
    z: Tensor,
    z_hat: Tensor,
    psi: Tensor,
    quality: Tensor,
    level: Level,
    *,
    read: Callable[[slice, slice], Tensor],
    size: tuple[int, int],
    grey: bool,
    tile_pixels: int,
    engine: str,
    threads: int,
    tune: str = "psnr",
    progress: Callable[[int, int], None] | None = None,
    filtered: bool = False,
) -> Found:
    """Symbols with a lower Lagrangian than those of plain rounding have.

    Args:
        model: a frozen model.
        y: float [B, M, h, w], not rounded; rounded, it is in the range of 16-bit symbols.
        z: float [B, N, hz, wz], not rounded.
        z_hat: int16 [B, hz, wz, N], z rounded.
        psi: uint8 [B, h, w, P] of z_hat.
        quality: float [B].
        level: what to do.
        read: the pixels, float [B, 3, rows, columns] in [0, 1], of two slices.
        size: (H, W), pixels.
        grey: the decoder averages the colours.
        tile_pixels: of all images, that g_s is run on at a time.
        engine: of the integer networks, "cpu" or "reference"; "cuda", for what :func:`stays_on_device` alone, keeps
            everything on the model's device, and nothing waits for it.
        threads: of the same.
        tune: "psnr", or "ms-ssim": errors are weighed by how well the picture hides them.
        progress: called with (steps done, steps in all) after each pass and iteration of level 4 and above.
        filtered: pictures will be seen behind a filter that is fitted to them. Levels that look at pictures then weigh
            the errors behind one, which takes part of them off anyway, and keep the pictures for it.
    """
    steps = level.passes + level.rounds * (level.iterations + level.again)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    with torch.inference_mode(False), torch.no_grad():  # gradients are taken inside
        y, z = y.float(), z.float()
        if level.passes:  # what was made in inference mode takes no part in gradients
            y, z, quality = y.clone(), z.clone(), quality.clone()
        gain = model.inverse_gain(quality)
        weights = structure_weights(read, *y.shape[2:], y.device) if tune == "ms-ssim" else None
        if weights is not None and model.metric == "mse":
            weights = even_weights(weights)
        if level.passes:  # the pixels are looked at again and again
            pixels = read(*(slice(0, side) for side in size)).float().contiguous()
            read = lambda rows, columns: pixels[..., rows, columns]  # noqa: E731
        error = SquaredError(model.g_s, gain, read, size, grey, max(1, tile_pixels // BACKWARD), weights)
        filtered = filtered and level.passes > 0
        problem = Problem(model, quality, error, grey, engine, threads, filtered)
        where = problem.where
        plain = Candidate(torch.round(y), z_hat.to(where, copy=True), psi.to(where, copy=True))
        nearest, analysed = plain, y
        watched = seen = _Watched(problem, plain)
        for k in range(level.corrections):
            if k:
                watched = _Watched(problem, nearest)
            v, look = first(problem.restored(*watched.known), y), watched.look if level.passes else None
            y = y + correction(model, v, quality, size, grey, tile_pixels, look)
            nearest = Candidate(torch.round(y).clamp(-SYMBOL_MAX, SYMBOL_MAX), plain.z_hat, plain.psi)
        # Parameters of the corrected symbols took 7 % of the native encoder's time, for 0.02 % of the bits (BD-rate on
        # ten photographs of Kodak).
        found = _rounded(problem, y, nearest, *watched.known[1:])
        if level.passes:
            if model.metric == "mse":
                problem.weigh_errors(ERROR_WEIGHT)
            best = Best()
            passes(problem, found, level.passes, best, tick)
            if level.corrections:
                seen.offer(best)
            else:
                offer(problem, plain, best)
            if level.far:
                added = error.added
                error.add_to_pictures(None)
                missed = error(analysed) > MISSED * error(_decoded(problem, best.candidate))
                if missed.any():
                    # What a filter does to them now says little of what they will be.
                    found, best = best.candidate, Best()
                    offer(problem, found, best)
                    steps += FAR_ITERATIONS * level.far + level.passes
                    y, z = _far(problem, y, z, missed.cpu(), level, best, tick)
                else:
                    error.add_to_pictures(added)
            for seed in range(1, level.rounds + 1):
                y, z = refine(problem, y, z, level.iterations, tick)
                passes(problem, _start(problem, y, z), level.again, best, tick, seed)
                # The next round begins at what is best so far, with what is known of the fractions.
                y = _near(y, best.candidate.y_hat)
                z = _near(z, first(best.candidate.z_hat, z))
            found = best.candidate
            return Found(last(found.y_hat, where), found.z_hat, found.psi, best.levels)
    return Found(last(found.y_hat, where), found.z_hat, found.psi)
