"""Freezing: the fast integer network is the oracle; the frozen model codes nearly as well as the float one."""

import importlib
from itertools import pairwise

import numpy as np
import pytest
import torch

import ccm_fast
from ccm_fast.entropy import reference, reference_streams
from ccm_fast.entropy.network import IntegerNetwork, TableCost
from ccm_fast.entropy.plan import Plan
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.freezing import calibration
from ccm_fast.freezing.cost import integer_cost, latents
from ccm_fast.freezing.freeze import freeze
from ccm_fast.freezing.layers import least_error
from ccm_fast.freezing.rounded import Network
from ccm_fast.freezing.thaw import thaw
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.pixels import image_tensor

SCHEDULES = ["wavefront", "checkerboard", "single", "multistage2"]

pytestmark = pytest.mark.usefixtures("one_thread")


def channels_first(a):
    return torch.from_numpy(np.asarray(a)).permute(2, 0, 1)[None].double()


def channels_last(t):
    return t[0].permute(1, 2, 0).numpy()


def tiny(schedule="wavefront", groups=(4, 6), cross=(3, 3), **kwargs):
    """An untrained model whose entropy network is lively enough to be worth quantizing."""
    torch.manual_seed(1)
    config = CCMConfig(
        "tiny", (8, 8, 8), (0, 0, 0), groups, 4, 8, 5, schedule, cross, 8, 1 if cross else 0, (16, 12), **kwargs
    )
    model = CrossChannelContextModel(config).eval()
    with torch.no_grad():
        model.g_a[-1].weight.mul_(6)
        model.h_a[-1].weight.mul_(8)
        for context in model.contexts:
            context.head.weight.mul_(10)
    return model


