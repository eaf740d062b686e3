"""Groups' integers trained on what the encoder codes: the same numbers at the start, fewer bits at the end."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from ccm_fast.codec import compress, decompress
from ccm_fast.entropy.likelihood import scale_from_index
from ccm_fast.entropy.network import IntegerNetwork, TableCost, offsets_and_rows
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.freezing.freeze import collect, freeze
from ccm_fast.freezing.retrain import TableLength, channels_of, coded, put_back, retrain, rounded_network
from ccm_fast.models import CCMConfig, CrossChannelContextModel

CONFIG = CCMConfig(
    "tiny",
    (8, 8, 8),
    (0, 0, 0),
    (4, 6),
    4,
    8,
    5,
    "wavefront",
    (3, 3),
    8,
    1,
    (16, 12),
    fine=True,
    reconstruction="centroid",
)

pytestmark = pytest.mark.usefixtures("one_thread")


def frozen(skip=0):
    torch.manual_seed(1)
    model = CrossChannelContextModel(CONFIG).eval().requires_grad_(False)
    model.log_gain += 3.0
    for group in model.contexts:
        group.head.weight *= 10
    freeze(model, [tiny.photo(96, 96, k) for k in range(2)], steps=0, skip=skip)
    return model


def crops_of(model, count):
    images = [tiny.photo(96, 96, k) for k in range(count)]
    return [c for c, _ in collect(model, images, 96, torch.Generator().manual_seed(0))]


@pytest.mark.slow
@torch.no_grad()
def test_it_starts_from_the_same_integers():
    model = frozen()
    network, exact = rounded_network(model), IntegerNetwork(model.frozen.plan)
    data = coded(model, network, TableLength(model.frozen.plan), crops_of(model, 1)[0])
    mean, scale = exact.codes(data.psi.double(), data.y_hat)
    known, found = data.y_hat.float().clamp(-127, 127), []
    for g, group in enumerate(network.groups):
        own = channels_of(network, g)
        found.append(group(data.psi.float(), known[:, : own.start], known[:, own]))
    means, scales = (torch.cat(parts, 1).double() for parts in zip(*found, strict=True))
    assert mean.unique().numel() > 20 and scale.unique().numel() > 5
    # Factors are float32 here, and logarithms: values at a rounding's edge may fall to its other side (of trained
    # weights fewer than one of a thousand do; these are random, and large).
    assert float((means != mean).double().mean()) < 0.05 and float((means - mean).abs().max()) <= 1
    assert float((scales != scale).double().mean()) < 0.05 and float((scales - scale).abs().max()) <= 1


def test_lengths_are_those_of_the_tables():
    plan = frozen(skip=3).frozen.plan
    length, rng = TableLength(plan), torch.Generator().manual_seed(0)
    index = torch.arange(8, 50).repeat_interleave(50)
    sigma = scale_from_index(index.float())
    mean = torch.randint(-40, 41, index.shape, generator=rng)
    y = torch.round(mean / 16 + sigma * torch.randn(index.shape, generator=rng))
    offset, row = offsets_and_rows(plan, mean, index)
    wanted = TableCost(plan.y_rows, torch.float32)(row.int(), y.int() - offset.int())
    shape = (-1, 1, 1, 1)
    found = length(y.view(shape), mean.float().view(shape), index.float().view(shape))
    # Tables know fractions of means coarsely; on the average that is nothing.
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), rel=0.01)

    def slopes(y, mean, index):
        mean, index = (torch.full((1, 1, 1, 1), float(v), requires_grad=True) for v in (mean, index))
        bits = length(torch.full((1, 1, 1, 1), float(y)), mean, index)
        bits.sum().backward()
        return bits.item(), float(mean.grad), float(index.grad)

    assert slopes(2, 0, 20)[1] < 0 < slopes(-2, 0, 20)[1]  # a mean that comes nearer saves bits
    assert slopes(9, 0, 20)[2] < 0 < slopes(0, 0, 20)[2]  # a surprise asks for a larger scale, certainty for a smaller
    assert slopes(0, 3, 3) == (0, 0, 0)  # skipped, and right
    assert slopes(1, 3, 3)[0] > 4 and slopes(1, 3, 3)[2] < 0  # skipped, and wrong


def test_unchanged_groups_are_the_same_bytes():
    model = frozen()
    network, before = rounded_network(model), model.frozen.plan.to_bytes()
    for group in range(2):
        put_back(model, network, group)
    after = model.frozen.plan.groups[1]
    for mine, theirs in zip(after.stack, type(model.frozen.plan).from_bytes(before).groups[1].stack, strict=True):
        assert np.array_equal(mine.weight, theirs.weight)
        assert np.allclose(np.ldexp(mine.mult, -mine.shift), np.ldexp(theirs.mult, -theirs.shift), rtol=1e-6)


@pytest.mark.slow
def test_a_group_loses_its_own_context_and_learns_to_do_without():
    model = frozen()
    before, length = rounded_network(model), TableLength(model.frozen.plan)
    data = [coded(model, before, length, c) for c in crops_of(model, 8)]
    model.config = replace(model.config, fine_context=False)
    model.contexts[1].spatial = None
    network = rounded_network(model)
    lengths = retrain(network, length, 1, data, steps=60)
    assert np.mean(lengths[-10:]) < 0.98 * np.mean(lengths[:10])
    put_back(model, network, 1)
    plan = model.frozen.plan
    assert plan.schedules == (Schedule.wavefront(5), Schedule(row_step=1)) and len(plan.groups[1].taps) == 0
    x = torch.from_numpy(tiny.photo(48, 80)).permute(2, 0, 1)[None].float() / 255
    out = compress(model, x, 5)
    found, oracle = (decompress(model, **out, engine=engine)["x_hat"] for engine in ("cpu", "reference"))
    assert torch.equal(found, oracle)
