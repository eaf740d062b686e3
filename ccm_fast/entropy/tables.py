"""Integer CDF tables (FORMAT.md section 4), computed in float64 once, when a model is frozen."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ccm_fast.constants import NUM_SCALES, SCALE_MAX, SCALE_MIN
from ccm_fast.entropy.plan import MAX_ENTRIES, Plan, TableRows

if TYPE_CHECKING:
    from ccm_fast.models.entropy import FactorizedPrior

__all__ = [
    "PRECISION",
    "fit_shapes",
    "fraction_bits",
    "gaussian_rows",
    "prior_rows",
    "quantize_probabilities",
    "row_means",
    "scales",
    "shaped_rows",
]

#: Bits of a probability.
PRECISION = 16


def scales() -> np.ndarray:
    """Standard deviations of the 64 scale indexes, float64 [64]."""
    return SCALE_MIN * (SCALE_MAX / SCALE_MIN) ** (np.arange(NUM_SCALES) / (NUM_SCALES - 1))


def fraction_bits() -> np.ndarray:
    """Bits of the mean's fraction per scale index, uint8 [64].

    The coarsest grid delta = 2^-b with delta <= sigma / 8 where sigma >= 1/2; below, 1/16, the grid of the mean codes
    themselves. A uniform error of +-delta / 2 costs delta^2 / (24 sigma^2) nats: less than 0.001 bit a symbol at 1/8.
    """
    bits = [min(4, max(0, math.ceil(math.log2(8.0 / s)))) for s in scales()]
    return np.array(bits, np.uint8)


def quantize_probabilities(p: np.ndarray, total: int = 1 << PRECISION) -> np.ndarray:
    """Frequencies f >= 1 with sum ``total`` and a low cost -sum p log f, int64 like p.

    Rounding first; then single units go where they gain the most (or lose the least) until the sum is right.

    Args:
        p: probabilities, float64 [n], n <= total; they are normalised here.
        total: what the frequencies add up to.
    """
    p = np.asarray(p, np.float64)
    p = p / p.sum()
    f = np.maximum(1, np.rint(p * total)).astype(np.int64)
    excess = int(f.sum()) - total
    if excess > 0:  # take units away where -p log f grows least
        heap = [(p[k] * math.log(f[k] / (f[k] - 1)), k) for k in np.flatnonzero(f > 1)]
        heapq.heapify(heap)
        for _ in range(excess):
            _, k = heapq.heappop(heap)
            f[k] -= 1
            if f[k] > 1:
                heapq.heappush(heap, (p[k] * math.log(f[k] / (f[k] - 1)), k))
    elif excess < 0:
        heap = [(-p[k] * math.log1p(1 / f[k]), k) for k in range(len(p))]
        heapq.heapify(heap)
        for _ in range(-excess):
            _, k = heap[0]
            f[k] += 1
            heapq.heapreplace(heap, (-p[k] * math.log1p(1 / f[k]), k))
    return f


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x * math.sqrt(0.5))


def gaussian_probabilities(mean: float, sigma: float, reach: int) -> np.ndarray:
    """Probabilities of the symbols -reach .. reach and of everything else (last), float64 [2 reach + 2].

    Each unit interval is evaluated on the side of the mean where its tail is small, so that it keeps its precision.
    """
    out = []
    for v in range(-reach, reach + 1):
        d = abs(v - mean)
        out.append(_normal_cdf((0.5 - d) / sigma) - _normal_cdf((-0.5 - d) / sigma))
    tail = _normal_cdf((-reach - 0.5 - mean) / sigma) + _normal_cdf((mean - reach - 0.5) / sigma)
    return np.array([*out, tail])


#: A row covers mean +- REACH_SIGMAS * sigma + REACH_EXTRA. Learned latents have heavier tails than their Gaussians; an
#: entry costs 1 / 65536 of probability at least, an escape about 16 + 5 + log2(distance) bits.
REACH_SIGMAS, REACH_EXTRA = 4.0, 2


#: Components of a shape: Gaussians around the same mean, of so many times the scale.
COMPONENTS = (0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.45, 1.8, 2.4, 3.5)
_PLAIN = tuple(float(c == 1.0) for c in COMPONENTS)
# What fits all scales of `ccm-small` together; nearly the logistic distribution that networks are trained for.
_TYPICAL = (0.022, 0.056, 0.157, 0.236, 0.253, 0.18, 0.075, 0.017, 0.002, 0.002)


def _fractions(all_bits: np.ndarray) -> list[tuple[int, float]]:
    """Scale index, and mean less offset, of every row of y: it counts from -1/2 on (FORMAT.md, section 3.3)."""
    out = []
    for index, bits in enumerate(all_bits.tolist()):
        out += [(index, (fraction - ((1 << bits) >> 1)) / (1 << bits)) for fraction in range(1 << bits)]
    return out


def row_means(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Mean less offset, and standard deviation, of every row of a plan's y, float64 [rows]."""
    index, mean = zip(*_fractions(plan.fraction_bits), strict=True)
    return np.array(mean), scales()[list(index)]


