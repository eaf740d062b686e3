"""What a user may get wrong, on the command line and in Python: an error of a known type that says what to do."""

import io
import os

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from ccm_fast import CrossChannelContextModel, compress, decode_file, decompress, encode_file, errors, freeze
from ccm_fast.command.main import main
from ccm_fast.files import decode_bytes
from ccm_fast.images import save_picture
from ccm_fast.interop.compressai import accelerate

WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")
CODED = tiny.GOLDEN / "colour.ccm"


def run(*argv):
    try:
        return main([str(a) for a in argv])
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    "argv",
    [
        *(["encode", "a.png", "b.ccm", "--quality", v] for v in ("nan", "0", "inf", "good")),
        *(["encode", "a.png", "b.ccm", "--effort", v] for v in ("0", "10", "1.5", "most")),
        *(["encode", "a.png", "b.ccm", "--max-pixels", v] for v in ("-1", "many")),
        *(["decode", "a.ccm", "b.jpg", "--save-quality", v] for v in ("-5", "500")),
        ["profile", "a.ccm", "--repeats", "0"],
        *(["eval", "a", "-o", "b", "-Q", v] for v in ("nan", "9")),
        *(["eval", "a", "-o", "b", "-E", v] for v in ("0", "most")),
        *(["eval", "a", "-o", "b", option, "-1"] for option in ("--crops", "--jobs", "-t")),
        *(["train", "--out", "a", "--data", "b", "--lr", v] for v in ("nan", "-1")),
        *(["train", "--out", "a", "--data", "b", "--batch", v] for v in ("0", "two")),
        ["train", "--out", "a", "--data", "b", "--crop", "7"],
        ["train", "--out", "a", "--data", "b", "--ema", "2"],
    ],
)
def test_numbers_out_of_range_are_wrong_usage(argv, capsys):
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert "must be a" in err and repr(argv[-1]) in err


def test_every_number_of_the_training_has_its_limits():
    from ccm_fast.command.train import build_parser

    for action in build_parser()._actions:
        if isinstance(action.default, (int, float)) and not isinstance(action.default, bool):
            assert action.type(str(action.default)) == action.default
            with pytest.raises(Exception, match="must be a"):
                action.type("-1")


