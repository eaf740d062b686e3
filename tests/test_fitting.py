"""Tables and centroids that are fitted to what is coded."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import ccm_fast
from ccm_fast import codec, weights
from ccm_fast.entropy.centroids import REACH, ShiftFit, gaussian_shifts
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.network import TableCost
from ccm_fast.entropy.plan import Plan
from ccm_fast.entropy.tables import COMPONENTS, fit_shapes, gaussian_rows, row_means, shaped_rows, typical_rows
from ccm_fast.errors import ModelError
from ccm_fast.freezing import fitting
from ccm_fast.freezing.cost import integer_cost

PLAN = tiny.model().frozen.plan
MEANS, SIGMAS = row_means(PLAN)


def draw(rows, heavy, seed=0):
    """Latents of some rows, less their offsets: Gaussian, or with scales that vary."""
    rng = np.random.default_rng(seed)
    scale = SIGMAS[rows] * (np.exp(rng.normal(0, 0.5, len(rows))) if heavy else 1)
    return MEANS[rows] + scale * rng.normal(size=len(rows))


def counted(rows, y):
    counts = np.zeros((len(MEANS), 129))
    np.add.at(counts, (rows, np.clip(np.rint(y), -64, 64).astype(int) + 64), 1)
    return counts


@pytest.fixture(scope="module")
def rows():
    """Rows of scales from 0.11 to 16, as often each."""
    usable = np.flatnonzero(SIGMAS < 16)
    return np.random.default_rng(1).choice(usable, 400_000)


def bits(tables, rows, y):
    return float(TableCost(tables)(torch.from_numpy(rows), torch.from_numpy(np.rint(y).astype(np.int32))).sum())


def test_row_means_are_those_of_gaussian_rows(rows):
    """Where intervals are narrow beside the scale, frequencies have the mean and the variance that rows stand for."""
    tables = gaussian_rows()
    for r in np.flatnonzero((SIGMAS > 0.7) & (SIGMAS < 16)):
        f = np.diff(tables.row(r))[:-1] / (1 << 16)
        symbols = tables.lo[r] + np.arange(len(f))
        mean = (f * symbols).sum()
        assert abs(mean - MEANS[r]) < 0.01 + 0.002 * SIGMAS[r]
        assert abs((f * (symbols - mean) ** 2).sum() / (SIGMAS[r] ** 2 + 1 / 12) - 1) < 0.02


@pytest.mark.slow
def test_shapes_save_bits_where_there_are_other_shapes(rows):
    for heavy, least, most in ((True, 0.005, 0.05), (False, -0.0005, 0.0005)):
        shapes = fit_shapes(counted(rows, draw(rows, heavy)))
        assert shapes.shape == (64, len(COMPONENTS))
        assert np.allclose(shapes.sum(1), 1) and (shapes >= 0).all()
        fresh = draw(rows, heavy, seed=7)  # not those of the fit
        saved = 1 - bits(shaped_rows(shapes.tolist()), rows, fresh) / bits(gaussian_rows(), rows, fresh)
        assert least < saved < most


def test_shapes_of_nothing_and_of_one_component():
    even = fit_shapes(np.zeros((len(MEANS), 129)))
    assert np.allclose(even, 1 / len(COMPONENTS))
    one = [[float(c == 1.0) for c in COMPONENTS]] * 64
    assert np.array_equal(shaped_rows(one).cdf, gaussian_rows().cdf)


def test_shifts_are_means_of_what_was_coded(rows):
    """Symbols moved towards zero, as an encoder moves them: what they stand for lies further out."""
    y = torch.from_numpy(draw(rows, False)).float()
    y_hat = (y.abs() + 0.3).floor() * y.sign()
    fit = ShiftFit(PLAN)
    row, offset = torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int16)
    for part in np.array_split(np.arange(len(rows)), 3):
        fit.add(y[part], y_hat[part].short(), offset[part], row[part])
    shifts = fit.result()
    assert shifts.shape == (len(MEANS), 2 * REACH + 1) and shifts.dtype == torch.float16
    restored = FrozenEntropyModel(PLAN, shifts).centroids(y_hat.short(), offset, row)
    plain = FrozenEntropyModel(PLAN).centroids(y_hat.short(), offset, row)
    assert (restored - y).square().mean() < 0.92 * (plain - y).square().mean()
    # What never came up has the Gaussian's centroid.
    assert torch.equal(ShiftFit(PLAN).result(), gaussian_shifts(PLAN).half())
    wide = torch.tensor([SIGMAS.argmax()])
    far = FrozenEntropyModel(PLAN, shifts).centroids(torch.tensor([200]).short(), torch.zeros(1).short(), wide)
    assert abs(float(far) - 200) < 1


@pytest.fixture(scope="module")
def fitted():
    """A tiny model, frozen with as much data as its limits are lowered to."""
    model = copy.deepcopy(tiny.model())
    model.config = replace(model.config, reconstruction="centroid")
    images = [tiny.photo(96, 96, k) for k in range(8)]
    before, fitting._ENOUGH = fitting._ENOUGH, 1
    try:
        ccm_fast.freeze(model, images, steps=0, crop=96)
    finally:
        fitting._ENOUGH = before
    plain = copy.deepcopy(model)
    ccm_fast.freeze(plain, images, steps=0, crop=96)  # too little
    return model, plain


@pytest.mark.slow
def test_freezing_fits(fitted):
    model, plain = fitted
    assert plain.frozen.shifts is None and np.array_equal(plain.frozen.plan.y_rows.cdf, typical_rows().cdf)
    assert not np.array_equal(model.frozen.plan.y_rows.cdf, typical_rows().cdf)
    assert (model.frozen.plan.y_rows.n == gaussian_rows().n).all()
    written = Plan.from_bytes(model.frozen.to_bytes())
    assert np.array_equal(written.y_rows.cdf, model.frozen.plan.y_rows.cdf)
    length, error = {}, {}
    for name, frozen in (("fitted", model.frozen), ("plain", plain.frozen)):
        length[name] = error[name] = 0.0
        for k in range(20, 28):
            x = torch.from_numpy(tiny.photo(96, 112, k)).permute(2, 0, 1)[None] / 255
            y = model.analysis(x, torch.tensor([5.0])).permute(0, 2, 3, 1)
            y_hat = y.round().short().contiguous()
            psi = torch.zeros(1, 6, 7, frozen.plan.psi_channels, dtype=torch.uint8)
            offset, row = frozen.parameters(psi, y_hat)
            length[name] += float(TableCost(frozen.plan.y_rows)(row, y_hat.int() - offset).sum())
            error[name] += float((frozen.centroids(y_hat, offset, row) - y).square().sum())
    assert length["fitted"] < length["plain"] and error["fitted"] < error["plain"]


@pytest.mark.slow
def test_the_cost_of_integers_is_told_apart(fitted):
    """With rows of the usual shape in the fitted ones' place the code length grows by what shapes had saved."""
    model, _ = fitted
    images = [tiny.photo(64, 64, k) for k in range(30, 34)]
    (cost,) = integer_cost(model, model.frozen, images, (5.0,))
    plain = replace(model.frozen.plan, y_rows=typical_rows())
    (usual,) = integer_cost(model, plain, images, (5.0,))
    assert cost.integer_growth == pytest.approx(usual.growth, abs=1e-9)
    assert usual.causes["shapes"] == 0 and usual.integer_growth == usual.growth
    assert cost.growth == pytest.approx(cost.integer_growth + cost.causes["shapes"] / sum(cost.float_bits.values()))