def shaped_rows(
    shapes: Sequence[Sequence[float]], reach_sigmas: float = REACH_SIGMAS, reach_extra: int = REACH_EXTRA
) -> TableRows:
    """The rows of y for :func:`fraction_bits`, in order of scale index, then of fraction.

    Args:
        shapes: of each scale index, the weights of COMPONENTS.
        reach_sigmas: see REACH_SIGMAS.
        reach_extra: likewise.
    """
    lo, frequencies, sigmas = [], [], scales()
    for index, mean in _fractions(fraction_bits()):
        reach = math.ceil(reach_sigmas * sigmas[index]) + reach_extra
        parts = [
            weight * gaussian_probabilities(mean, times * sigmas[index], reach)
            for weight, times in zip(shapes[index], COMPONENTS, strict=True)
            if weight > 0
        ]
        lo.append(-reach)
        frequencies.append(quantize_probabilities(np.sum(parts, 0)))
    return TableRows.from_frequencies(lo, frequencies)


@cache
def gaussian_rows(reach_sigmas: float = REACH_SIGMAS, reach_extra: int = REACH_EXTRA) -> TableRows:
    """The rows of y where every symbol has its Gaussian."""
    return shaped_rows([_PLAIN] * NUM_SCALES, reach_sigmas, reach_extra)


@cache
def typical_rows() -> TableRows:
    """The rows of y before they are fitted to anything: latents' usual shape at every scale."""
    return shaped_rows([_TYPICAL] * NUM_SCALES)


# Symbols that a shape's fit looks at, and its iterations; what is known of all scale indexes together counts as so many
# symbols of each.
_FIT_REACH, _FIT_STEPS, _FIT_PRIOR = 64, 200, 3000


def fit_shapes(counts: np.ndarray) -> np.ndarray:
    """Shapes that code what has been counted in the fewest bits (expectation maximization), float64 [64, components].

    A network's scale is a standard deviation, but latents with one scale are no Gaussian: some are nearer to their
    means than it says, and some further away. A scale mixture of Gaussians costs nothing to decode, since rows are
    tables anyway: 0.3 to 0.6 % fewer bits than Gaussians on Kodak for ``ccm-small``.

    Args:
        counts: [rows, 2 reach + 1], how often symbols -reach .. reach less their offsets came up in each row of y.
    """
    counts = np.asarray(counts, np.float64)
    reach = counts.shape[1] // 2
    where, sigmas = _fractions(fraction_bits()), scales()
    p = np.array(
        [[gaussian_probabilities(m, t * sigmas[i], reach)[:-1] for i, m in where] for t in COMPONENTS]
    )  # [components, rows, symbols]
    index = np.array([i for i, _ in where])

    def fit(rows: np.ndarray, prior: np.ndarray, strength: float) -> np.ndarray:
        n, part = counts[rows], p[:, rows]
        weight, total = prior.copy(), n.sum() + strength
        for _ in range(_FIT_STEPS if n.sum() else 0):
            mixed = np.einsum("k,krs->rs", weight, part) + 1e-30
            weight = (weight * np.einsum("krs,rs->k", part, n / mixed) + strength * prior) / total
        return weight

    even = np.full(len(COMPONENTS), 1 / len(COMPONENTS))
    # Scales that say something about a shape: much below one symbol, nearly all of it is in one interval.
    common = fit(np.flatnonzero((sigmas[index] > 0.5) & (4 * sigmas[index] < reach)), even, 1.0)
    seen = 4 * sigmas[index] < reach
    return np.array([fit(np.flatnonzero((index == i) & seen), common, _FIT_PRIOR) for i in range(NUM_SCALES)])


def prior_rows(prior: FactorizedPrior, tail: float = 2.0**-14, limit: int = 1024) -> TableRows:
    """The rows of z: one for each channel of a factorized prior.

    Args:
        prior: the float model; evaluated in float64.
        tail: probability left outside the row on either side (coded by escapes), at most.
        limit: a row never reaches beyond +-limit.
    """
    import torch

    with torch.no_grad():
        channels = prior.matrices[0].shape[0]
        grid = torch.arange(-limit, limit + 2, dtype=torch.float64) - 0.5  # edges of the symbols -limit .. limit
        v = grid.expand(channels, 1, -1)
        for k, (matrix, bias) in enumerate(zip(prior.matrices, prior.biases, strict=True)):
            v = torch.nn.functional.softplus(matrix.double()) @ v + bias.double()
            if k < len(prior.factors):
                v = v + torch.tanh(prior.factors[k].double()) * torch.tanh(v)
        logits = v[:, 0].numpy()
    lo, frequencies = [], []
    for edges in logits:
        below, above = 1 / (1 + np.exp(np.minimum(-edges, 700))), 1 / (1 + np.exp(np.minimum(edges, 700)))
        # Differences on the side of the smaller tail, as in the float model.
        left = edges[:-1] + edges[1:] < 0
        p = np.where(left, below[1:] - below[:-1], above[:-1] - above[1:])
        low = int(np.searchsorted(below[1:], tail))  # the first symbol whose upper edge has more than the tail below it
        high = 2 * limit - int(np.searchsorted(above[:-1][::-1], tail))
        low, high = min(low, limit), max(high, limit)  # 0 is always inside: lo <= 0
        low, high = max(low, 0), min(high, 2 * limit)
        while high - low + 2 > MAX_ENTRIES:  # pragma: no cover  (limit keeps rows far shorter)
            low, high = low + 1, high - 1
        escape = max(below[low] + above[high + 1], 0.0)
        lo.append(low - limit)
        frequencies.append(quantize_probabilities(np.append(np.maximum(p[low : high + 1], 0.0), escape)))
    return TableRows.from_frequencies(lo, frequencies)
