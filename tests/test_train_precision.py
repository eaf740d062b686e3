"""bf16 on a float32 trunk: g_a and g_s lose little, and everything learns."""

import pytest
import torch
from test_train import config, folder  # noqa: F401

from ccm_fast.models import CrossChannelContextModel
from ccm_fast.train import loop
from ccm_fast.train.convolutions import fast_convolutions
from ccm_fast.train.loop import train
from ccm_fast.train.precision import float32_trunk


def transformed(model, x):
    y = model.g_a(x)
    return y, model.g_s(y)


@pytest.mark.parametrize("fast", [False, True])
def test_the_trunk_is_float32(fast):
    """Latents and pictures are float32, and many times nearer to float32's than those of plain autocast."""
    torch.manual_seed(0)
    model, x = CrossChannelContextModel("ccm-small").eval(), torch.rand(2, 3, 192, 192)
    before = {m: dict(m.__dict__) for m in model.modules()}
    with torch.no_grad():
        exact = transformed(model, x)
        with torch.autocast("cpu", torch.bfloat16):
            plain = transformed(model, x)
            if fast:
                with fast_convolutions(model), float32_trunk(model):
                    trunk = transformed(model, x)
            else:
                with float32_trunk(model):
                    trunk = transformed(model, x)
    for e, p, t in zip(exact, plain, trunk, strict=True):
        assert t.dtype == torch.float32
        lost, kept = (float((v.float() - e).square().mean()) for v in (p, t))
        assert kept < lost / 50
        assert kept > 0  # residual branches are bf16
    assert all(m.__dict__.keys() == before[m].keys() for m in model.modules())


def test_means_scales_and_z_are_float32():
    torch.manual_seed(0)
    model = CrossChannelContextModel("ccm-small").eval()
    y, z = torch.round(torch.randn(1, 320, 12, 12) * 30), torch.round(torch.randn(1, model.config.hyper_channels, 3, 3))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), float32_trunk(model):
        found = [*model.entropy_parameters(y, z), model.h_a(y)]
    for v in found:
        assert not torch.equal(v, v.bfloat16().to(v.dtype))


def test_gradients_are_near():
    """Those of every parameter of the transforms."""
    torch.manual_seed(0)
    model, x = CrossChannelContextModel("ccm-small"), torch.rand(2, 3, 192, 192)
    parameters = [p for m in (model.g_a, model.g_s) for p in m.parameters()]

    def gradients():
        return torch.autograd.grad((transformed(model, x)[1] - x).square().mean(), parameters)

    exact = gradients()
    with torch.autocast("cpu", torch.bfloat16), fast_convolutions(model), float32_trunk(model):
        found = gradients()
    for e, f in zip(exact, found, strict=True):
        assert float((f - e).norm()) < 0.05 * float(e.norm())


@pytest.mark.parametrize("bf16", ["on", "off"])
def test_training_takes_it(bf16, tmp_path, folder, monkeypatch):  # noqa: F811
    entered = []

    def watched(model):
        entered.append(model)
        return float32_trunk(model)

    monkeypatch.setattr(loop, "float32_trunk", watched)
    train(config(tmp_path, folder, stages="transforms=2,joint=2", start="random", bf16=bf16), progress=False)
    assert len(entered) == (4 if bf16 == "on" else 0)
