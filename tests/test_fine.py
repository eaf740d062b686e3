"""The fine group: its fast forms, its start, and models that grow one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ccm_fast
from ccm_fast import tiles
from ccm_fast.models import PRESETS, CCMConfig, CrossChannelContextModel, inference
from ccm_fast.oracle import reference_decompress
from ccm_fast.train.checkpoint import initial
from ccm_fast.train.fine import start_fine
from ccm_fast.train.grow import deepen, grow, is_deeper
from ccm_fast.train.klt import fit_synthesis, initialise
from ccm_fast.train.loop import TrainConfig, train

COARSE = CCMConfig(
    name="coarse",
    widths=(48, 24, 24),
    blocks=(1, 1, 1),
    groups=(6, 10),
    hyper_channels=4,
    psi_channels=12,
    cross_kernels=(3, 3),
    cross_width=16,
    parameter_widths=(16, 12),
    reconstruction="centroid",
)
FINE = replace(COARSE, name="fine", groups=(6, 10, 24), hyper_channels=3, psi_channels=8, fine=True)
DEEP = replace(FINE, name="deep", fine_deep=True, blocks=(1, 1, 2), synthesis_blocks=(1, 3, 1))


@pytest.fixture(scope="module")
def images():
    """Pictures with detail of all directions."""
    rng = np.random.default_rng(1)
    i, j = np.mgrid[:96, :112]

    def picture():
        waves = [np.sin(a * i + b * j + c) for a, b, c in rng.normal(0, 0.5, (6, 3)) * (1, 1, 6)]
        planes = [sum(w * k for w, k in zip(waves, rng.uniform(0.2, 1, 6), strict=True)) for _ in range(3)]
        return np.uint8(np.clip(127 + 25 * np.stack(planes, -1), 0, 255))

    return [picture() for _ in range(40)]


@pytest.fixture(scope="module")
def old(images):
    torch.manual_seed(0)
    model = CrossChannelContextModel(COARSE).eval().requires_grad_(False)
    initialise(model, images)
    fit_synthesis(model, images, initialise(model, images))
    return model


@pytest.fixture(scope="module")
def grown(old, images):
    torch.manual_seed(1)
    model = CrossChannelContextModel(FINE).eval().requires_grad_(False)
    grow(model, old, images)
    return model


def tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


Q = torch.tensor([8.0])


@pytest.mark.usefixtures("float_transforms")
def test_fast_forms_and_tiles(grown, images):
    """The same images and latents, in one piece and in tiles, as from torch's own layers in double precision."""
    x = tensor(images[0])
    slow = CrossChannelContextModel(FINE).eval().requires_grad_(False).double()
    slow.load_state_dict(grown.state_dict())
    y = slow.g_a(x.double())
    x_hat = slow.g_s(y)
    limit = 2e-4  # 8e-5 with vectors of floats, 1e-4 with scalar kernels
    assert (inference.inference(grown.g_a)(x) - y).abs().max() < limit
    assert (inference.inference(grown.g_s)(y.float()) - x_hat).abs().max() < 1e-4
    for budget in (1 << 20, 80 * 80):
        found = tiles.analyse(grown.g_a, lambda rows, columns: x[:, :, rows, columns], 6, 7, budget)
        assert (found - y).abs().max() < limit
        canvas = torch.zeros_like(x)
        for rows, columns, part in tiles.synthesize(grown.g_s, lambda r, c: y[:, :, r, c].float(), 6, 7, budget):
            canvas[:, :, rows, columns] = part
        assert (canvas - x_hat).abs().max() < 1e-4
    assert len(tiles.plan_tiles(6, 7, tiles.margin(grown.g_s, "synthesis"), 25)) > 1


