"""Fast forms of the transforms' layers, against torch in double precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ccm_fast
from ccm_fast import _backend, precision
from ccm_fast.models import PRESETS, CrossChannelContextModel, inference

OPS = _backend.load().ops


def conv(*arguments, kind=nn.Conv2d, **more):
    torch.manual_seed(0)
    return kind(*arguments, **more).eval().requires_grad_(False)


LAYERS = {
    "3x3": lambda: conv(40, 24, 3, padding=1),
    "3x3, odd outputs": lambda: conv(32, 13, 3, padding=1),
    "5x5, stride 2": lambda: conv(40, 24, 5, 2, 2),
    "3x3, stride 2": lambda: conv(40, 24, 3, 2, 1),
    "1x1": lambda: conv(40, 24, 1),
    "1x1, stride 2": lambda: conv(24, 40, 1, 2),
    "4x4, no padding": lambda: conv(5, 7, 4, 3, 0, bias=False),
    "pictures": lambda: conv(3, 40, 5, 2, 2),
    "transposed": lambda: conv(40, 24, 5, 2, 2, 1, kind=nn.ConvTranspose2d),
    "transposed, to pictures": lambda: conv(40, 3, 5, 2, 2, 1, kind=nn.ConvTranspose2d),
    "sub-pixel": lambda: nn.Sequential(conv(40, 96, 3, padding=1), nn.PixelShuffle(2)),
}


@pytest.fixture(autouse=True, params=["float32", "int16"] if OPS.has_int16_transforms() else ["float32"])
def kind(request, monkeypatch):
    """Every test with floats and with integers where the processor has them, those of few outputs included."""
    monkeypatch.setattr(precision, "_precision", request.param)
    monkeypatch.setattr(inference, "_INT16_OUTPUTS_MIN", 1)
    return request.param


def close(found, expected):
    """Winograd's rounding errors are some five times those of a plain sum; of integers, on noise, 1 % may come."""
    assert found.shape == expected.shape
    error = (found.double() - expected).square().mean().sqrt()
    limit = 1e-5 if precision.transform_precision() == "float32" else 1e-2
    assert error < limit * expected.square().mean().sqrt(), float(error)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(5, 4), (6, 12), (13, 31)])
def test_layers(name, size):
    layer = LAYERS[name]()
    then = nn.LeakyReLU(0.3)
    first = layer[0] if isinstance(layer, nn.Sequential) else layer
    x = torch.randn(2, first.in_channels, *size)
    for sequence in (nn.Sequential(layer), nn.Sequential(layer, then)):
        fast = inference.fast_transform(sequence, lambda m: None)
        assert not any(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) for m in fast.modules())
        expected = sequence.double()(x.double())
        sequence.float()
        close(fast(x), expected)


def test_kernels_without_products():
    """Points where no kernel has a product are left out, also of the layers that are packed panel by panel."""
    full = OPS.pack_winograd(torch.randn(24, 32, 3, 3), 1, 1, False)
    for taps in ((slice(None), slice(None), 2), (slice(None), slice(None), 0), (slice(None),)):
        layer = conv(32, 24, 3, padding=1)
        layer.weight[taps] = 0
        x = torch.randn(1, 32, 9, 14)
        assert OPS.pack_winograd(layer.weight, 1, 1, False).numel() < full.numel()
        fast = inference.fast_transform(nn.Sequential(layer), lambda m: None)
        expected = layer.double()(x.double())
        layer.float()
        close(fast(x), expected)


