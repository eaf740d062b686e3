"""The demo, with the tiny model."""

import pytest
import tiny
from PIL import Image

from ccm_fast.command import demo
from ccm_fast.command.main import main


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    Image.fromarray(tiny.photo(60, 80)).save(tmp_path / "p.png")
    argv = [
        "demo",
        str(tmp_path / "p.png"),
        "--model",
        str(tiny.GOLDEN / "tiny.safetensors"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(argv) == 0
    assert "identical, bit for bit" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["p.ccm", "p.png", "side_by_side.png"]
    with Image.open(tmp_path / "out" / "side_by_side.png") as sheet:
        assert sheet.size == (240, 88)


def test_a_photograph_is_found():
    with Image.open(demo.find_photograph()) as image:
        assert min(image.size) >= 256


def test_jpeg_of_size():
    image = Image.fromarray(tiny.photo(100, 100))
    assert 1500 < len(demo.jpeg_of_size(image, 2500)) <= 2500
    assert len(demo.jpeg_of_size(image, 10)) < 1500


def test_errors_are_one_line(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "missing.png")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
