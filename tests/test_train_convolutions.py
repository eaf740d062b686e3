"""Training's convolutions and their gradients, against torch in double precision, and that training takes them."""

import copy
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ccm_fast import _backend
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.models.transforms import ResidualBlock
from ccm_fast.train import loop
from ccm_fast.train.convolutions import conv3x3, fast_convolutions, residual_block
from ccm_fast.train.loop import TrainConfig, _Run
from ccm_fast.train.parallel import Processes
from ccm_fast.train.stages import STAGES, select

OPS = _backend.load().ops
CONFIG = CCMConfig(
    name="small",
    widths=(16, 24, 32),
    blocks=(1, 1, 0),
    groups=(16, 16),
    hyper_channels=8,
    psi_channels=16,
    cross_kernels=(3,),
    cross_width=8,
    parameter_widths=(16,),
)


class Calls(TorchDispatchMode):
    """Counts the operators of this package that run inside."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ccm_fast":
            self.names[func._opname] += 1
        return func(*args, **(kwargs or {}))


def close(found, expected, limit=1e-5):
    """Rounding errors of F(6x6, 3x3), whose matrices reach 32, are some ten times those of a plain sum: 3e-6 here."""
    assert found.shape == expected.shape
    error = float((found.double() - expected).norm())
    assert error <= limit * float(expected.norm()), error / float(expected.norm())


def leaf(*shape, scale=1.0):
    t = torch.randn(*shape) * scale
    if t.dim() == 4:
        t = t.contiguous(memory_format=torch.channels_last)
    return t.requires_grad_()


SHAPES = [  # batch, inputs, outputs, height, width, stride
    (1, 8, 8, 1, 1, 1),
    (2, 24, 16, 7, 13, 1),
    (3, 16, 40, 1, 6, 1),
    (3, 48, 64, 32, 30, 1),  # 90 tiles
    (5, 8, 24, 29, 31, 1),  # 150 tiles: more than the weight gradient takes at once
    (2, 16, 24, 6, 10, 2),
    (3, 40, 16, 26, 4, 2),
    (1, 8, 8, 2, 2, 2),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_and_gradients(shape):
    batch, inputs, outputs, h, w, stride = shape
    torch.manual_seed(0)
    leaves = leaf(batch, inputs, h, w), leaf(outputs, inputs, 3, 3, scale=0.1), leaf(outputs)
    y = conv3x3(*leaves, stride)
    dy = torch.randn_like(y)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = F.conv2d(*exact, stride=stride, padding=1)
    close(y.detach(), expected.detach())
    gradients = torch.autograd.grad(y, leaves, dy)
    for found, want in zip(gradients, torch.autograd.grad(expected, exact, dy.double()), strict=True):
        close(found, want)
    assert all(g.is_contiguous(memory_format=torch.channels_last) for g in gradients[:2])
    # Only what is asked for, and the layout does not matter.
    x, weight, bias = (t.detach().contiguous() for t in leaves)
    (alone,) = torch.autograd.grad(conv3x3(x, weight.requires_grad_(), bias, stride), weight, dy.contiguous())
    assert torch.equal(alone, gradients[1])


@pytest.mark.parametrize("size", [(1, 1), (6, 13), (20, 30)])
def test_residual_block(size):
    torch.manual_seed(1)
    block = ResidualBlock(16).to(memory_format=torch.channels_last)
    x = leaf(2, 16, *size)
    y = residual_block(x, block)
    dy = torch.randn_like(y)
    exact, x64 = copy.deepcopy(block).double(), x.detach().double().requires_grad_()
    expected = exact(x64)
    close(y.detach(), expected.detach())
    found = torch.autograd.grad(y, [x, *block.parameters()], dy)
    for a, b in zip(found, torch.autograd.grad(expected, [x64, *exact.parameters()], dy.double()), strict=True):
        # A unit within rounding of zero may fall on the other side of it.
        close(a, b, 1e-4)
    with torch.no_grad():
        assert torch.equal(residual_block(x, block), y)


def test_any_number_of_threads():
    torch.manual_seed(2)
    x, weight, dy = torch.randn(3, 25, 30, 16), torch.randn(24, 3, 3, 16), torch.randn(3, 25, 30, 24)
    for f in (
        lambda threads: OPS.conv3x3(x, weight, torch.zeros(24), 1, 0.1, None, threads),
        lambda threads: OPS.conv3x3_input_gradient(dy, weight, 1, None, threads),
        lambda threads: OPS.conv3x3_weight_gradient(x, dy, 1, threads),
    ):
        assert torch.equal(f(1), f(3))


def test_gradients_of_the_transforms():
    torch.manual_seed(3)
    model = CrossChannelContextModel(CONFIG)
    exact = copy.deepcopy(model).double()
    x = torch.rand(2, 3, 192, 192).contiguous(memory_format=torch.channels_last)

    def gradients(model, x):
        # Both transforms, one after the other, without the rounding between them.
        out = model.g_s(model.g_a(x).contiguous(memory_format=torch.channels_last))
        parameters = [*model.g_a.parameters(), *model.g_s.parameters()]
        return out.detach(), torch.autograd.grad(((out - x) ** 2).sum(), parameters)

    with Calls() as calls, fast_convolutions(model.g_a, model.g_s):
        out, found = gradients(model, x)
    # All but the two strided ones, which have too few tiles; and nobody wants the gradient of the image.
    assert calls.names == {"conv3x3": 14, "conv3x3_weight_gradient": 14, "conv3x3_input_gradient": 13}
    wanted_out, wanted = gradients(exact, x.double())
    close(out, wanted_out)
    for a, b in zip(found, wanted, strict=True):
        close(a, b, 1e-4)


def test_gradients_of_the_contexts():
    """Stacks without a bias in their last layer, on planes of 2x2 tiles; the mask's kernel has three rows of five."""
    torch.manual_seed(5)
    config = replace(CONFIG, cross_kernels=(5, 3, 3), cross_width=16, parameter_widths=(16, 8))
    group = CrossChannelContextModel(config).contexts[1]
    exact = copy.deepcopy(group).double()
    psi, earlier, own = (torch.randn(4, n, 12, 12) for n in (config.psi_channels, 16, 16))

    def gradients(group, *planes):
        mean, index = group(*planes)
        return mean.detach(), torch.autograd.grad((mean.sin() + index.sin()).sum(), list(group.parameters()))

    with Calls() as calls, fast_convolutions(group):
        out, found = gradients(group, psi, earlier, own)
    assert calls.names["conv3x3"] == sum(k == 3 for k in config.cross_kernels) > 1
    wanted_out, wanted = gradients(exact, *(p.double() for p in (psi, earlier, own)))
    close(out, wanted_out)
    for a, b in zip(found, wanted, strict=True):
        close(a, b, 1e-4)
    masked = F.conv2d(own, group.spatial.weight * group.spatial.taps[0, 0], padding=2)
    assert torch.allclose(group.spatial(own), masked, atol=1e-6)


