"""Encoding for MS-SSIM: weights of errors by what hides them."""

import numpy as np
import pytest
import tiny
import torch

from ccm_fast import compress, decompress, load
from ccm_fast.effort.levels import tune_for
from ccm_fast.effort.structure import even_weights, structure_weights


def reader(x):
    """What encoders are given to read pixels by."""

    def read(rows, columns):
        over = (0, max(0, columns.stop - x.shape[3]), 0, max(0, rows.stop - x.shape[2]))
        return torch.nn.functional.pad(x[..., rows, columns], over, mode="replicate")

    return read


def photo(height, width, seed=0):
    return torch.from_numpy(tiny.photo(height, width, seed)).permute(2, 0, 1)[None].float() / 255


def weights(x):
    h, w = (-(-s // 16) for s in x.shape[2:])
    return structure_weights(reader(x), h, w, "cpu")


@pytest.mark.parametrize("quality", [2, 5])
def test_the_weighted_error_is_that_of_ms_ssim(quality):
    ms_ssim = pytest.importorskip("pytorch_msssim").ms_ssim
    model, x = load("ccm-small"), photo(256, 320)
    y = decompress(model, **compress(model, x, quality))["x_hat"]
    error = (y - x).square().mean(1, keepdim=True)
    found = float((error * weights(x).repeat_interleave(16, 2).repeat_interleave(16, 3)).mean())
    assert 0.65 < found / (1 - float(ms_ssim(x, y, data_range=1.0))) < 1.3


@pytest.mark.parametrize("size", [(1, 1), (16, 40), (17, 15), (100, 33), (300, 64)])
def test_sizes(size):
    found = weights(photo(*size))
    assert found.shape == (1, 1, -(-size[0] // 16), -(-size[1] // 16))
    assert bool(torch.isfinite(found).all()) and float(found.min()) > 0
    even = even_weights(found)
    assert float(even.max()) <= 8 and float(even.log().mean()) == pytest.approx(0, abs=0.3)


def test_flat_places_count_more():
    x = torch.full((1, 3, 128, 128), 0.5)
    x[..., 64:] += 0.3 * torch.randn(128, 64)
    found = weights(x)[0, 0]
    assert float(found[2:6, :2].min()) > 3 * float(found[2:6, -2:].max())


def test_files_are_smaller_where_texture_hides_it():
    """At the default effort, of the model that ships."""
    model = load("ccm-small")
    rng = np.random.default_rng(0)
    x = photo(128, 192, 2)
    x[..., 96:] = (x[..., 96:] + torch.from_numpy(rng.normal(0, 0.15, (128, 96)).astype(np.float32))).clamp(0, 1)
    plain, tuned = (compress(model, x, 2, tune=tune) for tune in ("psnr", "ms-ssim"))
    assert compress(model, x, 2) == plain and compress(model, x, 2, effort=1, tune="ms-ssim") == compress(
        model, x, 2, effort=1
    )
    errors = []
    for out in (plain, tuned):
        error = (decompress(model, **out)["x_hat"] - x).square()
        errors.append((float(error[..., :80].mean()), float(error[..., 112:].mean())))
    smooth, busy = (b / a for a, b in zip(*errors, strict=True))
    assert busy > 1.02 and smooth < 0.98


@pytest.mark.parametrize("effort", [2, 3, 4, 5])
def test_models_for_ms_ssim_take_all_efforts(effort, monkeypatch):
    model = tiny.make()
    model.metric = "ms-ssim"
    x = photo(48, 64)
    out = compress(model, x, 4, effort=effort)
    assert decompress(model, **out)["x_hat"].shape == x.shape
    assert out != compress(model, x, 4, effort=1)


def test_what_a_model_may_be_tuned_for():
    model = tiny.make()
    assert [tune_for(model, t) for t in (None, "psnr", "ms-ssim")] == ["psnr", "psnr", "ms-ssim"]
    model.metric = "ms-ssim"
    assert [tune_for(model, t) for t in (None, "ms-ssim")] == ["ms-ssim", "ms-ssim"]
    with pytest.raises(ValueError, match="trained for ms-ssim"):
        tune_for(model, "psnr")
