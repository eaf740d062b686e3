"""What training minimizes: measures with gradients."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from ccm_fast.evaluate import metrics
from ccm_fast.train.loss import rate_distortion_loss
from ccm_fast.train.ssimulacra2 import ssimulacra2


def _tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def test_a_colour_without_ms_ssim_has_finite_gradients():
    """Contrasts that run against the original's have an MS-SSIM of 0, whose roots have no derivative."""
    pytest.importorskip("pytorch_msssim")
    x = torch.rand(1, 3, 176, 176, generator=torch.Generator().manual_seed(0))
    x_hat = (1 - x).requires_grad_()
    out = {"likelihoods": {"y": torch.ones(1, 1), "z": torch.ones(1, 1)}, "x_hat": x_hat}
    terms = rate_distortion_loss(x, out, torch.tensor([1.0]), "ms-ssim")
    assert terms["distortion"].item() == 1
    terms["loss"].backward()
    assert x_hat.grad.isfinite().all()


def _framed(crop, margin=256):
    """Grey around a picture: what implementations do at borders, which is not the same, then makes no difference."""
    return np.pad(crop, ((margin, margin), (margin, margin), (0, 0)), constant_values=128)


@pytest.mark.slow
def test_ssimulacra2():
    """As the package has it, with gradients that lead to better scores."""
    pytest.importorskip("ssimulacra2")
    crop = astronaut()[:160, 160:320]
    for quality in (10, 40, 90):
        file = io.BytesIO()
        Image.fromarray(crop).save(file, "JPEG", quality=quality)
        a, b = _framed(crop), _framed(np.array(Image.open(file)))
        expected = metrics.ssimulacra2(a, b)
        assert ssimulacra2(_tensor(b), _tensor(a)).item() == pytest.approx(expected, abs=0.1)
    x, x_hat = _tensor(a), _tensor(b).requires_grad_()
    before = ssimulacra2(x_hat, x)
    before.backward()
    assert x_hat.grad.isfinite().all()
    better = ssimulacra2(x_hat.detach() + x_hat.grad / x_hat.grad.norm() * 0.1, x)
    assert better.item() > before.item() + 0.1
    assert ssimulacra2(x, x).item() > 99
