"""Freezing succeeds on any net: steps are chosen so that no input can leave 32 bits, and nothing is lost by it."""

import numpy as np
import pytest
import tiny
import torch

import ccm_fast
from ccm_fast.entropy.plan import ACCUMULATE, RELU8, OverflowProofError, fixed_point
from ccm_fast.entropy.plan_checks import prove
from ccm_fast.freezing.cost import integer_cost
from ccm_fast.freezing.freeze import freeze
from ccm_fast.freezing.layers import Layer, export_sum, within_32_bits
from ccm_fast.models import CrossChannelContextModel

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = [tiny.photo(48, 64, k) for k in range(3)]


def large(model):
    """A network whose weights are a thousand times those that optimizers like."""
    for name, p in model.named_parameters():
        if name.startswith(("h_s", "contexts")) and p.ndim == 4:
            p *= 1000


def rare(model):
    """In every layer a unit of large weights that hardly ever fires, as Adam makes them."""
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        if name.startswith(("h_s", "contexts")) and (p.ndim == 4 or "head" not in name):
            k = int(torch.randint(p.shape[0], (1,), generator=generator))
            p[k] = p[k] * 1000 if p.ndim == 4 else -300


def silent(model):
    """In every layer a unit of large weights whose bias keeps it silent."""
    for name, p in model.named_parameters():
        if name.startswith("h_s") or ".stack." in name or ".hidden." in name:
            p[0] = p[0] * 300 if p.ndim == 4 else -3000


@pytest.mark.slow
@pytest.mark.thinned(2)
@pytest.mark.parametrize("change", [None, large, rare, silent])
@pytest.mark.parametrize("seed", [0, 2])
def test_random_nets_can_be_frozen(change, seed):
    torch.manual_seed(seed)
    model = CrossChannelContextModel(tiny.CONFIG)
    with torch.no_grad():
        model.log_gain += 3
        if change:
            change(model)
    freeze(model, IMAGES, steps=0)
    prove(model.frozen.plan)
    if change is not large:  # which says nothing about any picture, in floats or integers
        for cost in integer_cost(model, model.frozen, IMAGES, (2.0, 6.0)):
            assert cost.integer_growth < 0.05, str(cost)


@pytest.mark.slow
def test_fine_tuned_nets_too():
    torch.manual_seed(0)
    model = CrossChannelContextModel(tiny.CONFIG)
    with torch.no_grad():
        rare(model)
    freeze(model, IMAGES, steps=3)
    prove(model.frozen.plan)


def test_weights_that_are_not_finite_are_named():
    model = CrossChannelContextModel(tiny.CONFIG)
    with torch.no_grad():
        model.h_s[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"not finite cannot be frozen: h_s\.0\.weight"):
        freeze(model, IMAGES)


def layer(output, weight, factor, bias=0.0, inputs=3):
    """Of two outputs, all weights alike."""
    out = Layer(output, signed=False)
    out.set(torch.full((2, inputs, 1, 1), float(weight)), torch.tensor(factor), torch.tensor([bias, bias]))
    return out


def test_factors_are_lowered_only_where_they_must_be():
    assert np.array_equal(within_32_bits(np.array([1.0, 2.0**13]), np.array([2.0**30, 2.0**17])), [1.0, 2.0**13])
    low = within_32_bits(np.array([4.0, 2.0**20]), np.array([2.0**30, 1.0]))
    mult, shift = (a.astype(object) for a in fixed_point(low))
    assert (2**30 * mult[0] + 2 ** (shift[0] - 1)) >> shift[0] < 2**31
    assert low[0] > 1.999 and low[1] > 2.0**14 - 1


def test_a_layer_keeps_its_integers_where_they_fit():
    exported = layer(RELU8, 5, [0.5, 30000.0]).export()
    factors = exported.mult / 2.0**exported.shift
    assert factors[0] == pytest.approx(0.5, rel=1e-6) and 2**14 - 1 < factors[1] < 2**14
    assert np.array_equal(exported.weight, np.full((2, 1, 1, 3), 5))


def test_a_bias_beyond_32_bits_ends_there():
    exported = layer(RELU8, 127, [1e-6, 1.0], bias=1e5).export()
    assert np.array_equal(exported.bias, [2**31 - 1 - 127 * 3 * 255, 100_000])


def test_a_sum_gets_coarser_steps_only_where_it_must():
    parts = [layer(ACCUMULATE, 100, [1.0, 16e3], inputs=6), layer(ACCUMULATE, -1, [1.0, 1.0])]
    spatial = torch.full((2, 4, 3, 3), 90.0)
    convs, value, factor = export_sum(parts, spatial, np.array([1 / 64, 1 / 64]))
    assert np.array_equal(value[0], np.full((4, 3, 3), 90))
    assert factor[0] == 1 / 64
    steps = 16e3 * 153_000 / (2.0**31 - 2.0**22)  # what of the second channel does not fit
    assert factor[1] == pytest.approx(steps / 64, rel=0.01)
    assert np.array_equal(value[1], np.full((4, 3, 3), round(90 / steps)))
    for conv, before in zip(convs, (16e3, 1.0), strict=True):
        assert conv.mult[1] / 2.0 ** conv.shift[1] == pytest.approx(before / steps, rel=0.01)
        assert np.array_equal(conv.mult[:1], fixed_point(1.0)[0])
    totals = sum(
        np.abs(c.weight.astype(np.int64)).sum((1, 2, 3)) * 255 * (c.mult / 2.0**c.shift) for c in convs
    ) + 127 * np.abs(value.astype(np.int64)).sum((1, 2, 3))
    assert (totals < 2**31).all() and totals[1] > 2**30


def test_the_error_is_exported():
    assert ccm_fast.OverflowProofError is OverflowProofError and issubclass(OverflowProofError, ccm_fast.ModelError)
