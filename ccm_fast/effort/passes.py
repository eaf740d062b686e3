"""Passes of integer moves: every symbol one up or down where that lowers the Lagrangian, all at once, again and again.

What a move does is known to second order: to the picture by the gradient of its error, to the bits of the symbol by its
table, and to those of the symbols that have it in their context by the gradient of the float entropy model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ccm_fast import _backend

from .problem import Candidate, Problem, first, last

__all__ = ["ERROR_WEIGHT", "Best", "offer", "passes"]

# What a search weighs errors by, over the quality's lambda. Files should be small at equal PSNR, so that a search ought
# to trade bits for errors as files of neighbouring qualities do: those of ccm-small trade 1.31, 1.40, 1.34 and 1.21
# times lambda (Kodak, quality 2, 4, 6 and 8). What filters leave of errors is a little less. BD-rate of eight passes
# against the default effort, four photographs with filters: 1.2 times -3.27, 1.35 times -3.19, 1.5 times -3.16 %. (With
# MEMORY 1 to 1.2 times are within 0.1 of each other.)
ERROR_WEIGHT = 1.15
# Shares of the symbols whose turn it is in the first pass and in the last one: with all moves that a pass finds good,
# neighbours would correct the same error twice. From 0.6 to 0.3 six passes gain 3.67 % (photographs as above), from 0.8
# to 0.4 3.76. Turns come by the golden section, from a random start for each symbol: any few passes in a row are as
# even as can be, where chance leaves some waiting (four passes 2.94 instead of 2.77 %).
SHARES, GOLDEN = (0.8, 0.4), 0.6180339887
# What the gradients before count, in all: a mean that forgets. What one pass asks for and the next one takes back is
# not done at all, so that more moves can be made at a time. Six passes gain 3.7 % with 0.3, 0.4 and 0.5 (four of them
# 3.1, 3.0 and 2.8), 3.3 where the last gradient alone is remembered, 3.1 without.
MEMORY = 0.3
# The weight of what a move does to the bits of later symbols, an extrapolation over a whole step: of moves far from
# each other it comes to half of what the gradient says.
CONTEXT_WEIGHT = 0.6
# Bits, the largest effect on later symbols that is believed of one move. A gradient is local: where the float entropy
# model is nearly certain of a symbol that came otherwise, it promises hundreds of bits for a move that saves none, and
# all moves of its context are made at once (a synthetic picture's Lagrangian rose by 27 % in one pass). Lagrangian of
# five passes against where they start, 8 photographs, quality 2 / 4 / 6 / 8, in per cent: no limit -2.1 / -1.8 / -1.4 /
# -1.5, 16 bits -2.1 / -1.9 / -1.4 / -1.5, 8 bits -2.2 / -1.8 / -1.4 / -1.5, 4 bits -1.9 / -1.8 / -1.3 / -1.4, 2 bits
# -1.6 / -1.8 / -1.2 / -1.4.
CONTEXT_LIMIT = 8.0
# Passes that one gradient of the contexts serves for.
CONTEXT_PASSES = 8
# Passes that one run of the contexts serves for: few symbols move, and what they do to the tables of others is known in
# a while.
PARAMETER_PASSES = 2
# Passes weigh the second order so much more than single moves cost. Moves are not independent: those that a residual
# asks for add up to 1.4 to 1.6 times what they cost alone, even where few are made. With MEMORY less is enough: five
# passes gain 3.43 % with 1.2, 3.42 with 1.25, 3.37 with 1.3 (four other photographs); but 1.05 is far too little (six
# passes 2.4 instead of 3.7 %).
PASS_PENALTY = 1.25


def _moved(
    problem: Problem,
    c: Candidate,
    known: tuple[Tensor, Tensor, Tensor],
    grad: Tensor,
    contexts: Tensor,
    turn: Tensor,
) -> Candidate:
    """Every symbol whose turn it is one up or down where, to second order, the Lagrangian falls.

    Args:
        problem: what it costs.
        c: where to start, with
        known: its parameters, and
        grad: of the pictures' error by what g_s reads, [B, M, h, w].
        contexts: bits that later symbols take more for a unit step, [B, h, w, M] on the CPU.
        turn: the symbols that may move, bool [h, w, M].
    """
    y_hat, offset, row = known
    slope = (problem.price * grad).permute(0, 2, 3, 1).cpu().contiguous()
    curvature = PASS_PENALTY * problem.curvature.permute(0, 2, 3, 1).cpu().contiguous()
    tables = *problem.y_bits.tables, *problem.leaving()
    moved = _backend.load().ops.move_symbols(
        y_hat, offset, row, slope, curvature, contexts, turn, *tables, problem.threads
    )
    return replace(c, y_hat=first(moved, c.y_hat))


class Best:
    """The best candidate of each image of the batch."""

    def __init__(self):
        self.value: Tensor | None = None
        #: int16 [C, H, W], the picture of each image's best candidate, where it is known.
        self.levels: list[Tensor | None] = []
        #: bool [B]: the images that candidates are for; None: all.
        self.only: Tensor | None = None

    def offer(self, c: Candidate, value: Tensor, levels: Tensor | None = None) -> None:
        """Take the images of a candidate that have a lower Lagrangian than the best so far.

        Args:
            c: the candidate.
            value: its Lagrangians, [B].
            levels: its pictures, if they are known.
        """
        if self.value is None:
            self.levels = [None] * len(value) if levels is None else list(levels)
            self.value, self.candidate = value.clone(), Candidate(c.y_hat.clone(), c.z_hat.clone(), c.psi.clone())
            return
        better = value < self.value if self.only is None else (value < self.value) & self.only
        for k in better.nonzero().flatten().tolist():
            self.value[k] = value[k]
            self.levels[k] = None if levels is None else levels[k]
            for name in ("y_hat", "z_hat", "psi"):
                getattr(self.candidate, name)[k] = getattr(c, name)[k]


def offer(problem: Problem, c: Candidate, best: Best) -> None:
    """Offer a candidate whose Lagrangian nobody knows yet."""
    known = problem.parameters(c)
    levels = problem.error.new_levels(len(c.y_hat)) if problem.filtered else None
    error = problem.error(first(problem.restored(*known), c.y_hat), levels)
    best.offer(c, problem.lagrangian(c, known, error), levels)


def passes(problem: Problem, c: Candidate, count: int, best: Best, tick: Callable[[], None], seed: int = 0) -> None:
    """So many passes from a candidate on; it, the last one and some between are offered.

    Where pictures will be filtered, the filter of the first one that passes see is added to all of them.

    The contexts' gradient takes longer than the rest of a pass, and serves for CONTEXT_PASSES of them: taken anew for
    every pass it gained no more (BD-rate of five passes -2.62 instead of -2.59 %).
    """
    y = c.y_hat
    # The same turns for every image: it is coded alike alone and in a batch.
    phase = torch.rand(y.shape[2], y.shape[3], y.shape[1], generator=torch.Generator().manual_seed(seed))
    slope = None
    for k in range(count):
        if k % CONTEXT_PASSES == 0:
            contexts = problem.context_gradient(c).permute(0, 2, 3, 1).cpu().contiguous()
            contexts = CONTEXT_WEIGHT * contexts.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
        if k % PARAMETER_PASSES == 0:
            known = problem.parameters(c)
        else:
            known = last(c.y_hat).int(), *known[1:]
        levels = problem.error.new_levels(len(y)) if problem.fits_filter else None
        error, grad = problem.error.gradient(first(problem.restored(*known), c.y_hat), levels)
        if levels is not None:
            problem.fit_filter(levels)
            error = problem.error.of_levels(levels)
        if k % CONTEXT_PASSES == 0:  # hardly any pass is a loss; those between are not priced
            best.offer(c, problem.lagrangian(c, known, error), levels)
        slope = grad if slope is None else torch.lerp(grad, slope, MEMORY)
        share = SHARES[0] + (SHARES[1] - SHARES[0]) * k / max(1, count - 1)
        turn = phase.add(k * GOLDEN).frac_() < share
        c = _moved(problem, c, known, slope, contexts, turn)
        tick()
    offer(problem, c, best)