@pytest.mark.parametrize("config", [FINE, DEEP])
def test_margins_cover_all_paths(config):
    """What a latent's pixels depend on lies within the margins, by gradients."""
    torch.manual_seed(0)
    model, n = CrossChannelContextModel(config), 17
    if config.fine_deep:
        torch.nn.init.normal_(model.g_a[-1].deep.weight)
    for transform, size, kind in ((model.g_a, (3, 16 * n), "analysis"), (model.g_s, (40, n), "synthesis")):
        x = torch.randn(1, size[0], size[1], size[1], requires_grad=True)
        out = transform(x)
        middle = out[:, :, 8, 8] if kind == "analysis" else out[:, :, 128:144, 128:144]
        (middle * torch.randn(middle.shape)).sum().backward()
        rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        span = 16 if kind == "analysis" else 1
        reach = max(8 - int(rows.min()) // span, int(rows.max()) // span - 8)
        assert reach <= tiles.margin(transform, kind) <= reach + 1


def test_starts_with_what_was_lost(old, grown, images):
    """Nothing changes for the coarse channels; without quantization, most of what they leave out comes back."""
    errors = {}
    for name, model in (("old", old), ("grown", grown)):
        y = model.analysis(tensor(images[3]), Q)
        errors[name] = float((model.synthesis(y, Q, images[3].shape[:2]) - tensor(images[3])).square().mean())
        if name == "old":
            before = y
    assert torch.equal(y[:, :16], before)
    assert errors["grown"] < 0.5 * errors["old"]
    y[:, 16:] = 0
    same = grown.synthesis(y, Q, images[3].shape[:2]) - old.synthesis(before, Q, images[3].shape[:2])
    assert same.abs().max() < 1e-6


def test_hyperprior_keeps_what_matters(old, images):
    """With all channels kept nothing changes; a smaller one starts silent on contexts that know y, as before."""
    same = CrossChannelContextModel(replace(FINE, hyper_channels=4, psi_channels=12)).eval().requires_grad_(False)
    grow(same, old, images)
    y = old.analysis(tensor(images[0]), Q)
    padded = same.analysis(tensor(images[0]), Q)
    a, b = old.likelihoods(y), same.likelihoods(padded)
    assert (a["y"] - b["y"][:, :16]).abs().max() < 1e-5
    assert torch.allclose(a["z"], b["z"], atol=1e-6)


def test_other_models_do_not_grow(old, images):
    with pytest.raises(ValueError, match="cross_width"):
        grow(CrossChannelContextModel(replace(FINE, cross_width=8)), old, images)
    with pytest.raises(ValueError, match="other groups"):
        grow(CrossChannelContextModel(replace(FINE, groups=(8, 8, 24))), old, images)
    with pytest.raises(ValueError, match="must not grow"):
        grow(CrossChannelContextModel(replace(FINE, psi_channels=16)), old, images)
    with pytest.raises(ValueError, match="no fine group"):
        start_fine(old, images)
    with pytest.raises(ValueError, match="64x64"):
        start_fine(CrossChannelContextModel(FINE), [np.zeros((40, 90, 3), np.uint8)])
    with pytest.raises(ValueError, match="coarse one before it"):
        CCMConfig(groups=(8,), fine=True)


@pytest.mark.slow
def test_training_grows_and_starts(tmp_path, images):
    """``--init`` with weights that lack the group, and a start from the block transform."""
    from PIL import Image

    for k, image in enumerate(images[:12]):
        Image.fromarray(image).save(tmp_path / f"{k}.png")

    def run(name, preset, **options):
        config = TrainConfig(
            str(tmp_path / name), [str(tmp_path)], preset=preset, batch=2, crop=64, threads=1, lr=0.0, **options
        )
        return torch.load(train(config, progress=False), weights_only=True)["ema"]

    coarse = run("coarse", COARSE, stages="joint=1")
    for options in ({"init": str(tmp_path / "coarse" / "last.pt")}, {}):
        fine = run("fine" + str(len(options)), FINE, stages="joint=1", **options)
        assert torch.equal(fine["g_a.1.weight"], coarse["g_a.1.weight"])
        assert fine["g_s.0.fine.0.weight"].norm() > 0.5  # directions of length 1


@pytest.mark.slow
@pytest.mark.usefixtures("float_transforms")
def test_codes_and_decodes(grown, images):
    """Frozen, the group goes through files like every other, and raises the best quality."""
    model = CrossChannelContextModel(FINE).eval().requires_grad_(False)
    model.load_state_dict(grown.state_dict())
    ccm_fast.freeze(model, images[:8], steps=0)
    x = torch.cat([F.pad(tensor(i), (0, 16, 0, 16), mode="replicate")[..., :96, :112] for i in images[:2]])
    out = ccm_fast.compress(model, x, 8.0)
    x_hat = ccm_fast.decompress(model, out["strings"], out["shape"])["x_hat"]
    reference = reference_decompress(model, out["strings"], out["shape"])["x_hat"]
    assert (x_hat - reference).abs().max() < 1e-4
    assert (x_hat - x).square().mean() < 1e-3


@pytest.fixture(scope="module")
def deeper(grown):
    model = CrossChannelContextModel(DEEP).eval().requires_grad_(False)
    deepen(model, grown)
    return model


@pytest.mark.usefixtures("float_transforms")
def test_deeper_models_start_as_the_old_one(grown, deeper, images):
    x = tensor(images[0])
    y = grown.analysis(x, Q)
    assert torch.equal(deeper.analysis(x, Q), y)
    assert torch.equal(deeper.synthesis(y, Q, x.shape[2:]), grown.synthesis(y, Q, x.shape[2:]))
    for name, value in grown.likelihoods(y).items():
        assert torch.equal(deeper.likelihoods(y)[name], value)
    # Fast forms and margins, once the new layers say something.
    busy = CrossChannelContextModel(DEEP).eval().requires_grad_(False)
    busy.load_state_dict(deeper.state_dict())
    for name, weight in busy.named_parameters():
        if name.endswith(("conv2.weight", "deep.weight")):
            torch.nn.init.normal_(weight, std=0.02)
    y = busy.g_a(x)
    assert (y - deeper.g_a(x)).abs().max() > 1e-2
    fast = inference.inference(busy.g_a)
    for _ in range(2):  # planes go round
        assert (fast(x) - y).abs().max() < 1e-3
    assert (inference.inference(busy.g_s)(y) - busy.g_s(y)).abs().max() < 1e-3


def test_even_deeper_models_keep_what_they_have(deeper, images):
    deeper.g_a[-1].deep.weight += 0.01
    more = CrossChannelContextModel(replace(DEEP, blocks=(2, 1, 2))).eval().requires_grad_(False)
    deepen(more, deeper)
    assert torch.equal(more.g_a(tensor(images[1])), deeper.g_a(tensor(images[1])))


def test_deeper_models_may_skip_other_symbols(grown, images, tmp_path):
    """Weights are not taken by their layers' numbers then, which are other layers' in a deeper model."""
    path = tmp_path / "floats.pt"
    skipping = replace(grown.config, skip_index=4)
    assert is_deeper(DEEP, skipping) and not is_deeper(replace(FINE, skip_index=0), FINE)
    weights = grown.state_dict()
    torch.save({"config": skipping.to_dict(), "train": {}, "model": weights, "ema": weights}, path)
    model = CrossChannelContextModel(DEEP).eval().requires_grad_(False)
    initial(str(path), model, images)
    x = tensor(images[0])
    assert torch.equal(model.g_a(x), grown.g_a(x))


def test_the_medium_model_is_a_deeper_small_one():
    small, medium = PRESETS["ccm-small-2"], PRESETS["ccm-medium"]
    assert is_deeper(medium, small)
    macs = []
    for config in (small, medium):
        g_s, at = CrossChannelContextModel(config).g_s, []
        for layer in g_s.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda m, _, out, at=at: at.append(m.weight.numel() * out[0, 0].numel()))
        with torch.no_grad():
            g_s(torch.zeros(1, config.latent_channels, 2, 2))
        macs.append(sum(at) / 32**2)
    assert 25_000 < macs[0] < 26_000 and 52_000 < macs[1] < 53_000  # a pixel, and 9.5 k for the entropy model