class GDN(nn.Module):
    """As CompressAI's, whose parameters are kept in another form."""

    def __init__(self, channels, inverse):
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.rand(channels) + 0.5)
        self.gamma = nn.Parameter(torch.rand(channels, channels) / channels)

    def beta_reparam(self, v):
        return v + 0.125

    gamma_reparam = beta_reparam

    def forward(self, x):
        C = len(self.beta)
        norm = F.conv2d(x**2, self.gamma_reparam(self.gamma).reshape(C, C, 1, 1), self.beta_reparam(self.beta))
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", ["3x3", "5x5, stride 2", "transposed", "1x1"])
def test_gdn(name, inverse):
    layer = LAYERS[name]()
    sequence = nn.Sequential(layer, GDN(24, inverse)).requires_grad_(False)
    x = torch.randn(1, 40, 13, 10)
    fast = inference.fast_transform(sequence, lambda m: None)
    assert isinstance(fast[1], nn.Identity)
    close(fast(x), sequence.double()(x.double()))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_residuals(threads):
    first, second = conv(40, 24, 3, padding=1), conv(24, 40, 1)
    x = torch.randn(3, 40, 33, 50)
    slow = inference.Residual(inference.fast_conv(first), inference.fast_conv(second, inference.Then(1, 0.1)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = slow(x)
    finally:
        torch.set_num_threads(before)
    first.double(), second.double()
    close(found, F.leaky_relu(second(first(x.double())), 0.1) + x)


def test_planes_used_again():
    """Results stay as they are while planes go round, and inputs too; a residual is added in the place of a plane of
    ours alone."""

    def block(m):
        return inference.Residual(*map(inference.fast_conv, m)) if isinstance(m, nn.ModuleList) else None

    pairs = [nn.ModuleList([conv(32, 32, 3, padding=1), conv(32, 32, 3, padding=1)]) for _ in range(3)]
    last = conv(32, 40, 3, 2, 1)
    fast = inference.fast_transform(nn.Sequential(*pairs, nn.Identity(), last), block)
    assert isinstance(fast, inference.Chain)

    def slow(x):
        for first, second in pairs:
            x = x + F.conv2d(F.conv2d(x, first.weight, first.bias, padding=1), second.weight, second.bias, padding=1)
        return F.conv2d(x, last.weight, last.bias, 2, 1)

    torch.manual_seed(0)
    inputs = [torch.randn(1, 32, 20, 28).contiguous(memory_format=torch.channels_last) for _ in range(3)]
    copies = [x.clone() for x in inputs]
    with torch.inference_mode():
        found = [fast(inputs[0])]
    found += [fast(x) for x in inputs[1:]]
    for x, copied, y in zip(inputs, copies, found, strict=True):
        assert torch.equal(x, copied)
        close(y, slow(x))


def test_planes():
    planes = inference.Planes(4 * 300)
    a, b = planes.take(1, 2, 5, 10), planes.take(1, 4, 5, 10)
    planes.give(a.permute(0, 3, 1, 2))
    planes.give(torch.zeros(1, 2, 5, 10))  # not channels-last: none of ours
    assert planes.take(1, 5, 2, 10).data_ptr() == a.data_ptr()
    assert planes.take(1, 2, 5, 10).data_ptr() != a.data_ptr()
    planes.give(a.permute(0, 3, 1, 2))
    planes.give(b.permute(0, 3, 1, 2))  # 300 values: both fit
    assert planes.take(1, 4, 5, 10).data_ptr() == b.data_ptr()
    planes.limit = 4 * 250
    planes.give(b.permute(0, 3, 1, 2))  # the older goes
    assert [p.data_ptr() for p in planes._free] == [b.data_ptr()]


def panels(*size):
    return OPS.pack_panels(torch.randn(*size), False, False)


def test_wrong_planes():
    x, bias, packed = torch.randn(1, 6, 6, 8), torch.zeros(8), OPS.pack_winograd(torch.randn(8, 8, 3, 3), 1, 1, False)
    more = (0, 0.0, None, None)
    for y, residual, add, match in (
        (x, None, False, "must not be x"),
        (torch.zeros(1, 6, 5, 8), None, False, "y has size"),
        (torch.zeros(1, 6, 6, 8), torch.zeros(1, 6, 6, 8), True, "or a residual"),
        (torch.zeros(6), None, False, "number of dimensions"),
    ):
        with pytest.raises(RuntimeError, match=match):
            OPS.winograd(x, packed, 1, 1, bias, *more, residual, y, add, False, 1)
        with pytest.raises(RuntimeError, match=match):
            OPS.direct(x, panels(8, 8), 1, 1, 0, bias, *more, residual, y, add, False, 1)


def test_own_transforms():
    torch.manual_seed(0)
    model = CrossChannelContextModel(PRESETS["ccm-small"]).eval().requires_grad_(False)
    x, y = torch.rand(1, 3, 64, 112), torch.randn(1, model.config.latent_channels, 4, 7)
    for module, inputs in ((model.g_a, x), (model.g_s, y)):
        fast = inference.inference(module)
        assert fast is inference.inference(module) and not any(isinstance(m, nn.Conv2d) for m in fast.modules())
        close(fast(inputs), module.double()(inputs.double()))
        module.float()
        # It follows the parameters.
        next(module.parameters()).mul_(0.5)
        assert fast is not inference.inference(module)
        close(inference.inference(module)(inputs), module.double()(inputs.double()))


def test_what_is_not_known_stays():
    odd = nn.Sequential(conv(4, 4, 3, padding=1, groups=2), nn.Tanh(), conv(4, 4, 3, dilation=2))
    x = torch.randn(1, 4, 9, 9)
    assert torch.equal(inference.fast_transform(odd, lambda m: None)(x), odd(x))
    double = conv(4, 4, 3).double()
    assert inference.fast_transform(double, lambda m: None) is double


def test_wrong_arguments():
    x, bias = torch.randn(1, 6, 6, 8), torch.zeros(4)
    packed = OPS.pack_winograd(torch.randn(4, 8, 3, 3), 1, 1, False)
    y = torch.zeros(1, 6, 6, 4)
    more = (0, 0.0, None, None, None, y, False, False, 1)
    OPS.winograd(x, packed, 1, 1, bias, *more)
    with pytest.raises(RuntimeError, match="no kernel of this shape"):
        OPS.winograd(x, packed[:-1], 1, 1, bias, *more)
    with pytest.raises(RuntimeError, match="no kernel of this shape"):
        wide = torch.zeros(1, 6, 6, 20)
        OPS.winograd(x, packed, 1, 1, torch.zeros(20), 0, 0.0, None, None, None, wide, False, False, 1)
    with pytest.raises(RuntimeError, match="multiple of 8"):
        OPS.winograd(torch.randn(1, 6, 6, 9), packed, 1, 1, bias, *more)
    with pytest.raises(RuntimeError, match="even sides"):
        OPS.winograd(torch.randn(1, 5, 6, 8), packed, 4, 1, bias, *more)
    with pytest.raises(RuntimeError, match="bias has size"):
        OPS.winograd(x, packed, 1, 1, bias[:3], *more)
    with pytest.raises(RuntimeError, match="belong to GDN"):
        OPS.winograd(x, packed, 1, 1, bias, 2, *more[1:])
    with pytest.raises(RuntimeError, match="residual has size"):
        OPS.winograd(x, packed, 1, 1, bias, 0, 0.0, None, None, torch.zeros(1, 6, 5, 4), y, False, False, 1)
    with pytest.raises(RuntimeError, match="phases must be 1 or 4"):
        OPS.pack_winograd(torch.randn(4, 8, 3, 3), 0, 1, False)
    with pytest.raises(RuntimeError, match="smaller than the kernel"):
        OPS.direct(x, panels(8 * 81, 4), 9, 1, 0, bias, *more)
    with pytest.raises(RuntimeError, match="weights has size"):
        OPS.direct(x, panels(8, 4), 3, 1, 1, bias, *more)
    with pytest.raises(RuntimeError, match=r"no kernel of this shape|no int16 transforms"):
        OPS.winograd(x, packed, 1, 1, bias, *more[:-2], True, 1)
    with pytest.raises(RuntimeError, match=r"weights has size|no int16 transforms"):
        OPS.direct(x, panels(8, 4), 1, 1, 0, bias, *more[:-2], True, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_planes_larger_than_the_caches(kernel, residual):
    """Above 48 MB rows are stored past the caches: every one of them arrives, with a residual and without."""
    layer = conv(32, 32, kernel, padding=kernel // 2)
    fast = inference.fast_conv(layer)
    x = torch.randn(1, 32, 648, 641).contiguous(memory_format=torch.channels_last)
    y = fast.added(x, x if residual else None)
    assert y.numel() > 12 << 20
    limit = 1e-4 if precision.transform_precision() == "float32" else 0.05
    assert (y - layer(x) - (x if residual else 0)).abs().max() < limit


def test_precision_is_chosen(monkeypatch):
    model = CrossChannelContextModel(PRESETS["ccm-small"]).eval().requires_grad_(False)
    first = inference.inference(model.g_s)
    assert inference.inference(model.g_s) is first
    other = {"int16": "float32", "float32": "int16"}[precision.transform_precision()]
    ccm_fast.set_transform_precision(other)  # the fixture's monkeypatch undoes it
    if precision.transform_precision() == other:  # else: no AVX2
        assert inference.inference(model.g_s) is not first
    with pytest.raises(ValueError, match="int16, float32, not 'bf16'"):
        ccm_fast.set_transform_precision("bf16")
    monkeypatch.setattr(precision, "_precision", "int8")  # as the environment variable would
    with pytest.raises(ValueError, match="CCM_FAST_TRANSFORMS"):
        precision.transform_precision()
