"""The codec without torch beside the one of torch's modules: the same latents, the same pixels."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import ccm_fast
from ccm_fast import _backend, files, weights
from ccm_fast import _native as native
from ccm_fast.images import Picture
from ccm_fast.stream.container import FILTER
from ccm_fast.tiles import TILE_PIXELS, margin, plan_tiles

ROOT = Path(__file__).resolve().parents[2]
NO_LIMIT = 0


def pair(codec, model, height, width, quality, grey=False, threads=1, seed=0):
    """The pixels of both ways, of a picture that one of them has encoded; latents are compared here."""
    pixels = tiny.photo(height, width, seed)
    data = files.encode_picture(Picture(pixels[..., 0] if grey else pixels), quality, model, effort=1)
    want = files.decode_bytes(data, model, threads=threads)
    ((got, latents, seconds),) = codec.decode([native.File(data, NO_LIMIT)], threads)
    assert latents.format == "h" and np.array_equal(latents, want.latents)
    assert set(seconds) == {"z", "h_s", "entropy", "g_s"}
    return np.asarray(got), want.picture.pixels


def opened(path, **options):
    return native.Codec.open(str(path), **{"threads": 1, "float_transforms": False, "isa": "", **options})


@pytest.fixture(scope="module")
def small():
    return opened(weights.find("ccm-small")), ccm_fast.load("ccm-small")


@pytest.fixture(scope="module")
def little():
    return opened(tiny.GOLDEN / "tiny.safetensors"), tiny.model()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size, quality", [((1, 1), 8), ((17, 33), 1), ((200, 312), 4.3), ((96, 64), 6.53125)])
def test_pixels_are_those_of_the_modules(small, little, size, quality, grey, threads):
    for codec, model in (small, little):
        got, want = pair(codec, model, *size, quality, grey, threads)
        assert got.shape == want.shape and got.dtype == np.uint8 and np.array_equal(got, want)


def test_the_limit_holds_without_python(monkeypatch):
    """CCM_FAST_ISA is read by the library itself; a name that is given goes before it."""
    monkeypatch.setenv("CCM_FAST_ISA", "z80")
    with pytest.raises(ValueError, match="'z80' is not usable"):
        opened(tiny.GOLDEN / "tiny.safetensors")
    opened(tiny.GOLDEN / "tiny.safetensors", isa="scalar")


@pytest.mark.parametrize("quality", [1, 5, 8])
def test_plans_of_version_3(tmp_path, quality):
    """Through a weights file; and the golden file, in any number of threads."""
    weights.save(tiny.skipping(), tmp_path / "skipping.safetensors")
    codec = opened(tmp_path / "skipping.safetensors")
    got, want = pair(codec, tiny.skipping(), 70, 90, quality)
    assert np.array_equal(got, want)
    data = (tiny.GOLDEN / "colour3.ccm").read_bytes()
    for threads in (1, 3):
        ((_, latents, _),) = codec.decode([native.File(data, NO_LIMIT)], threads)
        assert np.array_equal(latents, files.decode_bytes(data, tiny.skipping(), engine="reference").latents)


@pytest.mark.slow
def test_more_than_a_tile(little):
    codec, model = little
    height, width = 2703, 3210
    assert height * width > TILE_PIXELS
    assert len(plan_tiles(-(-height // 16), -(-width // 16), margin(model.g_s, "synthesis"), TILE_PIXELS // 256)) > 1
    got, want = pair(codec, model, height, width, 5)
    assert np.array_equal(got, want)


def test_sixteen_bits(little):
    codec, model = little
    data = files.encode_picture(Picture(tiny.photo(50, 70)), 6, model)
    file = native.File(data, NO_LIMIT)
    ((eight, _, _),) = codec.decode([file], 1)
    ((deep, _, _),) = codec.decode([file], 1, bits=16)
    eight, deep = np.asarray(eight), np.asarray(deep)
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - eight).max() <= 0.5 + 1e-3
    assert len(np.unique(deep)) > 256
    with pytest.raises(ValueError, match="bits"):
        codec.decode([file], 1, bits=10)


def test_several_at_once(little):
    codec, model = little
    pictures = [tiny.photo(h, w, k) for k, (h, w) in enumerate([(20, 30), (64, 16), (5, 90), (33, 33), (48, 48)])]
    data = [files.encode_picture(Picture(p), 3 + k / 2, model, effort=1) for k, p in enumerate(pictures)]
    found = codec.decode([native.File(d, NO_LIMIT) for d in data], 3)
    for d, (pixels, latents, _) in zip(data, found, strict=True):
        ((alone, same, _),) = codec.decode([native.File(d, NO_LIMIT)], 1)
        assert np.array_equal(pixels, alone) and np.array_equal(latents, same)


@pytest.mark.slow
@pytest.mark.parametrize("isa", _backend.load().ops.isa_list().split(","))
def test_every_instruction_set(isa):
    """In a process of its own: the transforms look at CCM_FAST_ISA once. Integers and floats."""
    code = (
        "import numpy as np, test_native_decode as t; from ccm_fast import precision, weights\n"
        "for kind in ('int16', 'float32'):\n"
        "    precision._precision = kind\n"
        f"    codec = t.opened(weights.find('ccm-small'), float_transforms=kind == 'float32', isa={isa!r})\n"
        "    got, want = t.pair(codec, weights.load('ccm-small'), 120, 150, 4)\n"
        "    print(np.array_equal(got, want), t.native.transform_isa())"
    )
    env = os.environ | {"CCM_FAST_ISA": isa}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/native")])
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    transforms_isa = "avx512vnni" if isa == "avx512amx" else isa  # tiles are for bytes
    assert done.stdout.split() == ["True", transforms_isa] * 2


def test_an_unknown_instruction_set():
    with pytest.raises(ValueError, match="no-such"):
        opened(tiny.GOLDEN / "tiny.safetensors", isa="no-such")


def test_models_that_are_closed_leave_others_whole():
    data = (tiny.GOLDEN / "colour.ccm").read_bytes()
    first, second = (ccm_fast.Codec.load(tiny.GOLDEN / "tiny.safetensors") for _ in range(2))
    wanted = first.decode(data)
    for _ in range(3):  # a later one may lie where an earlier one was, beside those that stay
        del first
        first = ccm_fast.Codec.load(tiny.GOLDEN / "tiny.safetensors")
        assert np.array_equal(second.decode(data), wanted) and np.array_equal(first.decode(data), wanted)
        first, second = second, first


def test_fingerprints(small, little):
    for codec, model in (small, little):
        assert codec.fingerprint == model.frozen.fingerprint
        assert codec.groups == len(model.frozen.plan.groups)


def test_golden_files(little):
    codec, model = little
    for path in sorted(tiny.GOLDEN.glob("*[!3].ccm")):  # of another model
        data = path.read_bytes()
        file = native.File(data, NO_LIMIT)
        want = files.decode_bytes(data, model)
        ((pixels, latents, _),) = codec.decode([file], 2)
        assert np.array_equal(pixels, want.picture.pixels) and np.array_equal(latents, want.latents)
        # The pixels have gone through a file's filter, which is no chunk of the picture.
        assert {kind: data for kind, data in file.chunks.items() if kind != FILTER} == want.picture.chunks