def test_what_does_not_fit_runs_as_it_is():
    torch.manual_seed(4)
    large = torch.randn(2, 16, 49, 48)
    cases = [
        (nn.Conv2d(16, 12, 3, padding=1), large),
        (nn.Conv2d(16, 16, 3), large),
        (nn.Conv2d(16, 16, 5, padding=2), large),
        (nn.Conv2d(16, 16, 3, stride=2, padding=1), large),  # odd sides
        (nn.Conv2d(16, 16, 3, padding=1).double(), large.double()),
        (nn.Conv2d(16, 16, 3, padding=1), large[:1, :, :6, :6]),  # one tile
    ]
    for module, x in cases:
        with Calls() as calls, fast_convolutions(module):
            found = module(x)
        assert torch.equal(found, module(x))
        assert not calls.names
    module = nn.Conv2d(16, 16, 3, padding=1)
    with Calls() as calls, fast_convolutions(module), torch.autocast("cpu", torch.bfloat16):
        assert module(large).dtype == torch.bfloat16
    assert not calls.names
    with Calls() as calls, fast_convolutions(module):
        module(large)
    assert calls.names == {"conv3x3": 1}
    assert "forward" not in module.__dict__


@pytest.mark.parametrize("stage", ["joint", "synthesis"])
def test_training_takes_them(stage, tmp_path, monkeypatch):
    images = tmp_path / "pictures"
    images.mkdir()
    from PIL import Image

    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (130, 140, 3), dtype=np.uint8)).save(images / "0.png")

    def step():
        config = TrainConfig(str(tmp_path), [str(images)], preset=CONFIG, start="random", batch=4, crop=96, bf16="off")
        run = _Run(config, Processes(), None)
        select(run.model, STAGES[stage])
        run.stream = run.crops.stream(config.batch)
        with Calls() as calls:
            terms = run.step(STAGES[stage], 1.0)
        return terms, calls.names, {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None}

    fast, calls, gradients = step()
    assert min(calls[f"conv3x3{what}"] for what in ("", "_input_gradient", "_weight_gradient")) >= 4
    monkeypatch.setattr(loop, "fast_convolutions", lambda *modules: nullcontext())
    slow, none, expected = step()
    assert not none
    assert float(fast["loss"].detach()) == pytest.approx(float(slow["loss"].detach()), rel=1e-3)
    assert gradients.keys() == expected.keys()
    # Another rounding of a latent, or none: not more than a few in a thousand.
    for name, g in gradients.items():
        if name.startswith("g_s."):
            assert F.cosine_similarity(g.flatten(), expected[name].flatten(), 0) > 0.99, name


def test_operators_refuse_what_does_not_fit():
    x, weight, bias, dy = torch.randn(1, 6, 6, 8), torch.randn(16, 3, 3, 8), torch.zeros(16), torch.randn(1, 6, 6, 16)
    OPS.conv3x3(x, weight, bias, 1, None, None, 1)
    for message, call in {
        "multiple of 8": lambda: OPS.conv3x3(
            x[..., :4].contiguous(), weight[..., :4].contiguous(), bias, 1, *[None] * 2, 1
        ),
        "weight has size": lambda: OPS.conv3x3(x, torch.randn(16, 3, 3, 16), bias, 1, None, None, 1),
        "bias has size": lambda: OPS.conv3x3(x, weight, bias[:8], 1, None, None, 1),
        "multiples of the stride": lambda: OPS.conv3x3(x[:, :5].contiguous(), weight, bias, 2, None, None, 1),
        "stride must be": lambda: OPS.conv3x3(x, weight, bias, 3, None, None, 1),
        "residual has size": lambda: OPS.conv3x3(x, weight, bias, 2, None, dy, 1),
        "dy must be contiguous": lambda: OPS.conv3x3_input_gradient(dy.transpose(1, 2), weight, 1, None, 1),
        "dy has size": lambda: OPS.conv3x3_weight_gradient(x, dy, 2, 1),
        "threads must": lambda: OPS.conv3x3_weight_gradient(x, dy, 1, 0),
        "stride must be 1 or 2": lambda: OPS.conv3x3_weight_gradient(x, dy, 0, 1),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            call()
