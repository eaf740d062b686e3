"""ccm.h: the example in C, damaged files and weights, and the same under AddressSanitizer and UBSan."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sanitized
import tiny
from PIL import Image

from ccm_fast import files

ROOT = Path(__file__).resolve().parents[2]
CC = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
WEIGHTS = tiny.GOLDEN / "tiny.safetensors"
LIBRARY = ROOT / "ccm_fast/libccm.so"

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="needs the library in the source tree")


def run(*command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    program = tmp_path_factory.mktemp("example") / "decode"
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{ROOT / 'csrc'}"]
    subprocess.run([CC, *flags, ROOT / "examples/decode.c", LIBRARY, "-o", program], check=True)
    return program


@pytest.mark.parametrize("name", ["colour", "grey", "pixel"])
def test_the_example(example, name, tmp_path):
    source = tiny.GOLDEN / f"{name}.ccm"
    done = run(example, WEIGHTS, source, tmp_path / "a.ppm")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a.ppm") as image:
        assert np.array_equal(np.asarray(image), files.decode_bytes(source.read_bytes(), tiny.model()).picture.pixels)


def test_the_example_says_what_is_wrong(example, tmp_path):
    source = tiny.GOLDEN / "colour.ccm"
    (tmp_path / "cut.ccm").write_bytes(source.read_bytes()[:-3])
    done = run(example, WEIGHTS, tmp_path / "cut.ccm", tmp_path / "a.ppm")
    assert (done.returncode == 1 and "CCM_TRUNCATED" in done.stderr) or "CCM_DAMAGED" in done.stderr
    done = run(example, tmp_path / "none", source, tmp_path / "a.ppm")
    assert done.returncode == 1 and "CCM_FILE" in done.stderr and "No such file" in done.stderr
    done = run(example, source, source, tmp_path / "a.ppm")
    assert done.returncode == 1 and "CCM_BAD_MODEL" in done.stderr


def test_the_header_is_c_and_cpp(tmp_path):
    for compiler, language, standard in ((CC, "c", "c99"), (CXX, "c++", "c++17")):
        source = tmp_path / f"a.{language[0]}"
        source.write_text("#include <ccm.h>\nint main(void) { return ccm_version()[0] == 0; }\n")
        flags = ["-x", language, f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{ROOT / 'csrc'}"]
        subprocess.run([compiler, *flags, "-fsyntax-only", source], check=True)


def damage(program, flips):
    done = run(program, WEIGHTS, tiny.GOLDEN / "alpha.ccm", flips)
    assert done.returncode == 0, done.stderr[-4000:]
    word, *counts = done.stdout.split()
    seen = dict(count.split("=") for count in counts)
    assert word == "ok"
    assert set(seen) >= {"CCM_NOT_CCM", "CCM_TRUNCATED", "CCM_DAMAGED", "CCM_WRONG_MODEL", "CCM_BAD_MODEL"}


@pytest.mark.slow
def test_damage(tmp_path):
    program = tmp_path / "decode_check"
    flags = ["-std=c++17", "-O1", f"-I{ROOT / 'csrc'}"]
    subprocess.run([CXX, *flags, ROOT / "tests/cpp/decode_check.cpp", LIBRARY, "-o", program], check=True)
    damage(program, 2000)


@pytest.mark.slow
@pytest.mark.sanitized
def test_damage_sanitized():
    damage(sanitized.program("decode", "address"), 300)