def test_weights_files_hold_shifts(fitted, tmp_path):
    model, plain = fitted
    x = torch.from_numpy(tiny.photo(50, 70)).permute(2, 0, 1)[None] / 255
    weights.save(model, tmp_path / "a.safetensors")
    again = ccm_fast.load(tmp_path / "a.safetensors")
    assert (again.frozen.plan.y_rows.cdf == model.frozen.plan.y_rows.cdf).all()  # fitted ones, not the usual
    assert torch.equal(again.frozen.shifts, model.frozen.shifts)
    assert torch.equal(again.sensitivities, model.sensitivities) and bool((again.sensitivities > 0).all())
    assert again.frozen.fingerprint == model.frozen.fingerprint
    out = codec.compress(again, x, 6.0)
    x_hat = codec.decompress(again, **out)["x_hat"]
    assert torch.equal(codec.decompress(again, **out, engine="reference")["x_hat"], x_hat)
    assert torch.equal(pickle.loads(pickle.dumps(again.frozen)).shifts, model.frozen.shifts)
    again.frozen = FrozenEntropyModel(again.frozen.plan)
    assert not torch.equal(codec.decompress(again, **out)["x_hat"], x_hat)  # the pictures' centroids, no more
    weights.save(plain, tmp_path / "b.safetensors")
    without = ccm_fast.load(tmp_path / "b.safetensors")
    assert without.frozen.shifts is None and without.sensitivities is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("shifts", lambda s: s.float()),
        ("shifts", lambda s: s[:-1]),
        ("shifts", lambda s: s + 2),
        ("shifts", lambda s: s * float("nan")),
        ("sensitivities", lambda s: s.half()),
        ("sensitivities", lambda s: s[:, 1:]),
        ("sensitivities", lambda s: -s),
        ("sensitivities", lambda s: s / 0),
    ],
)
def test_wrong_tensors(fitted, tmp_path, name, wrong):
    path = tmp_path / "a.safetensors"
    weights.save(fitted[0], path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors[name] = wrong(tensors[name]).contiguous()
    save_file(tensors, path, metadata)
    with pytest.raises(ModelError, match=rf"{name} must be torch\.float"):
        ccm_fast.load(path)
