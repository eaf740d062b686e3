"""Integer CDF tables: exact sums, near-ideal code lengths."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccm_fast.entropy.likelihood import gaussian_likelihood, scale_from_index
from ccm_fast.entropy.tables import fraction_bits, gaussian_rows, prior_rows, quantize_probabilities, scales
from ccm_fast.models.entropy import FactorizedPrior


def test_scales_are_those_of_the_float_model():
    assert scales() == pytest.approx(scale_from_index(torch.arange(64.0)).numpy(), rel=1e-5)


def test_fraction_bits_follow_the_rule():
    for sigma, b in zip(scales(), fraction_bits().tolist(), strict=True):
        assert 2.0**-b <= sigma / 8 or b == 4
        assert b == 0 or 2.0 ** -(b - 1) > sigma / 8  # and no finer than needed


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda p: sum(p) > 1e-3))
def test_quantized_probabilities(p):
    f = quantize_probabilities(np.array(p), 1 << 12)
    assert f.sum() == 1 << 12 and f.min() >= 1
    q = np.array(p) / sum(p)
    cost = -(q * np.log2(f / f.sum())).sum()
    # No single exchange of a unit improves it by anything that matters.
    for a in range(len(f)):
        for b in range(len(f)):
            if a != b and f[b] > 1:
                other = f.copy()
                other[a] += 1
                other[b] -= 1
                assert -(q * np.log2(other / f.sum())).sum() > cost - 2e-5


def entropy_and_cost(p, f):
    p = np.maximum(p, 1e-300)
    return -(p * np.log2(p)).sum(), -(p * np.log2(f / f.sum())).sum()


def test_gaussian_rows_cost():
    rows = gaussian_rows()
    bits = fraction_bits()
    assert len(rows) == (1 << bits.astype(int)).sum()
    r = 0
    for sigma, b in zip(scales(), bits.tolist(), strict=True):
        for k in range(1 << b):
            mean = (k - ((1 << b) >> 1)) / (1 << b)
            lo, n = int(rows.lo[r]), int(rows.n[r])
            symbols = torch.arange(lo, lo + n - 1, dtype=torch.float64)
            like = gaussian_likelihood(symbols, torch.tensor(mean), torch.tensor(sigma)).numpy()
            tail = max(1.0 - like.sum(), 0.0)
            f = np.diff(rows.row(r))
            entropy, cost = entropy_and_cost(np.append(like, tail), f)
            # 16-bit probabilities: 2e-4 bits where the symbol is all but certain, little of a wide row's many bits.
            assert cost - entropy < 2.5e-4 + 2e-3 * max(entropy, 0), (sigma, mean)
            assert f[-1] >= 1 and tail < 1e-4
            r += 1


def test_fraction_grid_costs_little():
    """Measured: means on the grid instead of exact ones, in bits a symbol (the rule promises about 0.001)."""
    for sigma, b in zip(scales(), fraction_bits().tolist(), strict=True):
        if sigma < 0.5 or sigma > 40:
            continue
        worst = 0.0
        delta = 2.0**-b
        symbols = torch.arange(-math.ceil(8 * sigma) - 2, math.ceil(8 * sigma) + 3, dtype=torch.float64)
        loss = []
        for k in range(8):
            mean = (k + 0.5) / 8 * delta - delta / 2  # errors spread over the cell around the grid point 0
            p = gaussian_likelihood(symbols, torch.tensor(mean), torch.tensor(sigma)).numpy()
            q = gaussian_likelihood(symbols, torch.tensor(0.0), torch.tensor(sigma)).numpy()
            loss.append((p * np.log2(p / q)).sum())
        worst = max(worst, float(np.mean(loss)))
        assert worst < 1.2e-3


@pytest.mark.slow
def test_prior_rows_match_the_float_prior():
    torch.manual_seed(3)
    prior = FactorizedPrior(5, init_scale=4.0)
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.3 * torch.randn_like(p))
    rows = prior_rows(prior)
    assert len(rows) == 5
    for c in range(5):
        lo, n = int(rows.lo[c]), int(rows.n[c])
        assert lo <= 0 <= lo + n - 2
        z = torch.zeros(1, 5, 1, n - 1)
        z[0, c, 0] = torch.arange(lo, lo + n - 1)
        p = prior(z)[0, c, 0].detach().double().numpy()
        f = np.diff(rows.row(c)) / 65536
        assert f[:-1] == pytest.approx(p, rel=0.02, abs=2e-5)
        assert 1 - p.sum() < 3 * 2.0**-14


def test_prior_rows_of_an_extreme_prior():
    prior = FactorizedPrior(2)
    with torch.no_grad():
        prior.biases[-1].add_(60.0)  # all mass far below zero
    rows = prior_rows(prior, limit=64)
    assert (rows.lo <= 0).all() and (rows.lo >= -64).all() and (rows.n >= 2).all()
