"""Symbols of small scales that are not coded, as training and freezing see them."""

from dataclasses import replace

import pytest
import tiny
import torch

from ccm_fast import compress, decompress, freeze
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.models import PRESETS, CCMConfig, CrossChannelContextModel

CONFIG = CCMConfig(
    widths=(8, 8, 8), blocks=(0, 0, 0), groups=(3, 4), hyper_channels=4, psi_channels=8, cross_width=6,
    parameter_widths=(8, 8), reconstruction="centroid", skip_index=20,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = CrossChannelContextModel(CONFIG).eval()
    with torch.no_grad():
        for group in model.contexts:  # means and scales that tell something
            group.head.weight.mul_(10)
        model.log_gain.add_(2.5)
    return model


@pytest.fixture
def latents(model):
    x, quality = torch.rand(1, 3, 96, 80), torch.tensor([4.0])
    with torch.no_grad():
        y = model.analysis(x, quality)
        return y, torch.round(model.h_a(y))


@pytest.mark.parametrize("metric", ["mse", "ms-ssim"])
def test_decoders_have_what_was_chosen(model, latents, metric):
    """What decoders find in the contexts that they have is what the encoder has counted on."""
    y, z_hat = latents
    model.metric = metric
    with torch.no_grad():
        y_hat = torch.round(model.coded(y, z_hat))
        mean, index = model.entropy_parameters(y_hat, z_hat)
    skipped = model.skipped(index)
    assert 0.05 < float(skipped.float().mean()) < 0.95
    assert float((y_hat != torch.round(y))[skipped].float().mean()) > 0.05
    # All but the few that a further look would change.
    assert float((y_hat == torch.round(mean))[skipped].float().mean()) > 0.97


def test_they_cost_nothing_in_files_and_what_they_would_in_training(model, latents):
    y, _ = latents
    with torch.no_grad():
        bits = -torch.log2(model.likelihoods(y)["y"])
        free = bits == 0
        model.config = replace(CONFIG, skip_index=-1)
        assert float(free.float().mean()) > 0.05 and not bool((torch.log2(model.likelihoods(y)["y"]) == 0)[free].all())
        model.config = CONFIG
    model.train()
    found = {}

    def keep(module, inputs, out):
        if out.requires_grad:  # the run that decides, not the first look
            out.retain_grad()
            found["out"] = out

    handle = model.contexts[1].head.register_forward_hook(keep)
    likelihood = model.likelihoods(y.detach())["y"]
    handle.remove()
    (-torch.log2(likelihood)).sum().backward()
    index = model.contexts[1].INDEX_GAIN * found["out"][:, 4:]
    slope = found["out"].grad[:, 4:][(index < 20.5) & (index > 0)]
    assert float((slope != 0).float().mean()) > 0.9


def test_without_a_threshold_nothing_is_skipped(model):
    index = torch.tensor([-40.0, -0.6, 0.0, 0.4, 20.4, 20.6, 63.0])
    assert model.skipped(index).tolist() == [True] * 5 + [False] * 2
    model.config = replace(CONFIG, skip_index=-1)
    assert not bool(model.skipped(index).any())
    model.config = replace(CONFIG, skip_index=0)
    assert model.skipped(index).tolist() == [True] * 4 + [False] * 3
    with pytest.raises(ValueError, match="skip_index"):
        replace(CONFIG, skip_index=64)


def test_a_fine_group_without_a_context_of_its_own():
    config = replace(PRESETS["ccm-small"], fine_context=False)
    context = CrossChannelContextModel(config).contexts
    assert context[-1].spatial is None and all(group.spatial is not None for group in context[:-1])


def test_freezing_knows_of_both():
    """What the model was trained for is in its plan, and engines decode it alike."""
    torch.manual_seed(1)
    config = replace(CONFIG, fine=True, fine_context=False, reconstruction="integer")
    model = CrossChannelContextModel(config).eval().requires_grad_(False)
    model.log_gain += 3.0
    for group in model.contexts:
        group.head.weight *= 10
    crops = [tiny.photo(96, 96, k) for k in range(2)]
    plan = freeze(model, crops, steps=0).plan
    assert plan.skip == 20 and plan.version == 3
    assert plan.schedules == (Schedule.wavefront(5), Schedule(row_step=1)) and len(plan.groups[1].taps) == 0
    x = torch.from_numpy(tiny.photo(48, 80)).permute(2, 0, 1)[None].float() / 255
    out = compress(model, x, 5)
    found, oracle = (decompress(model, **out, engine=engine)["x_hat"] for engine in ("cpu", "reference"))
    assert torch.equal(found, oracle)
    everything = freeze(model, crops, steps=0, skip=-1).plan
    assert everything.skip == -1
