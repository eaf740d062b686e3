"""Noise in the place of the integers' rounding."""

import pytest
import torch
from test_train import config, folder, losses  # noqa: F401

from ccm_fast.models import CrossChannelContextModel
from ccm_fast.train.convolutions import fast_convolutions
from ccm_fast.train.loop import train
from ccm_fast.train.noise import quantization_noise


def model():
    torch.manual_seed(0)
    model = CrossChannelContextModel("ccm-small-128").eval()
    with torch.no_grad():
        for group in model.contexts:
            group.head.weight.mul_(10)
    return model


@pytest.mark.parametrize("fast", [False, True])
def test_noise_is_as_wide_as_the_steps(fast):
    m = model()
    names = [name for name, _ in m.named_parameters()]
    y, z = torch.randn(2, 128, 8, 8) * 3, torch.randn(2, 64, 2, 2) * 2
    plain = m.entropy_parameters(y, z)
    with fast_convolutions(*[m] if fast else []):
        before = m.entropy_parameters(y, z)
        with quantization_noise(m):
            noisy = [m.entropy_parameters(y, z) for _ in range(20)]
        after = m.entropy_parameters(y, z)
    for a, b, c in zip(plain, before, after, strict=True):
        assert torch.allclose(a, b, atol=1e-4) and torch.equal(b, c)
    assert [name for name, _ in m.named_parameters()] == names
    assert not any("forward" in module.__dict__ for module in m.modules())
    mean = torch.stack([means for means, _ in noisy])
    spread, size = mean.std(0).mean(), plain[0].std()
    assert 0.001 * size < spread < 0.05 * size  # some steps of 255 and 127 of them
    assert (mean.mean(0) - plain[0]).abs().mean() < 0.5 * spread  # none to either side


def test_gradients_reach_the_weights():
    m = model()
    with quantization_noise(m):
        mean, index = m.entropy_parameters(torch.randn(1, 128, 8, 8), torch.randn(1, 64, 2, 2))
        (mean.sum() + index.sum()).backward()
    missing = [n for n, p in m.named_parameters() if n.startswith(("h_s", "contexts")) and p.grad is None]
    assert not missing


@pytest.mark.slow
def test_only_where_contexts_learn(tmp_path, folder, monkeypatch):  # noqa: F811
    from contextlib import contextmanager

    from ccm_fast.train import loop

    entered = []

    @contextmanager
    def watched(m):
        entered.append(m)
        with quantization_noise(m):
            yield

    monkeypatch.setattr(loop, "quantization_noise", watched)
    stages = "hyper=3,transforms=3,context=25,synthesis=3,joint=25"
    train(config(tmp_path / "a", folder, stages=stages, start="random", quantization_noise=True), progress=False)
    assert len(entered) == 50 and losses(tmp_path / "a")
    train(config(tmp_path / "b", folder, stages=stages, start="random"), progress=False)
    assert len(entered) == 50
