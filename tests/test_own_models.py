"""Models of one's own: configurations from files, schedules, transforms; training, freezing, files, and back."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

import ccm_fast
from ccm_fast import tiles, weights
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.files import decode_bytes
from ccm_fast.models import PRESETS, CCMConfig, CrossChannelContextModel
from ccm_fast.models.config import find_config
from ccm_fast.models.inference import inference
from ccm_fast.oracle import reference_decompress
from ccm_fast.train.config import TrainConfig
from ccm_fast.train.loop import train
from ccm_fast.train.ship import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]
M = tiny.CONFIG.latent_channels


class Analysis(nn.Module):
    """A transform that is no chain of known layers; it says its margin."""

    margin = 1

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 32, 5, stride=4, padding=2)
        self.second = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.last = nn.Conv2d(32, M, 3, stride=2, padding=1)
        self.register_buffer("calls", torch.tensor(7))

    def forward(self, x):
        x = nn.functional.silu(self.first(4 * x - 2))
        return 8 * self.last(nn.functional.silu(self.second(x)))


class Global(Analysis):
    """Every latent depends on every pixel, which no layer of it tells."""

    margin = None

    def forward(self, x):
        return super().forward(x) + x.mean()


def synthesis():
    return nn.Sequential(
        nn.ConvTranspose2d(M, 32, 5, stride=2, padding=2, output_padding=1),
        nn.SiLU(),
        nn.ConvTranspose2d(32, 32, 5, stride=2, padding=2, output_padding=1),
        nn.GELU(),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.PixelShuffle(4),
    )


def own(g_a=Analysis, config=tiny.CONFIG):
    torch.manual_seed(3)
    model = CrossChannelContextModel(config, g_a(), synthesis()).eval()
    ccm_fast.freeze(model, [tiny.photo(48, 64, k) for k in range(3)], steps=0)
    return model


@pytest.fixture(scope="module")
def model():
    return own()


@pytest.fixture(scope="module")
def picture():
    return torch.from_numpy(tiny.photo(90, 130)).permute(2, 0, 1)[None].float() / 255


# ---------------------------------------------------------------------------------------------------------------------
# Configurations


def test_a_configuration_from_a_file(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"preset": "ccm-small", "groups": [8, 8], "schedule": {"pattern": [[0, 1]]}}))
    found = find_config(str(file))
    assert found == replace(PRESETS["ccm-small"], name="mine", groups=(8, 8), schedule=Schedule(pattern=((0, 1),)))
    assert find_config("ccm-base") is PRESETS["ccm-base"]
    assert CCMConfig.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON file"),
        ("[1]", "an object"),
        ('{"preset": "small"}', "unknown preset 'small': choose from ccm-small"),
        ('{"groupes": [1]}', "unknown in a configuration: groupes .there are: name, widths"),
        ('{"groups": 5}', "groups must be a list of whole numbers"),
        ('{"groups": [1.5]}', "groups must be a whole number"),
        ('{"hyper_channels": "64"}', "hyper_channels must be a whole number of at least 1, not '64'"),
        ('{"widths": [1, 2]}', "widths and blocks"),
        ('{"schedule": "spiral"}', "unknown schedule 'spiral': choose one of wavefront"),
        ('{"schedule": {"steps": 3}}', "schedule: .*steps"),
        ('{"schedule": {"row_step": 1.5}}', "whole numbers"),
        ('{"schedule": 3}', "schedule must be"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said(tmp_path, text, said):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        find_config(file)


def test_an_unknown_preset_names_those_that_there_are(capsys, tmp_path):
    from ccm_fast.command.train import main

    assert main(["--out", str(tmp_path / "run"), "--data", str(tmp_path), "--preset", "small"]) == 1
    assert "choose from ccm-small, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "ccm-small-192" in (text := capsys.readouterr().out) and "NAME.json" in text


@pytest.mark.parametrize("schedule", [Schedule(pattern=((0, 1),)), Schedule(2, 1), Schedule(1, 0, ((0, 2), (1, 3)))])
def test_any_schedule_codes(schedule, tmp_path):
    torch.manual_seed(0)
    model = CrossChannelContextModel(replace(tiny.CONFIG, schedule=schedule))
    x = torch.from_numpy(tiny.photo(48, 64)).permute(2, 0, 1)[None].float() / 255
    ccm_fast.freeze(model, [x[0]], steps=0)
    weights.save(model, tmp_path / "m.safetensors")
    again = ccm_fast.load(tmp_path / "m.safetensors")
    assert again.config.schedule == schedule
    out = ccm_fast.compress(model, x)
    slow = reference_decompress(again, **out)["x_hat"]
    assert torch.allclose(ccm_fast.decompress(again, **out)["x_hat"], slow, atol=0.01)
    codec = ccm_fast.Codec.load(tmp_path / "m.safetensors")
    data = codec.encode(tiny.photo(48, 64), effort=1)
    assert np.array_equal(decode_bytes(data, again).latents, decode_bytes(data, codec).latents)


# ---------------------------------------------------------------------------------------------------------------------
# Transforms


def test_own_transforms_go_into_a_file_and_come_back(model, picture, tmp_path):
    path = tmp_path / "own.safetensors"
    weights.save(model, path)
    again = ccm_fast.load(path, g_a=Analysis(), g_s=synthesis())
    assert int(again.g_a.calls) == 7
    assert again.own_transforms == {"g_a": "test_own_models.Analysis", "g_s": "torch.nn.modules.container.Sequential"}
    out = ccm_fast.compress(model, picture, quality=5)
    assert torch.allclose(
        ccm_fast.decompress(model, **out)["x_hat"], ccm_fast.decompress(again, **out)["x_hat"], atol=0.02
    )
    image = Image.fromarray(tiny.photo(50, 70))
    assert ccm_fast.encode_file(image, tmp_path / "a.ccm", model=again)["width"] == 70
    assert ccm_fast.decode_file(tmp_path / "a.ccm", model=again).size == (70, 50)


def test_without_the_transforms_a_file_says_what_it_needs(model, tmp_path):
    path = tmp_path / "own.safetensors"
    weights.save(model, path)
    with pytest.raises(ccm_fast.ModelError, match=r"g_a is of a class of the author's own, test_own_models.Analysis"):
        ccm_fast.load(path)
    with pytest.raises(ccm_fast.ModelError, match="g_s is of a class"):
        ccm_fast.load(path, g_a=Analysis())
    with pytest.raises(ccm_fast.ModelError, match="load it in Python"):
        ccm_fast.Codec.load(path)
    with pytest.raises(TypeError, match="none has to be brought"):
        ccm_fast.load(tiny.GOLDEN / "tiny.safetensors", g_s=synthesis())


@pytest.mark.parametrize(
    ("g_a", "said"),
    [
        (nn.Conv2d(3, M, 8, stride=8), r"g_a makes \[1, 9, 8, 8\] of \[1, 3, 64, 64\], not \[1, 9, 4, 4\]"),
        (nn.Conv2d(4, M, 16, stride=16), "g_a does not take"),
        (nn.PixelUnshuffle(16), "g_a has no parameter"),
    ],
)
def test_transforms_of_other_shapes_are_refused(g_a, said):
    with pytest.raises(ValueError, match=said):
        CrossChannelContextModel(tiny.CONFIG, g_a=g_a)


def test_tiles_of_own_transforms_have_no_seams(model, picture):
    assert tiles.margin(model.g_a, "analysis") == 1
    assert tiles.margin(model.g_s, "synthesis") == 2
    x = nn.functional.pad(picture, (0, -130 % 16, 0, -90 % 16))
    with torch.no_grad():
        whole, h, w = model.g_a(x), 6, 9
        cut = tiles.analyse(model.g_a, lambda i, j: x[..., i, j], h, w, tile_pixels=256 * 20)
        assert torch.allclose(cut, whole, atol=0.02 * float(whole.abs().max()))
        image = model.g_s(whole)
        for rows, columns, pixels in tiles.synthesize(model.g_s, lambda i, j: whole[..., i, j], h, w, 256 * 20):
            assert torch.allclose(pixels, image[..., rows, columns], atol=0.02 * float(image.abs().max()))


def test_the_margins_of_known_layers_cover_what_counts():
    g_s = synthesis().double()
    y = torch.zeros(1, M, 15, 15, dtype=torch.float64, requires_grad=True)
    x = g_s(y)
    (grad,) = torch.autograd.grad(x[..., 112:128, 112:128].sum(), y)
    reach = int((grad.abs().sum((0, 1)) > 0).any(0).nonzero().squeeze(1).sub(7).abs().max())
    assert reach <= tiles.margin(g_s, "synthesis") <= reach + 1


def test_a_transform_that_nobody_knows_runs_in_one_piece(picture, monkeypatch):
    model = own(Global)
    assert tiles.margin(model.g_a, "analysis") is None
    assert len(tiles.plan_tiles(100, 100, None, 10)) == 1
    assert tiles.margin(nn.Sequential(nn.UpsamplingBilinear2d(2)), "synthesis") is None
    assert tiles.margin(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), "synthesis") is None
    monkeypatch.setattr("ccm_fast.encoding.TILE_PIXELS", 256 * 4)
    for effort in (1, 3, 4):  # these correct latents, and follow gradients
        out = ccm_fast.compress(model, picture, effort=effort)
        assert ccm_fast.decompress(model, **out)["x_hat"].shape == picture.shape


def test_a_margin_must_be_a_number():
    class Bad(Analysis):
        margin = "two"

    with pytest.raises(TypeError, match="the attribute margin of Bad must be a whole number, not 'two'"):
        tiles.margin(Bad(), "analysis")


def test_a_fast_copy_is_taken_only_if_it_does_the_same(model):
    class Odd(Analysis):  # uses a layer's weight in a way that no copy of the layer knows
        def forward(self, x):
            return super().forward(x) + self.first.weight.mean()

    class Scaled(nn.Conv2d):  # a convolution by its type, another function by its code
        def forward(self, x):
            return 3 * super().forward(x)

    scaled = nn.Sequential(Scaled(3, 32, 16, stride=16), nn.ReLU())
    for module in (Odd().eval(), scaled):
        assert inference(module) is module
    assert inference(model.g_a) is not model.g_a
    assert inference(model.g_s) is not model.g_s


# ---------------------------------------------------------------------------------------------------------------------
# Training


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for k in range(3):
        Image.fromarray(tiny.photo(48, 64, k)).save(folder / f"{k}.png")
    return str(folder)


def test_own_transforms_are_trained_and_resumed(photographs, tmp_path):
    options = {"batch": 2, "crop": 32, "z_warmup": 1, "warmup": 1}
    cfg = TrainConfig(str(tmp_path), [photographs], start="random", stages="transforms=2,joint=2", **options)
    model = CrossChannelContextModel(tiny.CONFIG, Analysis(), synthesis())
    before = model.g_a.first.weight.clone()
    last = train(cfg, progress=False, model=model)
    assert not torch.equal(before, model.g_a.first.weight)
    again, meta = load_checkpoint(last, Analysis(), synthesis())
    assert meta["step"] == 4
    with pytest.raises(ValueError, match="weights of other transforms"):
        load_checkpoint(last)
    train(replace(cfg, stages="transforms=2,joint=2,joint=2"), progress=False, model=again.train())
    assert load_checkpoint(last, Analysis(), synthesis())[1]["step"] == 6
    with pytest.raises(ValueError, match="configured otherwise"):
        other = replace(tiny.CONFIG, psi_channels=12)
        train(cfg, progress=False, model=CrossChannelContextModel(other, Analysis(), synthesis()))
    with pytest.raises(ValueError, match='must be "random"'):
        train(replace(cfg, out=str(tmp_path / "b"), start="klt"), progress=False, model=model)


def test_training_by_a_file(photographs, tmp_path, capsys):
    from ccm_fast.command.train import main

    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**tiny.CONFIG.to_dict(), "name": "mine", "schedule": {"pattern": [[0, 1]]}}))
    options = ["--preset", str(file), "--stages", "joint=2", "--crop", "32", "--batch", "2", "--start", "random"]
    assert main(["--out", str(tmp_path / "run"), "--data", photographs, "--quiet", *options]) == 0
    model, _ = load_checkpoint(tmp_path / "run" / "last.pt")
    assert model.config.name == "mine" and model.config.schedule == Schedule(pattern=((0, 1),))


def test_freezing_by_the_command(photographs, tmp_path, capsys, monkeypatch):
    """It takes as many images and steps as it is told, and replaces nothing that it is not told to replace."""
    from ccm_fast.command.main import main
    from ccm_fast.freezing import freeze as module

    last = train(
        TrainConfig(str(tmp_path / "run"), [photographs], start="random", stages="joint=1", batch=2, crop=32),
        progress=False,
        model=CrossChannelContextModel(tiny.CONFIG),
    )
    asked, inner = [], module.freeze

    def counted(model, images, **options):
        asked.append((len(images), options["steps"]))
        return inner(model, images, **options)

    monkeypatch.setattr(module, "freeze", counted)
    (tmp_path / "own.json").write_text("a configuration of that name")
    options = ["--data", photographs, "--images", "2", "--steps", "1", "--quiet"]
    assert main(["freeze", str(last), str(tmp_path / "own.safetensors"), *options]) == 1
    assert "own.json" in capsys.readouterr().err and not (tmp_path / "own.safetensors").exists() and not asked
    assert (tmp_path / "own.json").read_text() == "a configuration of that name"
    assert main(["freeze", str(last), str(tmp_path / "own.safetensors"), *options, "--force"]) == 0
    assert asked == [(2, 1)] and json.loads((tmp_path / "own.json").read_text())["model"] == "own"
    frozen = (tmp_path / "own.safetensors").read_bytes()
    assert main(["freeze", str(last), str(tmp_path / "own.safetensors"), *options]) == 1
    assert (tmp_path / "own.safetensors").read_bytes() == frozen
    assert ccm_fast.load(tmp_path / "own.safetensors").frozen is not None


@pytest.mark.slow
def test_the_example(tmp_path):
    Image.fromarray(tiny.photo(136, 140)).save(tmp_path / "a.png")
    command = [sys.executable, ROOT / "examples/own_model.py", tmp_path, tmp_path / "out", "--steps", "2"]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out" / "photo.png") as image:
        assert image.size == (140, 136)
