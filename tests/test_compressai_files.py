"""Accelerated nets of CompressAI as citizens: .ccm files, whole nets in weights files, commands, Pillow, eval."""

import json

import compressai_nets as nets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import photo

import ccm_fast
import ccm_fast.interop.pillow
from ccm_fast.command.main import main
from ccm_fast.files import decode_bytes
from ccm_fast.shipped import is_accelerated

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ["mbt2018", "mbt2018-mean", "cheng2020-attn", "elic2022-official"]


def made(kind):
    return ccm_fast.accelerate(nets.make(kind), nets.photos(2, 64, 64), steps=0)


@pytest.fixture(scope="module")
def fast():
    return made("mbt2018-mean")


@pytest.fixture(scope="module")
def weights(fast, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    fast.save(path, whole=True)
    return path


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(photo(50, 70)).save(tmp_path / "a.png", exif=_exif())
    return tmp_path / "a.png"


def _exif():
    exif = Image.Exif()
    exif[0x010E] = "a caption"
    return exif


def as_tensor(picture):
    with Image.open(picture) as image:
        return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].float() / 255


def test_a_file_holds_what_the_strings_do(fast, picture, tmp_path):
    report = ccm_fast.encode_file(picture, tmp_path / "a.ccm", model=fast)
    assert (report["width"], report["height"]) == (70, 50)
    image = ccm_fast.decode_file(tmp_path / "a.ccm", model=fast.net)  # the net remembers
    x_hat = fast.decompress(**fast.compress(as_tensor(picture)))["x_hat"]
    expected = (x_hat[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(image), expected)
    assert image.getexif()[0x010E] == "a caption"
    deep = decode_bytes((tmp_path / "a.ccm").read_bytes(), fast, depth=16)
    assert deep.picture.pixels.dtype == np.uint16 and deep.latents.dtype == np.int16


def test_grey_and_alpha(fast, tmp_path):
    Image.fromarray(photo(40, 50)[..., 0]).save(tmp_path / "grey.png")
    ccm_fast.encode_file(tmp_path / "grey.png", tmp_path / "grey.ccm", model=fast)
    assert ccm_fast.decode_file(tmp_path / "grey.ccm", model=fast).mode == "L"
    clear = Image.fromarray(np.dstack([photo(40, 50), np.arange(2000).reshape(40, 50).astype(np.uint8)]))
    ccm_fast.encode_file(clear, tmp_path / "clear.ccm", model=fast)
    back = np.asarray(ccm_fast.decode_file(tmp_path / "clear.ccm", model=fast))
    assert np.array_equal(back[..., 3], np.asarray(clear)[..., 3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_net_comes_back_from_its_file(kind, tmp_path, picture):
    fast = made(kind)
    fast.save(tmp_path / "net.safetensors", whole=True)
    again = ccm_fast.load(tmp_path / "net.safetensors")
    assert again.frozen.fingerprint == fast.frozen.fingerprint and type(again.net) is type(fast.net)
    out = fast.compress(as_tensor(picture))
    assert torch.equal(again.decompress(**out)["x_hat"], fast.decompress(**out)["x_hat"])
    assert again.compress(as_tensor(picture)) == out


def test_commands(weights, picture, tmp_path, capsys):
    assert is_accelerated(weights) and is_accelerated(str(weights)) and not is_accelerated("ccm-small")
    ccm, png = str(tmp_path / "a.ccm"), str(tmp_path / "b.png")
    assert main(["encode", "-m", str(weights), str(picture), ccm]) == 0
    assert main(["decode", "-m", str(weights), ccm, png]) == 0
    with Image.open(png) as image:
        assert image.size == (70, 50) and image.getexif()[0x010E] == "a caption"
    assert main(["info", ccm]) == 0
    assert main(["decode", ccm, str(tmp_path / "c.png")]) == 1
    assert "name its weights file" in capsys.readouterr().err
    for option, said in ((["--effort", "5"], "has no effort"), (["--target-size", "900"], "has one quality")):
        assert main(["encode", "-f", "-m", str(weights), *option, str(picture), ccm]) == 1
        assert said in capsys.readouterr().err


def test_pillow(fast, picture, tmp_path):
    with Image.open(picture) as image:
        image.save(tmp_path / "a.ccm", model=fast)
    with Image.open(tmp_path / "a.ccm") as image:
        image.model = fast
        assert np.asarray(image).shape == (50, 70, 3)


@pytest.mark.slow
def test_eval(weights, tmp_path):
    Image.fromarray(photo(176, 180)).save(tmp_path / "a.png")
    command = ["eval", str(tmp_path / "a.png"), "-m", str(weights), "-c", "jpeg", "--crops", "1", "--quiet"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "net.json").read_text())
    # Untrained: noise around one grey.
    assert len(result["results"]["bpp"]) == 1 and result["results"]["psnr-rgb"][0] > 3
    assert main([*command, "-o", str(tmp_path / "two"), "-E", "3"]) == 1


def test_what_a_file_cannot_give_is_said(fast, weights, tmp_path, monkeypatch):
    fast.save(tmp_path / "bare.safetensors")
    with pytest.raises(ccm_fast.ModelError, match="entropy model of a net of CompressAI, MeanScaleHyperprior"):
        ccm_fast.load(tmp_path / "bare.safetensors")
    assert ccm_fast.load(tmp_path / "bare.safetensors", fast.net).frozen.fingerprint == fast.frozen.fingerprint

    class Mine(type(fast.net)):
        pass

    mine = Mine(12, 16)
    mine.load_state_dict(fast.net.state_dict())
    with pytest.raises(ccm_fast.ModelError, match="Mine is none of CompressAI's classes"):
        ccm_fast.accelerate(mine, nets.photos(1, 64, 64), steps=0).save(tmp_path / "mine.safetensors", whole=True)
    with pytest.raises(ccm_fast.ModelError, match="own models"):
        ccm_fast.files.codec_for(weights)
    with pytest.raises(TypeError, match="one by one"):
        ccm_fast.decode_batch([b""], model=fast)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps compressai"):
        ccm_fast.load(weights)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"net": '"VisionTransformer"'}, "no net of CompressAI is VisionTransformer"),
        ({"net": '"os.system"', "arguments": "{}"}, "no net of CompressAI is os.system"),
        ({"arguments": '{"N": 1000000000, "M": 16}'}, "no net of CompressAI"),
        ({"arguments": '{"N": 12, "M": 17}'}, "its tensors are not those"),
        ({"arguments": '{"N": 12, "K": 17}'}, "its tensors are not those"),
        ({"arguments": "[3]"}, "metadata"),
        ({"arguments": "{"}, "metadata"),
    ],
)
def test_hostile_files(weights, tmp_path, change, said):
    metadata = {
        "format": "ccm_fast accelerated net 1",
        "net": '"MeanScaleHyperprior"',
        "arguments": '{"N": 12, "M": 16}',
    }
    save_file(load_file(weights), tmp_path / "bad.safetensors", {**metadata, **change})
    with pytest.raises(ccm_fast.ModelError, match=said):
        ccm_fast.load(tmp_path / "bad.safetensors")
