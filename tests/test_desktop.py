"""Looking at .ccm files: the viewer's page, thumbnails, what file managers and file(1) know; the manual."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image, ImageDraw

from ccm_fast import encode_file
from ccm_fast.command.graphics import smaller_losslessly
from ccm_fast.command.main import main

WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")
ROOT = Path(__file__).parents[1]
DESKTOP = ROOT / "desktop"


def run(*argv):
    return main([str(a) for a in argv])


def turned(path):
    """A picture of 40 x 60 that stands upright as 60 x 40."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(tiny.photo(60, 40))
    encode_file(_reopened(picture, exif), path, 4, tiny.model())


def _reopened(picture, exif):
    out = io.BytesIO()
    picture.save(out, "PNG", exif=exif)
    out.seek(0)
    return out


def test_view(tmp_path, monkeypatch, capsys):
    turned(tmp_path / "<b>.ccm")
    assert run("view", tmp_path, tiny.GOLDEN / "alpha.ccm", "-m", WEIGHTS, "-o", tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text()
    pictures = [Image.open(io.BytesIO(base64.b64decode(p))) for p in re.findall(r"base64,([^\"]+)", text)]
    assert [(p.size, p.mode) for p in pictures] == [((60, 40), "RGB"), ((37, 53), "RGBA")]  # both upright
    assert "&lt;b&gt;.ccm" in text and "<b>.ccm" not in text and "http" not in text
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("view", tiny.GOLDEN / "grey.ccm", tmp_path / "none.ccm", "-m", WEIGHTS) == 1
    out, err = capsys.readouterr()
    assert opened == [Path(out.strip()).as_uri()] and "none.ccm" in err and err.count("\n") == 1
    assert oct(os.stat(out.strip()).st_mode & 0o777) == "0o600"
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert run("view", tiny.GOLDEN / "grey.ccm", "-m", WEIGHTS) == 1
    assert "no browser" in capsys.readouterr().err


def test_thumbnails(tmp_path):
    turned(tmp_path / "a.ccm")
    (tmp_path / "out").touch()  # as the desktop's thumbnailers are called: a file without a suffix, which is there
    argv = next(x for x in (DESKTOP / "ccm-fast.thumbnailer").read_text().splitlines() if x.startswith("Exec=")).split()
    places = {"%s": "32", "%i": str(tmp_path / "a.ccm"), "%o": str(tmp_path / "out")}
    assert run(*(places.get(a, a) for a in argv[1:]), "-m", WEIGHTS) == 0
    with Image.open(tmp_path / "out") as image:
        assert (image.format, image.size) == ("PNG", (32, 21))


def test_text_and_graphics(tmp_path, capsys):
    """One line where a lossless file would be smaller; none for photographs."""
    text = Image.new("RGB", (400, 200), "white")
    draw = ImageDraw.Draw(text)
    for y in range(5, 190, 14):
        draw.text((5, y), "the quick brown fox jumps over the lazy dog " * 2, fill="black")
    text.save(tmp_path / "text.png")
    text.save(tmp_path / "text.bmp")
    text.save(tmp_path / "text.jpg")
    assert run("encode", tmp_path / "text.png", tmp_path / "t.ccm", "-m", WEIGHTS) == 0
    assert "a lossless WebP takes" in capsys.readouterr().err
    assert run("encode", tmp_path / "text.bmp", tmp_path / "b.ccm", "-m", WEIGHTS) == 0
    line = capsys.readouterr().err
    assert "a lossless WebP takes" in line and line.count("\n") == 1
    claimed = int(re.search(r"takes (\d+)", line)[1])
    out = io.BytesIO()
    text.save(out, "WEBP", lossless=True)
    assert out.tell() <= claimed < (tmp_path / "b.ccm").stat().st_size
    assert smaller_losslessly(tmp_path / "text.jpg", 10**6) is None
    assert smaller_losslessly(io.BytesIO((tmp_path / "text.png").read_bytes()), 10**6) is not None
    text.save(tmp_path / "best.webp", lossless=True, method=6, quality=100)
    assert "as WEBP it has" in smaller_losslessly(tmp_path / "best.webp", 10**6)
    assert smaller_losslessly(tmp_path / "text.bmp", 100) is None
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    for pixels in (noise, tiny.photo(64, 64)):
        for suffix in ("png", "bmp"):
            Image.fromarray(pixels).save(tmp_path / f"p.{suffix}")
            assert smaller_losslessly(tmp_path / f"p.{suffix}", 10**6) is None


@pytest.mark.skipif(not shutil.which("file"), reason="file(1) is not installed")
def test_file_knows_the_magic(tmp_path):
    (tmp_path / "text").write_text("CCM is a model of contexts")
    (tmp_path / "later").write_bytes(b"CCM\x13 with a bit that is not assigned")

    def describe(path, *options):
        argv = ["file", "-b", *options, "-m", DESKTOP / "ccm.magic", path]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    assert describe(tiny.GOLDEN / "colour.ccm") == "ccm_fast image data, version 1"
    assert describe(tiny.GOLDEN / "alpha.ccm") == "ccm_fast image data, version 1, with metadata or alpha"
    assert describe(tiny.GOLDEN / "alpha.ccm", "--mime-type") == "image/x-ccm"
    for name in ("text", "later"):
        assert "ccm_fast" not in describe(tmp_path / name)


@pytest.mark.skipif(not shutil.which("make") or not shutil.which("install"), reason="make or install is missing")
def test_make_desktop(tmp_path):
    argv = ["make", "desktop", f"PREFIX={tmp_path}", "COMMAND=/opt/ccm/bin/ccm-fast"]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    share = tmp_path / "share"
    assert "Exec=/opt/ccm/bin/ccm-fast decode" in (share / "thumbnailers/ccm-fast.thumbnailer").read_text()
    assert "TryExec=/opt/ccm/bin/ccm-fast\n" in (share / "applications/ccm-fast.desktop").read_text()
    if not shutil.which("update-mime-database") or not shutil.which("gio"):
        pytest.skip("no shared-mime-info or gio here")
    env = {**os.environ, "XDG_DATA_HOME": str(share), "HOME": str(tmp_path)}
    shutil.copy(tiny.GOLDEN / "alpha.ccm", tmp_path / "no_suffix")
    shutil.copy(tiny.GOLDEN / "alpha.ccm", tmp_path / "photo.ccm")
    for name in ("no_suffix", "photo.ccm"):
        argv = ["gio", "info", "-a", "standard::content-type", tmp_path / name]
        said = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
        assert "image/x-ccm" in said


@pytest.mark.slow
def test_manual(tmp_path):
    """The man page has every command and no line that roff would take for a request; completion knows the options."""
    pytest.importorskip("argparse_manpage", reason="not installed: pip install .[manual]")
    pytest.importorskip("shtab", reason="not installed: pip install .[manual]")
    # The recipe as it is without the settings of a make that runs the tests.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    said = subprocess.run(["make", "-n", "manual"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    recipe = said.stdout
    run_here = recipe[recipe.index("mkdir") :].replace(".venv-test/bin/", f"{Path(sys.executable).parent}/")
    run_here = run_here.replace("build/share", str(tmp_path)).replace("\\\n", "")
    subprocess.run(["bash", "-e"], input=run_here, cwd=ROOT, check=True, text=True, capture_output=True)
    page = (tmp_path / "man/man1/ccm-fast.1").read_text()
    for name in ("encode", "decode", "view", "train", "eval", "freeze"):
        assert f"ccm\\-fast {name}" in page
    assert "quantization\\-noise" in page and not re.findall(r"^\.ccm", page, re.M)
    completion = tmp_path / "bash-completion/completions/ccm-fast"
    line = (
        f"source {completion}; COMP_WORDS=(ccm-fast encode --sk); COMP_CWORD=2; _shtab_ccm_fast; echo ${{COMPREPLY[@]}}"
    )
    assert subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout.split() == ["--skip-existing"]
    assert "_ccm-fast" in {p.name for p in (tmp_path / "zsh/site-functions").iterdir()}