def test_what_is_no_deeper_model(grown, deeper):
    for config in (FINE, replace(DEEP, cross_width=8), replace(DEEP, blocks=(1, 0, 1)), replace(FINE, name="same")):
        assert not is_deeper(config, FINE)
        with pytest.raises(ValueError, match="deeper transforms"):
            deepen(CrossChannelContextModel(config), grown)
    assert is_deeper(DEEP, FINE) and not is_deeper(FINE, DEEP)
    with pytest.raises(ValueError, match="fine_deep needs a fine group"):
        replace(COARSE, fine_deep=True)
    with pytest.raises(ValueError, match="each resolution"):
        replace(COARSE, synthesis_blocks=(1, 2))


def test_training_starts_from_weights_of_other_models(tmp_path, images):
    """Deeper ones start as what is there; of anything else is taken what fits."""
    from PIL import Image

    for k, image in enumerate(images[:6]):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    options = {"batch": 2, "crop": 64, "threads": 1, "lr": 0.0, "stages": "joint=1"}
    path = train(TrainConfig(str(tmp_path / "a"), [str(tmp_path)], preset=FINE, **options), progress=False)
    weights = torch.load(path, weights_only=True)["ema"]
    for config in (DEEP, replace(COARSE, blocks=(2, 1, 1))):
        model = CrossChannelContextModel(config)
        initial(str(path), model, [])
        assert torch.equal(model.g_a[1].weight, weights["g_a.1.weight"])
