"""Decoding, files and their description in a process where importing torch raises."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

import ccm_fast
from ccm_fast import _backend, errors, files

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = tiny.GOLDEN / "tiny.safetensors"
COLOUR = tiny.GOLDEN / "colour.ccm"

# Python runs this module by itself before anything else.
SITE = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs Python without torch; returns the finished process."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}

    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    return run


def test_the_command_decodes(run, tmp_path):
    done = run("-m", "ccm_fast", "decode", "-m", WEIGHTS, COLOUR, tmp_path / "a.png", "--latents", tmp_path / "a.npy")
    assert (done.returncode, done.stderr) == (0, "")
    want = files.decode_bytes(COLOUR.read_bytes(), tiny.model())
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), want.picture.pixels)
    assert np.array_equal(np.load(tmp_path / "a.npy"), want.latents)


def test_the_command_encodes(run, tmp_path):
    Image.fromarray(tiny.photo(60, 90)).save(tmp_path / "a.png")
    done = run("-m", "ccm_fast", "encode", tmp_path / "a.png", tmp_path / "a.ccm", "--target-bpp", "1.5")
    assert (done.returncode, done.stderr) == (0, "")
    files.encode_file(tmp_path / "a.png", tmp_path / "b.ccm", model=ccm_fast.load("ccm-small"), target_bpp=1.5)
    assert (tmp_path / "a.ccm").read_bytes() == (tmp_path / "b.ccm").read_bytes()
    done = run("-m", "ccm_fast", "encode", "--effort", "4", tmp_path / "a.png", tmp_path / "c.ccm")
    assert done.returncode == 1 and "effort or tuning needs torch, which is not installed" in done.stderr


def test_commands_need_no_numpy(run, tmp_path):
    """Its import takes as long as decoding a small photograph does."""
    Image.fromarray(tiny.photo(60, 90)).save(tmp_path / "a.png")
    code = "import sys; from ccm_fast.command.main import main; print(main(sys.argv[1:]), 'numpy' in sys.modules)"
    for command in (["encode", "a.png", "a.ccm"], ["decode", "a.ccm", "b.png"], ["decode", "a.ccm", "b.jpg"]):
        done = run("-c", code, command[0], *(tmp_path / name for name in command[1:]))
        assert (done.stdout, done.stderr) == ("0 False\n", "")
    with Image.open(tmp_path / "b.png") as image:
        assert np.array_equal(np.asarray(image), files.decode_bytes((tmp_path / "a.ccm").read_bytes()).picture.pixels)


def test_the_command_describes(run):
    done = run("-m", "ccm_fast", "info", COLOUR)
    assert done.returncode == 0 and "53x37 colour, quality 4" in done.stdout
    done = run("-m", "ccm_fast", "env")
    assert done.returncode == 0 and f"kernels      {_backend.native().isa_list()}" in done.stdout


def test_the_command_tests_itself(run):
    done = run("-m", "ccm_fast", "selftest", "-m", WEIGHTS)
    assert (done.returncode, done.stderr) == (0, "") and "all checks passed" in done.stdout
    assert "the reference decoder agrees" in done.stdout


def test_what_needs_torch_says_so(run, tmp_path):
    done = run("-m", "ccm_fast", "decode", "--engine", "reference", "-m", WEIGHTS, COLOUR, tmp_path / "a.png")
    assert done.returncode == 1 and "needs torch" in done.stderr and "Traceback" not in done.stderr
    done = run("-c", "import ccm_fast; ccm_fast.compress")
    assert "BuildError: ccm_fast.compress needs torch, which is not installed" in done.stderr


def test_the_library_and_the_plugin(run, tmp_path):
    code = f"""
import ccm_fast, ccm_fast.interop.pillow, sys
from PIL import Image
codec = ccm_fast.Codec.load({str(WEIGHTS)!r})
data = open({str(COLOUR)!r}, "rb").read()
one, (two, three) = codec.decode(data), codec.decode([data, data])
assert one.shape == (37, 53, 3) and (one == two).all() and (one == three).all()
image = ccm_fast.decode_file({str(COLOUR)!r}, model=codec)
assert image.tobytes() == one.tobytes()
ccm_fast.interop.pillow.CcmImageFile.model = {str(WEIGHTS)!r}
with Image.open({str(COLOUR)!r}) as opened:
    assert opened.tobytes() == one.tobytes()
try:
    codec.decode(data[:-1])
except ccm_fast.BitstreamError as error:
    print(type(error).__name__)
assert not [name for name in sys.modules if name.partition(".")[0] == "torch"]
"""
    done = run("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "TruncatedError\n", "")


def test_codec_arguments():
    codec = ccm_fast.Codec.load(WEIGHTS)
    data = COLOUR.read_bytes()
    assert repr(codec).startswith("Codec(tiny, ")
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        ccm_fast.Codec.load("no-such-model")
    with pytest.raises(errors.ModelError, match="safetensors"):
        ccm_fast.Codec.load(COLOUR)
    with pytest.raises(errors.LimitError):
        codec.decode(data, max_pixels=53 * 37 - 1)
    with pytest.raises(errors.LimitError, match="max_pixels"):
        codec.decode(data, max_pixels=0)
    for threads, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="threads"):
            codec.decode(data, threads=threads)
    with pytest.raises(errors.WrongModelError):
        ccm_fast.Codec.load("ccm-small").decode(data)
