"""What the encoder's search is made of: code lengths, sensitivities, gradients, rounding, moves."""

import copy

import numpy as np
import pytest
import skimage.data
import tiny
import torch

from ccm_fast import _backend, _native, picture_filter, weights
from ccm_fast.effort import distortion, filtering, rate, search
from ccm_fast.entropy import reference_streams


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def shipped():
    return weights.load("ccm-small")


def test_code_lengths_are_those_of_the_tables(model):
    plan = model.frozen.plan
    rng = np.random.default_rng(0)
    for table, rows in zip(rate.tables_of(model.frozen), (plan.y_rows, plan.z_rows), strict=True):
        row = rng.integers(0, len(rows), 3000)
        symbol = rng.integers(-40, 41, 3000)
        symbol[:200] = rng.integers(-32767, 32768, 200)  # escapes
        edge = rows.lo[row[200:600]]
        symbol[200:400], symbol[400:600] = edge[:200] - 1, edge[200:] + rows.n[row[400:600]] - 1  # the first escapes
        found = table(torch.from_numpy(row), torch.from_numpy(symbol).int())
        want = [reference_streams.ideal_bits(rows, r[None], v[None]) for r, v in zip(row, symbol, strict=True)]
        np.testing.assert_allclose(found.numpy(), want, rtol=1e-5, atol=1e-5)
        planes = [torch.from_numpy(v.astype(kind)).view(2, 10, 15, 10) for v, kind in ((symbol, "i4"), (row, "i2"))]
        sums = _backend.load().ops.coded_bits(planes[0] + 3, torch.full_like(planes[1], 3), planes[1], *table.tables, 2)
        np.testing.assert_allclose(sums, np.reshape(want, (2, -1)).sum(1), rtol=1e-6)
        with pytest.raises(RuntimeError, match="a row is out of range"):
            _backend.load().ops.coded_bits(planes[0], planes[1], planes[1] + 10000, *table.tables, 1)