def test_errors_of_files_name_the_file(photos, tmp_path, capsys):
    picture = photos / "0.png"
    text, folder = tmp_path / "text.png", tmp_path / "empty"
    text.write_text("no picture")
    folder.mkdir()
    pt = tmp_path / "text.pt"
    pt.write_text("no checkpoint")
    archive = tmp_path / "zip.pt"
    archive.write_bytes(b"PK\3\4 and no more")
    train = ["train", "--quiet", "--stages", "hyper=1", "--crop", "64"]
    cases = [
        (text, ["encode", picture, text / "x.ccm", "-m", WEIGHTS]),  # where a folder is needed
        (text, ["encode", picture, f"{text}/", "-f", "-m", WEIGHTS]),
        (folder, ["encode", folder, tmp_path / "out", "-m", WEIGHTS]),  # holds no images
        (folder, ["decode", folder, tmp_path / "out", "-m", WEIGHTS]),
        (folder, ["decode", CODED, "--latents", folder, "-m", WEIGHTS]),
        ("/proc/x.ccm", ["encode", picture, "/proc/x.ccm", "-m", WEIGHTS]),
        (folder, ["info", folder]),
        (text, ["profile", text, "-m", WEIGHTS]),
        (CODED, ["profile", CODED]),  # of another model than the one that ships
        (folder, ["profile", folder, "-m", WEIGHTS]),
        (text, ["eval", photos, "-m", WEIGHTS, "-c", "none", "-o", text]),
        (text, ["freeze", text, tmp_path / "o.safetensors", "--data", photos]),
        (archive, ["freeze", archive, tmp_path / "o.safetensors", "--data", photos]),
        (tmp_path / "none.pt", ["freeze", tmp_path / "none.pt", tmp_path / "o.safetensors", "--data", photos]),
        (text, [*train, "--out", tmp_path / "run", "--data", text]),
        (text, [*train, "--out", text, "--data", photos]),
        (pt, [*train, "--out", tmp_path / "run", "--data", photos, "--init", pt]),
    ]
    for name, argv in cases:
        assert run(*argv) == 1, argv
        err = capsys.readouterr().err
        assert err.startswith("ccm-fast: ") and err.count("\n") == 1, (argv, err)
        assert str(name) in err and ".tmp" not in err, (argv, err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_training_without_a_gpu(photos, tmp_path, capsys):
    for device, said in (("cuda", "needs an NVIDIA GPU"), ("tpu", "unknown")):
        assert run("train", "--out", tmp_path / "run", "--data", photos, "--device", device) == 1
        assert said in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written(photos, tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir(0o500)
    assert run("encode", photos / "0.png", locked / "x.ccm", "-m", WEIGHTS) == 1
    assert f"{locked / 'x.ccm'}: Permission denied" in capsys.readouterr().err


def test_every_kind_of_picture_in_one_folder(tmp_path, capsys):
    pixels = tiny.photo(18, 23)
    image = Image.fromarray(pixels)
    folder = tmp_path / "mixed"
    folder.mkdir()
    kinds = {
        "one.png": (image.crop((0, 0, 1, 1)), "RGB"),
        "row.png": (image.crop((0, 0, 23, 1)), "RGB"),
        "grey16.png": (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "L"),
        "bits.png": (image.convert("1"), "L"),
        "palette.png": (image.quantize(16), "RGB"),
        "alpha.png": (Image.fromarray(np.dstack([pixels, pixels[..., 0]])), "RGBA"),
        "cmyk.jpg": (image.convert("CMYK"), "RGB"),
        "ünïcode 日本 \U0001f600.webp": (image, "RGB"),
    }
    for name, (kind, _) in kinds.items():
        kind.save(folder / name)
    image.save(folder / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    Image.fromarray(pixels[..., 0].astype(np.float32)).save(folder / "floats.tif")
    (folder / "cut.png").write_bytes((folder / "alpha.png").read_bytes()[:-300])
    (folder / "empty.png").touch()
    assert run("encode", folder, tmp_path / "coded", "-m", WEIGHTS) == 1
    *lines, summary = capsys.readouterr().err.splitlines()
    assert f"{len(kinds)} encoded, 0 skipped, 4 failed" in summary
    lines = sorted(lines)
    assert [line.split(": ")[1] for line in lines] == [
        str(folder / name) for name in ("cut.png", "empty.png", "floats.tif", "moving.gif")
    ]
    assert run("decode", tmp_path / "coded", tmp_path / "back", "-m", WEIGHTS) == 0
    for name, (kind, mode) in kinds.items():
        with Image.open((tmp_path / "back" / name).with_suffix(".png")) as back:
            assert back.size == kind.size and back.mode == mode, name
    assert len(os.listdir(tmp_path / "back")) == len(kinds)


X = torch.rand(2, 3, 20, 30)


def coded(**options):
    return compress(tiny.model(), X, **options)


def saved(file_format):
    picture = decode_bytes(CODED.read_bytes(), tiny.model()).picture
    save_picture(picture, io.BytesIO(), file_format)


@pytest.mark.parametrize(
    "call, error, said",
    [
        (lambda: compress("ccm-small", X), TypeError, "ccm_fast.load"),
        (lambda: compress(None, X), TypeError, "ccm_fast.load"),
        (lambda: compress(CrossChannelContextModel("ccm-small-128"), X), errors.NotFrozenError, "freeze"),
        (lambda: CrossChannelContextModel("large"), ValueError, "ccm-small"),
        (lambda: coded(quality="4"), TypeError, "quality must be a number"),
        (lambda: coded(quality=None), TypeError, "quality must be a number"),
        (lambda: coded(quality=float("nan")), ValueError, "1..8"),
        (lambda: coded(quality=[1, 2, 3]), ValueError, "3 qualities for 2 images"),
        (lambda: coded(effort=0), ValueError, "1..9"),
        (lambda: coded(threads=1.5), TypeError, "whole number"),
        (lambda: coded(threads=0), ValueError, "1..1024"),
        (lambda: coded(engine="gpu"), ValueError, "cpu, cuda, reference"),
        (lambda: decompress(tiny.model(), coded()), ValueError, r"strings must be \[\["),
        (lambda: decompress(tiny.model(), None), ValueError, r"strings must be \[\["),
        (lambda: decompress(tiny.model(), [["a"], ["b"]]), TypeError, "bytes"),
        (lambda: decompress(tiny.model(), coded()["strings"], 5), errors.DamagedError, "shape 5"),
        (lambda: encode_file(np.zeros((4, 4, 3), np.uint8), io.BytesIO(), 4, tiny.model()), TypeError, "Pillow image"),
        (lambda: encode_file(tiny.GOLDEN, io.BytesIO(), 4, tiny.model()), OSError, "directory"),
        (lambda: encode_file(Image.new("RGB", (0, 5)), io.BytesIO(), 4, tiny.model()), errors.ImageError, "no pixels"),
        (lambda: decode_file(b"CCM", None, tiny.model()), TypeError, "binary file"),
        (lambda: decode_file(io.StringIO("CCM"), None, tiny.model()), TypeError, "'rb'"),
        (lambda: decode_file(io.BytesIO(), None, tiny.model()), errors.TruncatedError, "empty"),
        (lambda: saved("BOGUS"), errors.ImageError, "PNG, JPEG"),
        (lambda: freeze(CrossChannelContextModel(tiny.CONFIG), ["photo.png"]), TypeError, "tensor or an array"),
        (lambda: accelerate(None), TypeError, "torch.nn.Module"),
    ],
)
def test_errors_in_python(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_a_file_error_has_the_name_that_was_given(tmp_path):
    target = tmp_path / "none" / "x.ccm"
    with pytest.raises(FileNotFoundError) as caught:
        encode_file(Image.fromarray(tiny.photo(5, 6)), target, 4, tiny.model())
    assert caught.value.filename == str(target.resolve()) and os.listdir(tmp_path) == []
