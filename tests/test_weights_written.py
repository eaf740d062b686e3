"""What is computed from weights follows them, however they were written."""

import copy

import pytest
import tiny
import torch

import ccm_fast
from ccm_fast.effort.distortion import grey_sensitivities
from ccm_fast.models.inference import inference
from ccm_fast.models.state import weights_state


@pytest.fixture
def model():
    return ccm_fast.load(str(tiny.GOLDEN / "tiny.safetensors"))


def halve(p):
    p.data.mul_(0.5)


def swap(p):  # as averaged weights are swapped in
    p.data.copy_(torch.flip(p.data, (0,)) + 0.01)


def through_numpy(p):
    p.detach().numpy()[...] *= -1


def last_bit(p):
    p.data.view(torch.int32).view(-1)[-1] ^= 1


@pytest.mark.parametrize("write", [halve, swap, through_numpy])
def test_transforms_follow_their_weights(model, write):
    x = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    coded = ccm_fast.compress(model, x, effort=1)
    ccm_fast.decompress(model, **coded)
    for transform in (model.g_a, model.h_a, model.g_s):
        for p in transform.parameters():
            write(p)
    fresh = copy.deepcopy(model)
    assert ccm_fast.compress(model, x, effort=1) == ccm_fast.compress(fresh, x, effort=1) != coded
    assert torch.equal(ccm_fast.decompress(model, **coded)["x_hat"], ccm_fast.decompress(fresh, **coded)["x_hat"])


def test_sensitivities_follow_their_weights(model):
    before = grey_sensitivities(model.g_s, model.config.latent_channels, False)
    for p in model.g_s.parameters():
        halve(p)
    after = grey_sensitivities(model.g_s, model.config.latent_channels, False)
    assert not torch.equal(before, after)
    assert torch.equal(after, grey_sensitivities(copy.deepcopy(model.g_s), model.config.latent_channels, False))


@pytest.mark.parametrize("write", [halve, swap, through_numpy, last_bit])
def test_every_change_counts(write):
    for count in (1, 2, 15, 16, 17, 64, 1000):
        layer = torch.nn.Linear(count, 1, bias=False)
        before = weights_state(layer)
        assert weights_state(layer) == before
        write(layer.weight)
        assert weights_state(layer) != before


def test_unchanged_weights_keep_their_copy(model):
    assert inference(model.g_s) is inference(model.g_s)


def test_weights_in_another_order():
    for weight in (torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last), torch.rand(4, 6)[:, ::2]):
        layer = torch.nn.Module()
        layer.weight = torch.nn.Parameter(weight)
        assert not layer.weight.is_contiguous()
        before = weights_state(layer)
        layer.weight.data[-1, -1] *= -1
        assert weights_state(layer) != before
