"""The search for better symbols: rounding, passes of integer moves, and refinement by gradient before them.

    y --+-- correction -- rounding towards the mean (tables, sensitivities) ----+--> passes of +-1 moves --> best
        '-- gradient steps through soft rounding, g_s, the float entropy model -'

Everything is judged by what a file would hold: bits of the integer tables, error of the decoded picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.entropy.likelihood import logistic_likelihood, scale_from_index
from ccm_fast.entropy.network import TableCost

from ..models import CrossChannelContextModel
from ..models.quality import lagrange_multiplier
from .correction import correction
from .distortion import SquaredError, sensitivities
from .levels import Level
from .rate import tables_of
from .refine import FAR_STEP, refine
from .structure import even_weights, structure_weights

__all__ = ["Problem", "better_symbols", "stays_on_device"]

# Rounding weighs errors so much more than they cost one by one. Its moves are not independent: all of them shrink, and
# errors of neighbours in one direction add up. BD-rates of 0.7, 1 and 1.5 on 256x256 crops where g_s reads integers:
# -0.5, -2.3 and -3.1 %. Where it reads centroids, there is less to gain, and with sensitivities of a grey picture 2.25
# was best, for want of better ones. With those of photographs (65 validation crops, after 10.9 hours of training,
# default effort, against 2.25 times grey ones): 1.3 -2.0, 1.6 -2.1, 2.0 -1.9 %. For weights that were trained on such
# symbols (`ccm-fast train --rdoq`) 1.25 and 1.8 are 0.09 and 0.14 % worse than 1.5.
SHRINK_PENALTY = 1.5
# Rows of latents that are rounded at a time: bounds the memory, some 50 bytes a symbol.
CHUNK_SYMBOLS = 1 << 22
# Memory of a tile for gradients over that of one that is only run forward.
BACKWARD = 4
# Of the moves that a pass finds good, those that are made: with all of them, neighbours would correct the same error
# twice. And the weight of what a move does to the bits of later symbols, an extrapolation over a whole step.
SHARE, CONTEXT_WEIGHT = 0.4, 0.7
# Bits, the largest effect on later symbols that is believed of one move. A gradient is local: where the float entropy
# model is nearly certain of a symbol that came otherwise, it promises hundreds of bits for a move that saves none, and
# all moves of its context are made at once (a synthetic picture's Lagrangian rose by 27 % in one pass). Lagrangian of
# five passes against where they start, 8 photographs, quality 2 / 4 / 6 / 8, in per cent: no limit -2.1 / -1.8 / -1.4 /
# -1.5, 16 bits -2.1 / -1.9 / -1.4 / -1.5, 8 bits -2.2 / -1.8 / -1.4 / -1.5, 4 bits -1.9 / -1.8 / -1.3 / -1.4, 2 bits
# -1.6 / -1.8 / -1.2 / -1.4.
CONTEXT_LIMIT = 8.0
# Passes weigh the second order so much more than single moves cost: as when rounding, moves are not independent.
# Lagrangian of five passes against where they start, 12 validation crops, quality 2 / 4 / 6 / 8, in per cent: weighed
# once -0.1 / 0.0 / -0.1 / -0.3, 1.25 times -1.1 / -1.0 / -0.7 / -1.4, 1.5 times -1.9 / -1.8 / -1.2 / -1.6, 1.75 times
# -1.6 / -1.5 / -1.0 / -1.1, twice -1.1 / -1.1 / -0.7 / -0.7.
PASS_PENALTY = 1.5
# g_a has seen photographs alone. It misses a picture whose error without any rounding is more than this share of the
# error that rounding leaves (text, drawings and noise 0.87 and more; four photographs 0.18 to 0.65 up to quality 6 and
# 0.37 to 0.82 at 8). Gradient descent then begins with so many long steps for each of its rounds, up to four of them.
MISSED, FAR_ITERATIONS = 0.85, 50


@dataclass
class Candidate:
    """Symbols of a batch, with their features and (once known) their Lagrangians."""

    y_hat: Tensor  # float [B, M, h, w]
    z_hat: Tensor  # int16 [B, hz, wz, N]
    psi: Tensor  # uint8 [B, h, w, P]


class Problem:
    """A batch of images, what their symbols cost, and how good their pictures are.

    Args:
        model: a frozen model. Its float entropy networks serve for gradients only.
        quality: float [B].
        error: of the decoded pictures.
        grey: the decoder averages the colours.
        engine: of the integer networks' code lengths: "cpu" or "reference", or "cuda": everything stays where the
            model is, and the host looks at no values.
        threads: of the same.
    """

    def __init__(
        self,
        model: CrossChannelContextModel,
        quality: Tensor,
        error: SquaredError,
        grey: bool,
        engine: str,
        threads: int,
    ):
        self.model, self.frozen, self.error = model, model.frozen, error
        self.options = {"engine": engine, "threads": threads}
        self.queued = engine == "cuda"
        self.where = quality.device if self.queued else torch.device("cpu")
        #: Bits that a (weighted) squared error of 1, summed over pixels and colours, is worth; [B, 1, 1, 1].
        scale = 255.0**2 if model.metric == "mse" else 1.0  # of what an error counts: 255^2 MSE, or 1 - MS-SSIM
        # In double precision: libraries differ in the last bits of powers, and rounding to single hides that.
        price = lagrange_multiplier(quality.double(), model.metric) * (scale / 3)
        self.price = price.to(quality)[:, None, None, None]
        h = sensitivities(model, grey)
        #: Bits that a unit squared error of one symbol costs; [B, M, 1, 1], with weights [B, M, h, w].
        self.curvature = self.price * h[None, :, None, None] * model.inverse_gain(quality).float().square()
        if error.weights is not None:
            self.curvature = self.curvature * error.weights
        self.y_bits, self.z_bits = tables_of(model.frozen, self.where, not self.queued)

    def parameters(self, c: Candidate) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat as it is decoded (int32), offset and row of every symbol, [B, h, w, M], where code lengths are."""
        y_hat, offset, row = self.frozen.settle(c.psi.to(self.where), _last(c.y_hat, self.where), **self.options)
        return y_hat.int(), offset, row

    def hyper(self, z_hat: Tensor, h: int, w: int) -> Tensor:
        """psi of z_hat, on the CPU."""
        return self.frozen.hyper(z_hat.cpu(), h, w, **self.options)

    def restored(self, y_hat: Tensor, offset: Tensor, row: Tensor) -> Tensor:
        """What g_s reads for symbols with these parameters, float32 of their shape."""
        if self.model.config.reconstruction == "integer":
            return y_hat.float()
        return self.frozen.centroids(y_hat, offset, row)

    def lagrangian(self, c: Candidate, known: tuple[Tensor, Tensor, Tensor], error: Tensor) -> Tensor:
        """Float64 [B], bits: of y and z by the tables, and of the picture's error. ``known``: c's parameters."""
        y_hat, offset, row = known
        bits = _chunked_sum(self.y_bits, row, y_hat - offset)
        z_row = torch.arange(c.z_hat.shape[-1]).expand(c.z_hat.shape)
        bits += self.z_bits(z_row, c.z_hat.cpu().int()).flatten(1).double().sum(1)
        return bits + (self.price.flatten() * error).cpu().double()

    def context_gradient(self, c: Candidate) -> Tensor:
        """Bits that a unit change of each symbol adds to those that have it in their context, by the float net."""
        with torch.enable_grad():
            known = c.y_hat.detach().clone().requires_grad_(True)
            found = self.float_parameters(known, _first(c.z_hat, c.y_hat))
            bits = -torch.log2(logistic_likelihood(c.y_hat, *found)).sum()
            return torch.autograd.grad(bits, known)[0]

    def float_parameters(self, known: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of every symbol by the float entropy model, contexts from ``known``; differentiable."""
        dtype = next(self.model.parameters()).dtype
        mean, index = (v.float() for v in self.model.entropy_parameters(known.to(dtype), z.to(dtype)))
        return mean, scale_from_index(index)


def _last(y: Tensor, where: torch.device | str = "cpu") -> Tensor:
    """Channel-last symbols, int16."""
    return y.permute(0, 2, 3, 1).to(where, torch.int16).contiguous()


def _first(y: Tensor, like: Tensor) -> Tensor:
    """Channel-first floats."""
    return y.permute(0, 3, 1, 2).to(like)


def _rows(shape: torch.Size) -> list[slice]:
    """Slices of the rows of [B, h, w, M] with about CHUNK_SYMBOLS symbols each."""
    step = max(1, CHUNK_SYMBOLS // (shape[0] * shape[2] * shape[3]))
    return [slice(k, min(k + step, shape[1])) for k in range(0, shape[1], step)]


def _chunked_sum(table: TableCost, row: Tensor, symbol: Tensor) -> Tensor:
    return sum(table(row[:, part], symbol[:, part]).flatten(1).double().sum(1) for part in _rows(row.shape))


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


def _rounded(problem: Problem, y: Tensor, c: Candidate) -> Candidate:
    y_hat, offset, row = problem.parameters(c)
    weight = SHRINK_PENALTY * problem.curvature.permute(0, 2, 3, 1).to(problem.where)
    values = y.permute(0, 2, 3, 1)
    out = torch.empty(y_hat.shape, dtype=torch.int16, device=problem.where)
    for part in _rows(y_hat.shape):
        numbers = (values[:, part].to(problem.where, torch.float32), y_hat[:, part], offset[:, part], row[:, part])
        own = weight[:, part] if weight.shape[1] > 1 else weight
        waits = not problem.queued
        out[:, part] = round_towards_mean(*numbers, problem.y_bits, own, problem.restored, waits)
    return Candidate(_first(out, y), c.z_hat, c.psi)


def _moved(
    problem: Problem, c: Candidate, known: tuple[Tensor, Tensor, Tensor], grad: Tensor, generator: torch.Generator
) -> Candidate:
    """Every symbol one up or down where, to second order, the Lagrangian falls; of those a random share.

    Args:
        problem: what it costs.
        c: where to start, with
        known: its parameters, and
        grad: of the pictures' error by what g_s reads, [B, M, h, w].
        generator: of the random choice.
    """
    y_hat, offset, row = known
    v = y_hat - offset
    here, restored = problem.y_bits(row, v), problem.restored(*known)
    slope = (problem.price * grad).permute(0, 2, 3, 1).cpu()
    contexts = problem.context_gradient(c).permute(0, 2, 3, 1).cpu()
    contexts = CONTEXT_WEIGHT * contexts.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
    curvature = PASS_PENALTY * problem.curvature.permute(0, 2, 3, 1).cpu()

    def gained(step: int) -> Tensor:
        moved = problem.restored(y_hat + step, offset, row) - restored
        bits = problem.y_bits(row, v + step) - here + step * contexts
        return bits + moved * (slope + curvature * moved)

    down, up = gained(-1), gained(1)
    # The same random choice for every image: it is coded alike alone and in a batch.
    move = (torch.minimum(down, up) < 0) & (torch.rand(y_hat.shape[1:], generator=generator) < SHARE)
    out = y_hat + torch.where(move, torch.where(up < down, 1, -1), 0)
    return Candidate(_first(out.clamp(-SYMBOL_MAX, SYMBOL_MAX), c.y_hat), c.z_hat, c.psi)


class _Best:
    """The best candidate of each image of the batch."""

    def __init__(self):
        self.value: Tensor | None = None
        #: bool [B]: the images that candidates are for; None: all.
        self.only: Tensor | None = None

    def offer(self, c: Candidate, value: Tensor) -> None:
        if self.value is None:
            self.value, self.candidate = value.clone(), Candidate(c.y_hat.clone(), c.z_hat.clone(), c.psi.clone())
            return
        better = value < self.value if self.only is None else (value < self.value) & self.only
        for k in better.nonzero().flatten().tolist():
            self.value[k] = value[k]
            for name in ("y_hat", "z_hat", "psi"):
                getattr(self.candidate, name)[k] = getattr(c, name)[k]


def _near(v: Tensor, whole: Tensor) -> Tensor:
    """What rounds to ``whole``, as near to ``v`` as that allows with some room."""
    return whole + (v - whole).clamp(-0.45, 0.45)


def _passes(problem: Problem, c: Candidate, count: int, best: _Best, tick: Callable[[], None], seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        known = problem.parameters(c)
        error, grad = problem.error.gradient(_first(problem.restored(*known), c.y_hat))
        best.offer(c, problem.lagrangian(c, known, error))
        c = _moved(problem, c, known, grad, generator)
        tick()
    _offer(problem, c, best)


def _decoded(problem: Problem, c: Candidate) -> Tensor:
    """What g_s reads for a candidate."""
    return _first(problem.restored(*problem.parameters(c)), c.y_hat)


def _offer(problem: Problem, c: Candidate, best: _Best) -> None:
    known = problem.parameters(c)
    error = problem.error(_first(problem.restored(*known), c.y_hat))
    best.offer(c, problem.lagrangian(c, known, error))


def _start(problem: Problem, y: Tensor, z: Tensor) -> Candidate:
    """The nearest symbols to what gradient descent has found."""
    y_new, z_new = (v.round().clamp(-SYMBOL_MAX, SYMBOL_MAX) for v in (y, z))
    z_new = problem.frozen.fix_z(_last(z_new))
    return Candidate(y_new, z_new, problem.hyper(z_new, *y.shape[2:]))


def _far(
    problem: Problem, y: Tensor, z: Tensor, missed: Tensor, level: Level, best: _Best, tick: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """y and z of images that g_a has missed after long steps, where those have found something better.

    Args:
        problem: what it costs.
        y: float [B, M, h, w], not rounded.
        z: float [B, N, hz, wz], not rounded.
        missed: bool [B], on the CPU.
        level: of its rounds, for how many steps.
        best: the best so far, and afterwards.
        tick: called after each step and pass.
    """
    y_far, z_far = refine(problem, y, z, _far_iterations(level), tick, FAR_STEP)
    before, best.only = best.value.clone(), missed
    _passes(problem, _start(problem, y_far, z_far), level.passes, best, tick)
    best.only = None
    better = (best.value < before).to(y.device)[:, None, None, None]
    return torch.where(better, y_far, y), torch.where(better, z_far, z)


def _far_iterations(level: Level) -> int:
    return FAR_ITERATIONS * min(level.rounds, 4)


def stays_on_device(model: CrossChannelContextModel, level: Level) -> bool:
    """Whether :func:`better_symbols` can do a level's work on a GPU without waiting for it.

    Passes look at bits and gradients; the network of leaky or scaled plans is not among what torch's operators compute.
    """
    return not level.passes and model.frozen is not None and model.frozen.plan.plain


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
) -> tuple[Tensor, Tensor, Tensor]:
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

    Returns:
        y_hat int16 [B, h, w, M], z_hat int16 [B, hz, wz, N] and psi, on the CPU or, if they stay there, the device.
    """
    steps = level.passes + level.rounds * (level.iterations + level.passes)
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
        error = SquaredError(model.g_s, gain, read, size, grey, max(1, tile_pixels // BACKWARD), weights)
        problem = Problem(model, quality, error, grey, engine, threads)
        where = problem.where
        plain = Candidate(torch.round(y), z_hat.to(where, copy=True), psi.to(where, copy=True))
        nearest, analysed = plain, y
        for _ in range(level.corrections):
            v = _decoded(problem, nearest)
            y = y + correction(model, v, quality, size, grey, tile_pixels)
            nearest = Candidate(torch.round(y).clamp(-SYMBOL_MAX, SYMBOL_MAX), plain.z_hat, plain.psi)
        found = _rounded(problem, y, nearest)
        if level.passes:
            best = _Best()
            _offer(problem, plain, best)
            _passes(problem, found, level.passes, best, tick)
            if level.rounds:
                missed = error(analysed) > MISSED * error(_decoded(problem, best.candidate))
                if missed.any():
                    steps += _far_iterations(level) + level.passes
                    y, z = _far(problem, y, z, missed.cpu(), level, best, tick)
            for seed in range(1, level.rounds + 1):
                y, z = refine(problem, y, z, level.iterations, tick)
                _passes(problem, _start(problem, y, z), level.passes, best, tick, seed)
                # The next round begins at what is best so far, with what is known of the fractions.
                y = _near(y, best.candidate.y_hat)
                z = _near(z, _first(best.candidate.z_hat, z))
            found = best.candidate
    return _last(found.y_hat, where), found.z_hat, found.psi