def test_sensitivities_are_the_error_of_a_unit_step(shipped):
    """One step of one channel, at many places, really changes the picture so much."""
    M = shipped.config.latent_channels
    h = distortion.grey_sensitivities(shipped.g_s, M, False)
    assert distortion.grey_sensitivities(shipped.g_s, M, False) is h  # kept
    with torch.no_grad():
        base = torch.zeros(1, M, 13, 13)
        for channel in (0, M // 2, M - 1):
            step = base.clone()
            step[:, channel, 6, 6] = 0.1
            change = float((shipped.g_s(step) - shipped.g_s(base)).square().sum()) / 0.01
            assert h[channel] == pytest.approx(change, rel=0.35)  # two pictures: an estimate


@pytest.mark.slow
def test_sensitivities_of_photographs(shipped):
    """Random steps of many symbols of one channel change a decoded photograph by what is in the weights file."""
    pictures = skimage.data.astronaut()[:256, 128:384], skimage.data.chelsea()[:256, 64:320]
    pictures = *pictures, skimage.data.coffee()[64:320, 128:384]
    channels = range(0, shipped.config.latent_channels, 20)
    changes = torch.zeros(2, len(channels))
    quality = torch.tensor([4.0])
    with torch.no_grad():
        for picture in pictures:
            x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
            read = torch.round(shipped.analysis(x, quality)) * shipped.inverse_gain(quality)
            base = shipped.g_s(read)
            generator = torch.Generator().manual_seed(0)
            for k, channel in enumerate(channels):
                step = 0.05 * (torch.randint(0, 2, (10, 10), generator=generator) * 2 - 1)
                moved = read.clone()
                moved[0, channel, 3:13, 3:13] += step
                change = shipped.g_s(moved) - base
                size = step.square().sum() * len(pictures)
                changes[0, k] += change.square().sum() / size
                changes[1, k] += 3 * change.mean(1).square().sum() / size
    for grey in (False, True):
        errors = [
            (changes[int(grey)] / h[list(channels)]).log()
            for h in (
                distortion.sensitivities(shipped, grey),
                distortion.grey_sensitivities(shipped.g_s, shipped.config.latent_channels, grey),
            )
        ]
        (mean, deviation), (grey_mean, grey_deviation) = ((abs(float(e.mean())), float(e.std())) for e in errors)
        # Where decoders average colours, what chroma does to a picture depends on the picture: on its colours.
        # A grey picture says much less.
        assert mean < 0.2 and deviation < (0.3 if grey else 0.2)
        assert grey_mean > 3 * mean and grey_deviation > 2 * deviation, (mean, deviation, grey_mean, grey_deviation)


def test_sensitivities_nobody_has_measured(model):
    other = copy.deepcopy(model)
    other.sensitivities = None
    M = other.config.latent_channels
    assert torch.equal(distortion.sensitivities(other, True), 1.5 * distortion.grey_sensitivities(other.g_s, M, True))
    other.sensitivities = torch.arange(2.0 * M).view(2, M)
    assert torch.equal(distortion.sensitivities(other, True), other.sensitivities[1])


@pytest.mark.usefixtures("float_transforms")
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_without_autograd(shipped, weighted, monkeypatch):
    """Turned convolutions give what torch's autograd gives, in tiles, at the edges and for grey pictures."""
    x = tiny.batch(1, 2, height=90, width=130)
    quality = torch.tensor([4.0, 6.0])
    y, gain = torch.round(shipped.analysis(x, quality)), shipped.inverse_gain(quality)
    weights_ = 0.5 + torch.rand(2, 1, 6, 9) if weighted else None
    for grey in (False, True):
        seen = x.mean(1, keepdim=True).expand_as(x) if grey else x

        def error(tile_pixels, seen=seen, grey=grey):
            read = lambda rows, columns: seen[..., rows, columns]  # noqa: E731
            return distortion.SquaredError(shipped.g_s, gain, read, (90, 130), grey, tile_pixels, weights_)

        with torch.no_grad():
            found = [error(pixels).gradient(y) for pixels in (1 << 30, 16 * 256)]
            with monkeypatch.context() as patch:
                patch.setattr(distortion, "synthesis_gradient", lambda g_s: None)
                wanted = error(1 << 30).gradient(y)
        for own in found:
            torch.testing.assert_close(own[0], wanted[0], rtol=1e-3, atol=1e-4)
            assert (own[1] - wanted[1]).norm() < 2e-3 * wanted[1].norm()


def test_gradient_of_the_error_in_tiles(model):
    x = tiny.batch(1, height=90, width=130)
    gain = model.inverse_gain(torch.tensor([4.0]))
    y = torch.randn(1, model.config.latent_channels, 6, 9, generator=torch.Generator().manual_seed(0)) * 2

    def read(rows, columns):
        return x[..., rows, columns]

    for grey in (False, True):
        whole = distortion.SquaredError(model.g_s, gain, read, (90, 130), grey, 1 << 30)
        tiled = distortion.SquaredError(model.g_s, gain, read, (90, 130), grey, 16 * 256)
        assert len(whole.tiles) == 1 < len(tiled.tiles)
        for a, b in zip((whole(y), *whole.gradient(y)), (tiled(y), *tiled.gradient(y)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        free = y.clone().requires_grad_(True)
        x_hat = model.g_s(free * gain)[..., :90, :130].clamp(0, 1)
        error = ((x_hat.mean(1, keepdim=True) if grey else x_hat) - x).square().sum()
        torch.testing.assert_close(whole(y)[0], error.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(whole.gradient(y)[1], torch.autograd.grad(error, free)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reconstruction", ["integer", "centroid"])
def test_rounding_towards_the_mean_is_the_best_of_the_neighbours(model, reconstruction):
    """For each symbol by itself: no neighbour within one step has a lower cost."""
    rng = np.random.default_rng(1)
    bits, _ = rate.tables_of(model.frozen)
    y = torch.from_numpy(rng.laplace(0, 3, (1, 4, 5, 9)).astype(np.float32))
    row = torch.from_numpy(rng.integers(0, len(model.frozen.plan.y_rows), y.shape)).short()
    offset = torch.from_numpy(rng.integers(-2, 3, y.shape)).short()
    weight = torch.full((1, 1, 1, 9), 2.0)
    start = torch.round(y).int()

    def restored(s, o, r):
        return s.float() if reconstruction == "integer" else model.frozen.centroids(s, o, r)

    def cost(s):
        return bits(row, s - offset) + weight * (restored(s, offset, row) - y).square()

    found = search.round_towards_mean(y, start, offset, row, bits, weight, restored).int()
    assert (found != start).any() and ((found - start).abs() <= 1).all()
    towards = -torch.sign(start - offset)
    # Centroids lie nearer to the mean than integers: a step away from it may be better still, and is not tried.
    tried = [0, towards, -towards] if reconstruction == "integer" else [0, towards]
    least = torch.stack([cost(start + d) for d in tried]).min(0).values
    # A fraction of half a step may lie on either side of a table's middle: hardly any symbol finds less elsewhere.
    assert ((cost(found) - least) > 1e-3).float().mean() < 0.02


@pytest.mark.parametrize("grey", [False, True])
def test_errors_behind_a_filter(shipped, grey):
    """Of the pictures that it was fitted to: what a decoder will show. Of others: as if it added the same."""
    x = tiny.batch(1, 2, height=90, width=130)
    x = x.mean(1, keepdim=True).expand_as(x) if grey else x
    gain = shipped.inverse_gain(torch.tensor([4.0, 6.0]))
    error = distortion.SquaredError(shipped.g_s, gain, lambda i, j: x[..., i, j], (90, 130), grey, 16 * 256)
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    levels = picture_filter.levels_of(blurred[:, :1] if grey else blurred)
    before = error.of_levels(levels)
    filtering.judge_behind_filters(error, levels, torch.tensor([4.0, 6.0]), 1)
    behind = error.of_levels(levels)
    for k, quality_code in enumerate((96, 160)):
        original = (x[k, 0] if grey else x[k].permute(1, 2, 0)).mul(65535).round().numpy().astype(np.uint16)
        own = levels[k].contiguous().numpy()
        chunk = _native.fit_filter(np.ascontiguousarray(original), own, quality_code, 1)
        found = np.frombuffer(_native.apply_filter(own, chunk, 1), np.int16).reshape(own.shape) / picture_filter.WHITE
        shown = float((torch.from_numpy(found).expand(3, -1, -1) - x[k]).square().sum())
        assert float(behind[k]) == pytest.approx(shown, rel=1e-3) and shown < 0.9 * float(before[k])
    # Also where g_s has made them: the gradient is that of the same error.
    y = torch.randn(2, shipped.config.latent_channels, 6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(error.gradient(y)[0], error(y), rtol=1e-3, atol=1e-3)
    error.add_to_pictures(None)
    assert torch.equal(error.of_levels(levels), before)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("centroids", [False, True])
def test_symbols_move_where_that_gains(model, centroids, weighted):
    """The operator does what a few lines of torch do: the better step of two, where it lowers the sum."""
    bits, _ = rate.tables_of(model.frozen)
    rng = torch.Generator().manual_seed(0)
    shape = 2, 6, 5, 8
    offset = torch.randint(-2, 3, shape, generator=rng, dtype=torch.int16)
    row = torch.randint(0, len(model.frozen.plan.y_rows), shape, generator=rng).short()
    y = offset + torch.randint(-1, 2, shape, generator=rng, dtype=torch.int32)
    y[0, 0, 0] = torch.tensor([-32767, 32767, -900, 900, 0, 1, 2, 3], dtype=torch.int32)  # escapes, ends
    slope, contexts = (torch.randn(shape, generator=rng) * 4 for _ in range(2))
    slope[0, 0, 0, :2] = torch.tensor([1e5, -1e5])
    curvature = torch.rand(shape if weighted else (2, 1, 1, 8), generator=rng) * 3
    drawn = torch.rand(shape[1:], generator=rng) < 0.7
    shifts = model.frozen.centroid_shifts() if centroids else None
    none, far = torch.full((len(model.frozen.plan.y_rows),), -1.0), 2.0  # nothing is left out beforehand

    def restored(s):
        return model.frozen.centroids(s, offset, row) if centroids else s.float()

    def gained(step):
        moved = restored(y + step) - restored(y)
        saved = bits(row, y + step - offset) - bits(row, y - offset) + step * contexts
        return saved + moved * (slope + curvature * moved)

    down, up = gained(-1), gained(1)
    best = torch.where(torch.minimum(down, up) < 0, torch.where(up < down, 1, -1), 0) * drawn
    wanted = (y + best).clamp(-32767, 32767).float()
    assert (wanted != y).any() and (wanted == y).any()
    others = y, offset, row, slope, curvature, contexts, drawn, *bits.tables
    for threads in (1, 2):
        assert torch.equal(_backend.load().ops.move_symbols(*others, none, shifts, far, threads), wanted)
    # Symbols at their offsets stay where not even the longest step could pay for the least bits.
    stays = _backend.load().ops.move_symbols(*others, none + 1e9, shifts, far, 1)
    assert torch.equal(stays, torch.where(y == offset, y.float(), wanted))
    with pytest.raises(RuntimeError, match="a row is out of range"):
        _backend.load().ops.move_symbols(y, offset, row - 1000, *others[3:], none, shifts, far, 1)