def photographs(count, size=96):
    """Smooth random pictures with some texture, uint8 [H, W, 3]."""
    rng = np.random.default_rng(3)
    out = []
    for _ in range(count):
        coarse = torch.from_numpy(rng.random((1, 3, 7, 9)))
        x = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
        x = x + rng.uniform(0, 0.2) * torch.from_numpy(rng.standard_normal((1, 3, size, size)))
        out.append((x[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy().astype(np.uint8))
    return out


@pytest.mark.parametrize("schedule", [*SCHEDULES, "multistage4"])
def test_fast_network_is_the_oracle(schedule):
    rng = np.random.default_rng(11)
    plan = random_plan(rng, (5, 3, 4), schedule=schedule, scale_codes=200, skip_kernel=3)
    h, w = 9, 6
    z_hat, y_hat = sample_latents(rng, plan, h, w, escape=0.03)
    y_hat[2, 3, 1], y_hat[0, 0, 0], z_hat[0, 0, 0] = 32767, -32767, 300
    psi = reference.hyper(plan, z_hat, h, w)
    network = IntegerNetwork(plan)
    assert np.array_equal(channels_last(network.hyper(channels_first(z_hat), h, w)), psi)
    fast = network.parameters(channels_first(psi), channels_first(y_hat))
    offset, row = reference.parameters(plan, psi, y_hat)
    assert np.array_equal(channels_last(fast[0]), offset) and np.array_equal(channels_last(fast[1]), row)
    v = y_hat - offset
    bits = TableCost(plan.y_rows)(torch.from_numpy(row), torch.from_numpy(v)).sum()
    assert float(bits) == pytest.approx(reference_streams.ideal_bits(plan.y_rows, row, v), rel=1e-12)


@pytest.mark.slow
@pytest.mark.thinned(3)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("groups, cross", [((4, 6), (3, 3)), ((7,), (3, 3)), ((2, 3, 1), ())])
def test_frozen_codes_like_float(schedule, groups, cross):
    model = tiny(schedule, groups, cross)
    images = photographs(8)
    frozen = freeze(model, images, steps=0)
    assert model.frozen is frozen
    for cost in integer_cost(model, frozen, images, (2.0, 6.0)):
        assert cost.growth < 0.02, str(cost)
        assert sum(cost.integer_bits.values()) - sum(cost.float_bits.values()) == pytest.approx(
            sum(cost.causes.values()), abs=1e-3
        )
        assert set(cost.float_bits) == {"z", *(f"y{g}" for g in range(len(groups)))}
    # And the parameters are about the same ones.
    y_hat, z_hat = latents(model, image_tensor(images[0])[None], 4.0)
    with torch.no_grad():
        mean, index = model.entropy_parameters(y_hat, z_hat)
    network = IntegerNetwork(frozen.plan)
    m, s = network.codes(network.hyper(z_hat, *y_hat.shape[-2:]), y_hat)
    assert float((m / 16 - mean).abs().mean()) < 0.1
    assert float((s - index.clamp(0, 63)).abs().mean()) < 1.0


def test_streams_of_a_frozen_model():
    """From a picture to streams and back with the oracle; their length is the one that cost.py states."""
    model = tiny()
    images = photographs(6)
    plan = Plan.from_bytes(freeze(model, images, steps=0).to_bytes())
    y_hat, z_hat = latents(model, image_tensor(images[0])[None], 5.0)
    y, z = channels_last(y_hat).astype(np.int64), channels_last(z_hat).astype(np.int64)
    z_stream = reference.encode_z(plan, z)
    assert np.array_equal(reference.decode_z(plan, z_stream, *z.shape[:2]), z)
    psi = reference.hyper(plan, z, *y.shape[:2])
    streams = reference.encode_y(plan, psi, y)
    assert np.array_equal(reference.decode_y(plan, psi, streams), y)
    (cost,) = integer_cost(model, plan, images[:1], (5.0,))
    coded = sum(len(s.data) for s in [z_stream, *streams])
    ideal = sum(cost.integer_bits.values()) / 8
    assert ideal < coded < ideal + 6 * (1 + len(streams))


@pytest.mark.slow
def test_fine_tuning_shortens_the_code():
    model = tiny()
    images = photographs(12)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    history = []
    freeze(model, images, steps=30, history=history)
    assert len(history) == 30 and np.mean(history[-5:]) < np.mean(history[:5])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # the float model is not touched
    tuned = integer_cost(model, model.frozen, images, (4.0,))[0]
    plain = integer_cost(model, freeze(model, images, steps=0), images, (4.0,))[0]
    assert sum(tuned.integer_bits.values()) < sum(plain.integer_bits.values())


@pytest.mark.slow
@pytest.mark.parametrize(("images", "steps"), [(31, 0), (32, 300), (255, 300), (256, 1000)])
def test_fine_tuning_takes_more_steps_with_more_images(monkeypatch, images, steps):
    module = importlib.import_module("ccm_fast.freezing.freeze")
    choose, taken, tried = module.best_calibration, [], []

    def fine_tune(network, data, loss, steps, batch, seed, progress):
        taken.append((len(data), steps))
        return []

    def best_calibration(model, data, expected, progress):
        tried.append(len(data))
        return choose(model, data[:2], expected[:2])

    monkeypatch.setattr(module, "fine_tune", fine_tune)
    monkeypatch.setattr(module, "best_calibration", best_calibration)
    freeze(tiny(), [torch.rand(3, 16, 16)] * images)
    assert taken == ([(4 * images, steps)] if steps else [])  # every image in four versions
    assert tried == [min(images, 64)]  # every choice of scales is tried on all of them


@torch.no_grad()
def test_versions_of_an_image():
    """Every one of another quality, and every second one mirrored."""
    collect = importlib.import_module("ccm_fast.freezing.freeze").collect
    model, images = tiny(), photographs(3)
    found = [c for c, _ in collect(model, images, 96, torch.Generator().manual_seed(0), 4)]
    step = (model.config.qualities - 1) / 12
    assert np.allclose(sorted(c.quality for c in found), 1 + step * (np.arange(12) + 0.5))
    for k, c in enumerate(found):
        x = image_tensor(images[k % 3])
        y = model.analysis((x.flip(-1) if k // 3 % 2 else x)[None], torch.tensor([c.quality]))
        assert torch.allclose(c.y_hat + c.rest, y, atol=1e-2)


@pytest.mark.slow
def test_every_group_gets_the_scales_that_suit_it():
    model = tiny()
    with torch.no_grad():  # a unit with a range far beyond the others', in one group
        model.contexts[0].hidden[0].weight[0] *= 300
        model.contexts[0].head.weight[:, 0] /= 300
    collect = importlib.import_module("ccm_fast.freezing.freeze").collect
    found = list(collect(model, photographs(4), 64, torch.Generator().manual_seed(0)))
    data, expected = [(c.y_hat, c.z_hat) for c, _ in found], [bits for _, bits in found]
    importance = [1e3 / bits for bits in expected]

    @torch.no_grad()
    def length(network):
        return sum(
            float(calibration.code_length(y, *network(y, z))) / b for (y, z), b in zip(data, expected, strict=True)
        )

    hyper, psi = calibration._hyper_activations(model, data, importance)
    singly = []
    for equalization in calibration.EQUALIZATIONS:
        for saturation in calibration.SATURATIONS:
            way, network, start = calibration._Scales(equalization, saturation), Network(model), 0
            unit = calibration._calibrate_hyper(network, model, hyper, way)
            for group, context in zip(network.groups, model.contexts, strict=True):
                end = start + group.channels
                earlier, own = ([y[:, part] for y, _ in data] for part in (slice(start), slice(start, end)))
                found = calibration._group_activations(context, psi, earlier, own, importance)
                calibration._calibrate_group(group, context, found, unit, [way] * calibration._activations(group))
                start = end
            singly.append(length(network))
    best = calibration.best_calibration(model, data, expected)
    assert length(best) < min(singly) - 1e-6  # no single way is best for all layers


def test_units_are_those_with_the_least_error_of_rounding():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.gamma(0.5, 2.0, (3, 2, 50)).astype(np.float32))
    tried = [torch.from_numpy(rng.uniform(0.005, 0.05, 3).astype(np.float32)) for _ in range(9)]
    unit, error = least_error(x, tried, 0, 255, lambda square: square.sum((1, 2)))
    for c in range(3):
        errors = [float(((x[c] / u[c]).round().clamp(0, 255) * u[c] - x[c]).square().sum()) for u in tried]
        assert unit[c] == tried[int(np.argmin(errors))][c]
        assert float(error[c]) == pytest.approx(min(errors), rel=1e-5)
    assert any(not torch.equal(unit, u) for u in tried)  # channels are chosen for one by one


def test_scales_between_layers_change_nothing_but_rounding():
    model = tiny(cross=(3, 3, 3))
    y_hat, z_hat = latents(model, image_tensor(photographs(1)[0])[None], 4.0)
    with torch.no_grad():
        bits = float(calibration.code_length(y_hat, *model.entropy_parameters(y_hat, z_hat)))
        network = calibration.best_calibration(model, [(y_hat, z_hat)], [bits])
        before = network(y_hat, z_hat)
        for group in network.groups:
            group.share_scales()
        assert all(torch.equal(a, b) for a, b in zip(network(y_hat, z_hat), before, strict=True))
        scales = {n: p for n, p in network.named_parameters() if "log_scale" in n}
        assert len(scales) == 2 * 2 + 2  # sum and hidden layer of two groups, the stack of the second
        for p in scales.values():
            p.uniform_(-0.5, -0.3)
        mean, index = network(y_hat, z_hat)
        for group in network.groups:
            pairs = [*pairwise(group.stack), *pairwise([*group.hidden, group.head])]
            plain = [(b.log_factor, b.bias, a.value) for b, a in pairs]
            scaled = [(*b.scaled()[1:], a.scaled()[0]) for b, a in pairs]
            plain.append((group.log_factor, group.log_factor.exp(), group.hidden[0].value))
            scaled.append((group.factor(), group.factor().exp(), group.hidden[0].scaled()[0]))
            for one, other in zip(plain, scaled, strict=True):
                assert not torch.allclose(one[0], other[0], atol=0.2)
                ways = [value * factor.exp()[None, :, None, None] for factor, _, value in (one, other)]
                assert torch.allclose(*ways, rtol=1e-5) and torch.allclose(
                    one[1] / one[0].exp(), other[1] / other[0].exp(), rtol=1e-5
                )
    integers = IntegerNetwork(network.export(model))
    m, s = integers.codes(integers.hyper(z_hat, *y_hat.shape[-2:]), y_hat)
    assert torch.equal(m / 16, mean.double()) and torch.equal(s, index.double())


@pytest.mark.slow
def test_freezing_is_reproducible():
    model, images = tiny(), photographs(5)
    assert freeze(model, images, steps=3).fingerprint == freeze(model, images, steps=3).fingerprint
    assert freeze(model, images, steps=3).fingerprint != freeze(model, images, steps=3, seed=1).fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_thawed_network_is_the_frozen_one_without_rounding(schedule):
    model, images = tiny(schedule), photographs(5)
    plan = freeze(model, images, steps=0).plan
    y_hat, z_hat = latents(model, image_tensor(images[0])[None], 4.0)
    thaw(model, plan)
    model.saturate(None)
    with torch.no_grad():
        mean, index = model.entropy_parameters(y_hat, z_hat)
    smooth = IntegerNetwork(plan, exact=False)
    m, s = smooth.codes(smooth.hyper(z_hat, *y_hat.shape[-2:]), y_hat)
    assert torch.allclose(mean.double(), m / 16, atol=1e-3, rtol=1e-3)
    assert torch.allclose(index.double(), s, atol=1e-2, rtol=1e-3)


@torch.no_grad()
def test_thawed_activations_end_where_their_bytes_end():
    """Latents of no photograph, by which bytes are full: floats without an end mean something else altogether."""
    torch.manual_seed(0)
    model = ccm_fast.load("ccm-small")
    y_hat, z_hat = (40 * torch.randn(1, 320, 4, 4)).round(), (10 * torch.randn(1, 32, 1, 1)).round()
    network = IntegerNetwork(model.frozen.plan)
    codes, _ = network.codes(network.hyper(z_hat, 4, 4), y_hat)
    ended, _ = model.entropy_parameters(y_hat, z_hat)
    model.saturate(None)
    free, _ = model.entropy_parameters(y_hat, z_hat)
    away = [float((mean - codes / 16).abs().mean()) for mean in (free, ended)]
    assert away[1] < 0.25 < 2 < away[0]


def test_dead_channels_do_not_overflow():
    model = tiny()
    with torch.no_grad():
        model.h_s[0].weight[1] = 0
        model.h_s[0].bias[1] = -1
        for context in model.contexts:
            context.spatial.weight[2] = 0
            context.hyper.weight[3] = 0
            context.hyper.bias[3] = 5
            context.hidden[0].weight[0] = 1e-20
            context.head.weight[:2] = 0
            context.head.bias[0] = 3
    freeze(model, photographs(3), steps=0)


def test_bad_calibration_images():
    with pytest.raises(ValueError, match="calibration images"):
        freeze(tiny(), [])
    with pytest.raises(ValueError, match="three channels"):
        freeze(tiny(), [torch.zeros(1, 32, 32)])
    with pytest.raises(ValueError, match="three dimensions"):
        freeze(tiny(), [torch.zeros(1, 3, 32, 32)])


def test_units_that_hardly_ever_fire_do_not_overflow():
    """Weights as Adam leaves them in such units: large, and of a range of activations that says nothing of them."""
    model = tiny()
    with torch.no_grad():
        conv = model.contexts[1].stack[0]
        conv.weight[2] *= 3e6
        conv.bias[2] = -4e8
        conv = next(m for m in model.h_s if isinstance(m, torch.nn.Conv2d))
        conv.weight[5] *= 3e6
        conv.bias[5] = -4e8
    assert freeze(model, photographs(2), steps=0).plan.version == 1
