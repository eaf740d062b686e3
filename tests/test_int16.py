"""Transforms whose products are of 16-bit integers: what is theirs alone; test_transforms.py has what they share."""

import pytest
import torch
from test_transforms import GDN, OPS, conv
from torch import nn

import ccm_fast
from ccm_fast import precision
from ccm_fast.models import inference

# Processors without AVX2 have nothing that these could test.
pytestmark = pytest.mark.skipif(not OPS.has_int16_transforms(), reason="int16 transforms need AVX2")


@pytest.fixture(autouse=True)
def int16(monkeypatch):
    monkeypatch.setattr(precision, "_precision", "int16")


def near(found, expected):
    """On noise and constants, Winograd's way leaves 1 % at most; a sum that leaves 32 bits is wrong altogether."""
    error = (found.double() - expected).square().mean().sqrt()
    assert error < 1e-2 * expected.square().mean().sqrt(), float(error)


@pytest.mark.parametrize("channels", [40, 192, 320, 1016])
def test_int16_sums_at_their_limit(channels):
    """Rows in proportion to a column of weights reach the bound of Cauchy and Schwarz: no sum leaves 32 bits."""
    torch.manual_seed(0)
    for sign in (1, -1):
        for kernel in (1, 3):
            layer = nn.Conv2d(channels, 48, kernel, padding=kernel // 2, bias=False).eval().requires_grad_(False)
            layer.weight[:] = layer.weight.mean((2, 3), keepdim=True)
            layer.bias = nn.Parameter(torch.zeros(48), requires_grad=False)
            x = sign * layer.weight[7, :, 0, 0].reshape(1, -1, 1, 1).expand(1, channels, 14, 15)
            near(inference.fast_conv(layer)(x), layer.double()(x.double()))
    # GDN sums squares over all channels.
    layer, gdn = conv(channels, channels, 1), GDN(channels, False)
    gdn.gamma = nn.Parameter(torch.ones(channels, channels) / channels)
    sequence = nn.Sequential(layer, gdn).requires_grad_(False)
    layer.weight[:] = torch.eye(channels)[:, :, None, None]
    layer.bias[:] = 0
    x = torch.ones(1, channels, 5, 5)
    near(inference.fast_transform(sequence, lambda m: None)(x), sequence.double()(x.double()))


def test_int16_rows_of_any_size():
    """Every row has its own scale: large values at one place leave small ones elsewhere alone; zeros stay zeros."""
    layer = conv(64, 48, 3, padding=1)
    layer.bias[:] = 0
    x = torch.randn(1, 64, 24, 24)
    x[..., :12, :] *= 1e6
    x[..., 18:, :] = 0
    y, expected = inference.fast_conv(layer)(x), layer.double()(x.double())
    near(y[..., 13:17, :], expected[..., 13:17, :])
    assert (y[..., 19:, :] == 0).all()
    x[0, 0, 0, 0] = float("nan")
    y = inference.fast_conv(layer.float())(x)
    assert y[0, :, 0, 0].isnan().all() and not y[..., 12:].isnan().any()


def test_photographs_lose_little():
    """A picture through the shipped model's transforms, against floats: parts of a thousand, parts of a level."""
    import tiny

    model = ccm_fast.load("ccm-small")
    x = torch.from_numpy(tiny.photo(192, 256)).permute(2, 0, 1)[None] / 255
    found = []
    for kind in ("int16", "float32"):
        ccm_fast.set_transform_precision(kind)  # the fixture's monkeypatch undoes it
        y = inference.inference(model.g_a)(x)
        found.append((y, inference.inference(model.g_s)(found[0][0] if found else y)))
    y, image = ((a - b).square().mean().sqrt() for a, b in zip(*found, strict=True))
    assert 0 < y < 0.003 * found[1][0].square().mean().sqrt()
    assert 0 < 255 * image < 0.15
