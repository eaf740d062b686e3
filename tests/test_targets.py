"""Files of a size, or of a PSNR, that was asked for."""

import io
import json

import numpy as np
import pytest
import tiny
from PIL import Image

from ccm_fast import TargetError, decode_file, encode_file, tensor_files
from ccm_fast.command.main import main
from ccm_fast.effort.targets import LAST_CODE, Target, find_code
from ccm_fast.psnr import psnr as picture_psnr


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(tiny.photo(160, 208, 3))


def psnr(image, data):
    error = np.asarray(image, np.float64) - np.asarray(decode_file(io.BytesIO(data)), np.float64)
    return 10 * np.log10(255**2 / np.square(error).mean())


def encoded(image, **options):
    out = io.BytesIO()
    report = encode_file(image, out, **options)
    assert report["bytes"] == len(out.getvalue())
    return out.getvalue(), report


@pytest.mark.parametrize("share", [0.6, 1.3])
def test_sizes(image, share, monkeypatch):
    plain, _ = encoded(image)
    encodings = []
    inner = tensor_files.encode_packets
    monkeypatch.setattr(tensor_files, "encode_packets", lambda *a, **k: encodings.append(a[3]) or inner(*a, **k))
    wanted = int(share * len(plain))
    data, report = encoded(image, target_size=wanted)
    assert len(data) <= wanted
    larger, _ = encoded(image, quality=report["quality"] + 1 / 32)
    assert len(data) >= 0.98 * wanted or len(larger) > wanted
    assert len(encodings) <= 6
    assert data == encoded(image, quality=report["quality"])[0]
    bpp = 8 * wanted / (160 * 208)
    assert encoded(image, target_bpp=bpp)[0] == data


@pytest.mark.parametrize("wanted", [30.5, 33.5])
def test_psnr(image, wanted):
    data, report = encoded(image, target_psnr=wanted)
    assert wanted <= psnr(image, data) <= wanted + 0.1
    if report["quality"] > 1:
        worse, _ = encoded(image, quality=report["quality"] - 1 / 16)
        assert psnr(image, worse) < wanted


def test_grey_and_16_bits_count_in_8_bit_steps():
    grey = np.asarray(Image.fromarray(tiny.photo(48, 64)).convert("L"))
    deep = grey.astype(np.uint16) * 257
    decoded = np.clip(grey.astype(int) + 5, 0, 255).astype(np.uint8)
    assert picture_psnr(deep, decoded) == pytest.approx(picture_psnr(grey, decoded))
    assert picture_psnr(grey, grey) > 100


def test_what_cannot_be_met(image):
    with pytest.raises(TargetError, match=r"200 bytes: quality 1 takes \d+ bytes"):
        encoded(image, target_size=200)
    with pytest.raises(TargetError, match=r"70 dB: quality 8 gives \d+\.\d\d dB"):
        encoded(image, target_psnr=70.0)
    assert encoded(image, target_size=10**9)[1]["quality"] == 8
    assert encoded(image, target_psnr=1.0)[1]["quality"] == 1


@pytest.mark.parametrize("given", [{}, {"size": 100, "psnr": 30.0}, {"size": 0}, {"bpp": float("nan")}])
def test_targets_that_make_no_sense(given):
    with pytest.raises(ValueError, match="target"):
        Target(**given)


@pytest.mark.parametrize("at_least", [False, True])
@pytest.mark.parametrize(
    "curve", [lambda c: 8 + 0.01 * c, lambda c: 8 + 3e-5 * c**2, lambda c: 8 + (c > 100) + 1e-9 * c]
)
def test_the_search_ends_where_it_should(curve, at_least):
    asked = []

    def measure(code):
        assert 0 <= code <= LAST_CODE and code not in asked
        asked.append(code)
        return curve(code)

    for target in np.linspace(7.9, 10.5, 27):
        asked.clear()
        code = find_code(measure, target, 1e-3, 0.01, 96, at_least=at_least)
        right = [c for c in range(LAST_CODE + 1) if (curve(c) >= target if at_least else curve(c) <= target)]
        if not right:
            assert code is None
            continue
        nearest = curve(min(right) if at_least else max(right))
        assert code in right and (code in (min(right), max(right)) or abs(curve(code) - target) <= 1e-3)
        assert abs(curve(code) - target) <= max(1e-3, abs(nearest - target)) + 1e-12
        assert len(asked) <= 12


def test_the_command(image, tmp_path, capsys):
    image.save(tmp_path / "a.png")
    assert main(["encode", str(tmp_path / "a.png"), str(tmp_path / "a.ccm"), "--target-size", "3000", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0.98 * 3000 <= report["bytes"] == (tmp_path / "a.ccm").stat().st_size <= 3000
    with pytest.raises(SystemExit):
        main(["encode", "a.png", "a.ccm", "--target-size", "3000", "--target-psnr", "30"])
    assert "not allowed with" in capsys.readouterr().err


def test_pillow_saves_to_a_target(image):
    import ccm_fast.interop.pillow  # noqa: F401  (registers the format)

    out = io.BytesIO()
    image.save(out, "CCM", target_size=3000)
    assert 0.98 * 3000 <= len(out.getvalue()) <= 3000
