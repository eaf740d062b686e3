"""The float model: shapes, causality, schedules, qualities."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ccm_fast.entropy.likelihood import (
    centroid,
    gaussian_likelihood,
    index_from_scale,
    logistic_likelihood,
    scale_from_index,
)
from ccm_fast.models import PRESETS, CCMConfig, CrossChannelContextModel, Schedule
from ccm_fast.models.context import GroupContext
from ccm_fast.models.entropy import FactorizedPrior, towards_mean

SMALL = {
    "widths": (8, 8, 8),
    "blocks": (1, 1, 0),
    "hyper_channels": 4,
    "psi_channels": 8,
    "cross_width": 8,
    "parameter_widths": (16, 12),
}


@pytest.mark.parametrize("groups", [(6,), (2, 3, 4)])
@pytest.mark.parametrize("size", [(1, 1), (33, 50), (64, 64)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rdoq", [True, False])
def test_forward(groups, size, training, rdoq):
    model = CrossChannelContextModel(CCMConfig(groups=groups, **SMALL)).train(training)
    x = torch.rand(2, 3, *size)
    out = model(x, torch.tensor([1.0, 7.3]), rdoq=rdoq)
    h, w = (-(-s // 16) for s in size)
    assert out["x_hat"].shape == x.shape
    assert out["likelihoods"]["y"].shape == (2, sum(groups), h, w)
    assert out["likelihoods"]["z"].shape == (2, 4, -(-h // 4), -(-w // 4))
    for p in out["likelihoods"].values():
        assert bool(((p > 0) & (p <= 1)).all())


def test_likelihoods_stay_in_fp32_under_autocast():
    """bf16 has 8 bits of mantissa: fit for convolutions, not for differences of cumulatives."""
    torch.manual_seed(0)
    model = CrossChannelContextModel(CCMConfig(groups=(4, 4), **SMALL)).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        full = model(x, 4.0)["likelihoods"]
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x, 4.0)["likelihoods"]
    for name, p in half.items():
        assert p.dtype == torch.float32
        assert abs(float(p.log().mean() / full[name].log().mean()) - 1) < 0.05


def test_every_parameter_is_trained():
    model = CrossChannelContextModel(CCMConfig(groups=(2, 3), **SMALL)).train()
    torch.manual_seed(0)
    out = model(torch.rand(8, 3, 64, 64), torch.linspace(1, 8, 8))
    loss = out["x_hat"].square().mean() - sum(p.log().mean() for p in out["likelihoods"].values())
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []


@pytest.mark.parametrize("restored", [lambda y, mean, scale: y, centroid])
def test_towards_mean_is_the_best_of_the_neighbours(restored):
    """Of the nearest integer and its neighbour towards the mean the one with the least bits and error; some move."""
    torch.manual_seed(0)
    mean, scale = 2 * torch.randn(2, 5, 30, 40), torch.rand(2, 5, 30, 40) * 2 + 0.2
    y = mean + 1.5 * scale * torch.randn_like(mean)
    found, nearest = towards_mean(y, mean, scale, restored), torch.round(y)

    def cost(v):
        return 11.4 * (restored(v, mean, scale) - y).square() - torch.log2(logistic_likelihood(v, mean, scale))

    inner = nearest - torch.sign(nearest - torch.round(mean))
    assert torch.allclose(cost(found), torch.minimum(cost(nearest), cost(inner)), atol=1e-3)
    # Steps away from the mean need no look: one in a hundred would gain, since centroids are no straight line.
    outer = nearest + torch.sign(nearest - torch.round(mean))
    assert (cost(outer) < cost(found) - 1e-3).float().mean() < 0.02
    moved = found != nearest
    assert 0.005 < moved.float().mean() < 0.2
    assert bool(((found - mean).abs() < (nearest - mean).abs() + 1e-6)[moved].all())


def test_rdoq_symbols_take_part_in_everything():
    """Contexts, likelihoods and pictures are those of the symbols that were moved, and gradients pass through."""
    torch.manual_seed(0)
    model = CrossChannelContextModel(CCMConfig(groups=(3, 4), **SMALL)).eval()
    with torch.no_grad():
        for group in model.contexts:  # means and scales that tell something
            group.head.weight.mul_(30)
            group.spatial.weight.mul_(10)
        model.log_gain.add_(2.5)
    x = torch.rand(2, 3, 96, 80)
    quality = torch.tensor([2.0, 6.0])
    with torch.no_grad():
        y = model.analysis(x, quality)
        z_hat = torch.round(model.h_a(y))
        y_hat, mean, index = model.rdoq(y, z_hat)
        assert 0.01 < float((y_hat != torch.round(y)).float().mean()) < 0.9
        assert torch.equal(y_hat, torch.round(y_hat))
        # The second group reads what the first one's symbols have become; its own contexts are the nearest symbols.
        mixed = torch.cat([y_hat[:, :3], torch.round(y)[:, 3:]], 1)
        for found, wanted in zip((mean, index), model.entropy_parameters(mixed, z_hat), strict=True):
            assert torch.allclose(found[:, 3:], wanted[:, 3:], atol=1e-4)
        out, scale = model(x, quality, rdoq=True), scale_from_index(index)
        assert torch.allclose(out["likelihoods"]["y"], logistic_likelihood(y_hat, mean, scale), atol=1e-5)
        restored = model.reconstruct(y_hat, mean, scale)
        assert torch.allclose(out["x_hat"], model.synthesis(restored, quality, x.shape[-2:]), atol=1e-4)
        assert torch.equal(model.coded(y, z_hat), y_hat)
        model.metric = "ms-ssim"
        assert torch.equal(model.coded(y, z_hat), torch.round(y))
    model(x, quality, rdoq=True)["x_hat"].square().mean().backward()
    assert float(model.g_a[1].weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", ["wavefront", "checkerboard", "single", "multistage2", "multistage4"])
@pytest.mark.parametrize("cross_kernels", [(), (3, 3)])
def test_contexts_see_only_what_is_decoded(name, cross_kernels):
    """A change of one symbol moves parameters of later groups and later steps alone, and within reach."""
    config = CCMConfig(groups=(3, 2), schedule=name, cross_kernels=cross_kernels, cross_skip_kernel=3, **SMALL)
    schedule = Schedule.from_name(name, 5)
    group = GroupContext(config, 1).double().eval()
    torch.manual_seed(1)
    h, w = 9, 11
    psi, earlier, own = (torch.randn(1, c, h, w, dtype=torch.double) for c in (8, 3, 2))
    before = torch.cat(group(psi, earlier, own), 1)
    step = schedule.steps(h, w)
    touched = False
    for i, j in [(0, 0), (4, 5), (3, 6), (8, 10), (5, 0)]:
        changed = own.clone()
        changed[0, :, i, j] += 1
        moved = (torch.cat(group(psi, earlier, changed), 1) != before).any(1)[0].numpy()
        assert not (moved & (step <= step[i, j])).any()
        far = np.ones((h, w), bool)
        far[max(0, i - 2) : i + 3, max(0, j - 2) : j + 3] = False
        assert not (moved & far).any()
        touched |= bool(moved.any())
    assert touched == (name != "single")
    changed = earlier.clone()
    changed[0, :, 4, 5] += 1
    moved = (torch.cat(group(psi, changed, own), 1) != before).any(1)[0]
    assert bool(moved[4, 5])
    assert bool(moved[5, 6])  # cross-channel context looks ahead too


@pytest.mark.parametrize("name", ["wavefront", "checkerboard", "single", "multistage2", "multistage4"])
def test_schedule(name):
    schedule = Schedule.from_name(name, 5)
    step = schedule.steps(7, 10)
    order = schedule.positions(7, 10)
    seen = np.concatenate(order)
    assert sorted(map(tuple, seen)) == [(i, j) for i in range(7) for j in range(10)]
    values = [step[p[:, 0], p[:, 1]] for p in order]
    assert all(len(set(v)) == 1 for v in values)
    assert all(a[0] < b[0] for a, b in pairwise(values))
    taps = schedule.class_taps(5)
    ph, pw = schedule.period
    for i in range(7):
        for j in range(10):
            for u in range(-2, 3):
                for v in range(-2, 3):
                    if 0 <= i + u < 7 and 0 <= j + v < 10:
                        assert taps[i % ph, j % pw, u + 2, v + 2] == (step[i + u, j + v] < step[i, j])


def test_wavefront_of_a_kodak_image():
    assert len(Schedule.wavefront(5).positions(32, 48)) == 141
    assert len(Schedule.wavefront(5).taps(5)) == 12
    assert len(Schedule.wavefront(3).positions(32, 48)) == 48 + 2 * 31


def test_bad_schedules_and_configurations():
    with pytest.raises(ValueError, match="unknown schedule"):
        Schedule.from_name("spiral")
    with pytest.raises(ValueError, match="rectangular"):
        Schedule(pattern=((0, 1), (0,)))
    with pytest.raises(ValueError, match=r"0\.\.255"):
        Schedule(row_step=256)
    with pytest.raises(ValueError, match="odd"):
        CCMConfig(context_kernel=4)
    with pytest.raises(ValueError, match="group"):
        CCMConfig(groups=())
    for config in PRESETS.values():
        assert CCMConfig.from_dict(config.to_dict()) == config


def test_qualities_interpolate():
    model = CrossChannelContextModel(CCMConfig(groups=(4,), **SMALL))
    q = torch.tensor([1.0, 1.5, 2.0, 8.0])
    gain = model.gain(q)[:, :, 0, 0]
    assert torch.allclose(gain[1], (gain[0] * gain[2]).sqrt())
    assert torch.allclose(gain[3], model.log_gain[-1].exp())
    assert bool((gain[3] > gain[0]).all())


def test_likelihoods_are_probabilities():
    v = torch.arange(-3000, 3001, dtype=torch.double)
    for index in (0.0, 20.0, 63.0):
        sigma = scale_from_index(torch.tensor(index, dtype=torch.double))
        for likelihood in (gaussian_likelihood, logistic_likelihood):
            p = likelihood(v, torch.tensor(0.3, dtype=torch.double), sigma)
            assert abs(float(p.sum()) - 1) < 1e-4
            # Sheppard: rounding adds 1 / 12 to the variance, but where nearly all lies in one interval.
            near = v.abs() < 12 * sigma + 1  # likelihoods have a floor, which adds up far away
            variance = float((p * (v - 0.3).square())[near].sum())
            assert index < 20 or variance == pytest.approx(float(sigma) ** 2 + 1 / 12, rel=0.02)
    prior = FactorizedPrior(3).double()
    total = prior(v.reshape(1, 1, 1, -1).expand(1, 3, 1, -1)).sum(-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-3)


def test_rates_are_those_of_the_symbols():
    """Also in training; there the slope that y sees is that of the rate under noise."""
    torch.manual_seed(0)
    model = CrossChannelContextModel(CCMConfig(groups=(3, 3), **SMALL))
    torch.nn.init.zeros_(model.h_a[-1].weight)  # z, mean and scale then do not depend on y
    y = (3 * torch.randn(1, 6, 8, 8)).requires_grad_()

    def rate(context: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        likelihoods, _, mean, scale = model._entropy(y, context, False)
        assert torch.equal(likelihoods["y"], logistic_likelihood(torch.round(y), mean, scale))
        return likelihoods["y"].log().sum(), mean.detach(), scale.detach()

    model.train()
    rate(context=True)
    value, mean, scale = rate()
    (slope,) = torch.autograd.grad(value, y)
    torch.manual_seed(1)
    torch.rand(model.h_a(y).shape)  # of z
    noisy = logistic_likelihood(y + torch.rand_like(y) - 0.5, mean, scale).log().sum()
    assert torch.allclose(slope, torch.autograd.grad(noisy, y)[0], rtol=1e-4, atol=1e-6)

    model.eval()  # no noise at all
    symbols = torch.round(y.detach()).requires_grad_()
    value, mean, scale = rate()
    expected = torch.autograd.grad(logistic_likelihood(symbols, mean, scale).log().sum(), symbols)[0]
    assert torch.allclose(torch.autograd.grad(value, y)[0], expected)


def test_scale_indexes_have_an_inverse():
    """Indexes to sigmas and back; sigmas beyond the table's ends become the ends; a group's head starts from them."""
    index = torch.linspace(0, 63, 200)
    assert torch.allclose(index_from_scale(scale_from_index(index)), index, atol=1e-3)
    assert index_from_scale(torch.tensor([0.0, 1e-3, 1e4])).tolist() == [0, 0, 63]
    group = CrossChannelContextModel(CCMConfig(groups=(3,))).contexts[0]
    scales = torch.tensor([0.2, 1.0, 30.0])
    group.start_from(scales)
    group.head.weight.data.zero_()
    mean, start = group.parameters_from(torch.randn(1, group.hidden[0].in_channels, 2, 2))
    assert not mean.any() and torch.allclose(scale_from_index(start[0, :, 0, 0]), scales, rtol=1e-4)
