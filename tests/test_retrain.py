"""Groups' integers trained on what the encoder codes: the same numbers at the start, fewer bits at the end."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from ccm_fast.codec import compress, decompress
from ccm_fast.entropy.network import IntegerNetwork, TableCost, offsets_and_rows
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.freezing.freeze import collect, freeze
from ccm_fast.freezing.retrain import Chooser, TableLength, channels_of, coded, put_back, retrain, rounded_network
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


@torch.no_grad()
def test_it_starts_from_the_same_integers():
    model = frozen()
    network, exact = rounded_network(model), IntegerNetwork(model.frozen.plan)
    data = coded(model, network, crops_of(model, 1)[0])
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


@torch.no_grad()
def test_symbols_are_chosen_as_the_encoder_does():
    model = frozen(skip=-1)
    network, own = rounded_network(model), slice(0, CONFIG.groups[0])
    model.sensitivities = torch.full((2, CONFIG.latent_channels), 0.02)  # so that rounding moves some
    moved = 0
    for data in (coded(model, network, c) for c in crops_of(model, 4)):
        nearest = torch.round(data.y[:, own].float())
        mean, index = network.groups[0](data.psi.float(), nearest[:, :0], nearest.clamp(-127, 127))
        found = Chooser(model, own)(data.y[:, own], mean, index, torch.tensor([data.quality]))
        # The encoder has y in float32 and exact multipliers: single symbols may differ.
        assert float((found != data.y_hat[:, own]).float().mean()) < 0.02
        moved += int((found != nearest).sum())
    assert moved > 20


def test_lengths_are_those_of_the_tables():
    plan = frozen().frozen.plan
    length, rng = TableLength(plan), torch.Generator().manual_seed(0)
    y = torch.randint(-20, 21, (500,), generator=rng)
    mean, index = torch.randint(-300, 301, (500,), generator=rng), torch.randint(0, 64, (500,), generator=rng)
    offset, row = offsets_and_rows(plan, mean, index)
    wanted = TableCost(plan.y_rows, torch.float32)(row.int(), y.int() - offset.int())
    assert torch.equal(length(y.float(), mean.float(), index.float()), wanted)

    def slopes(y, mean, index):
        mean, index = (torch.tensor(float(v), requires_grad=True) for v in (mean, index))
        length(torch.tensor(float(y)), mean, index).backward()
        return float(mean.grad), float(index.grad)

    assert slopes(2, 0, 20)[0] < 0 < slopes(-2, 0, 20)[0]  # a mean that comes nearer saves bits
    assert slopes(9, 0, 20)[1] < 0 < slopes(0, 0, 20)[1]  # a surprise asks for a larger scale, certainty for a smaller
    far = slopes(100, 0, 45)  # beyond the tables
    assert far[0] < 0 and far[1] < 0


def test_unchanged_groups_are_the_same_bytes():
    model = frozen()
    network, before = rounded_network(model), model.frozen.plan.to_bytes()
    for group in range(2):
        put_back(model, network, group)
    after = model.frozen.plan.groups[1]
    for mine, theirs in zip(after.stack, type(model.frozen.plan).from_bytes(before).groups[1].stack, strict=True):
        assert np.array_equal(mine.weight, theirs.weight)
        assert np.allclose(np.ldexp(mine.mult, -mine.shift), np.ldexp(theirs.mult, -theirs.shift), rtol=1e-6)


def test_a_group_loses_its_own_context_and_learns_to_do_without():
    model = frozen()
    before = rounded_network(model)
    data = [coded(model, before, c) for c in crops_of(model, 8)]
    model.config = replace(model.config, fine_context=False)
    model.contexts[1].spatial = None
    network = rounded_network(model)
    lengths = retrain(model, network, 1, data, steps=60)
    assert np.mean(lengths[-10:]) < 0.98 * np.mean(lengths[:10])
    put_back(model, network, 1)
    plan = model.frozen.plan
    assert plan.schedules == (Schedule.wavefront(5), Schedule(row_step=1)) and len(plan.groups[1].taps) == 0
    x = torch.from_numpy(tiny.photo(48, 80)).permute(2, 0, 1)[None].float() / 255
    out = compress(model, x, 5)
    found, oracle = (decompress(model, **out, engine=engine)["x_hat"] for engine in ("cpu", "reference"))
    assert torch.equal(found, oracle)
