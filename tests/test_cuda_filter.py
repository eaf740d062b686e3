"""The picture filter's kernel (csrc/transforms/cuda) on the emulator: values of the text and of torch's operators, and
files through everything that uses it.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

import ccm_fast
from ccm_fast import Codec, _backend, _fakes, picture_filter, tensor_batches, tensor_files
from ccm_fast.bench import stages
from ccm_fast.picture_filter import PictureFilter, levels_of, records_of
from ccm_fast.stream.container import FILTER, parse_container, write_container

sys.path.insert(0, str(Path(__file__).resolve().parent / "emu"))
import build

FLAVOUR = os.environ.get("CCM_EMU_FLAVOUR", "plain")
BOUNDS = (256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11585, 16384, 23170, 32768)
# Batch, height, width, colours, classes: one pixel, within a tile, its edges, several tiles, odd sides.
CASES = [(1, 1, 1, 3, 16), (2, 16, 64, 3, 8), (1, 17, 65, 3, 5), (1, 33, 131, 1, 1), (2, 3, 2, 1, 8), (1, 1, 67, 3, 1)]
CASES += [(1, 40, 1, 3, 2), (1, 20, 70, 3, 3), (1, 20, 70, 1, 4), (1, 20, 70, 3, 6), (1, 20, 70, 1, 7)]


def run(flavour, case, fault=0, **env):
    options = {"TSAN_OPTIONS": "exitcode=66:halt_on_error=1", "ASAN_OPTIONS": "exitcode=67:detect_leaks=0", **env}
    command = [build.build_filter(flavour, fault), *case]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=240, env={**os.environ, **options}
    )


@pytest.mark.parametrize("case", CASES)
def test_the_text(case):
    done = run(FLAVOUR, case, CCM_EMU_SEED="5")
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stdout + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.sanitized
@pytest.mark.parametrize("flavour", ["asan", "tsan"])
def test_the_kernel_is_clean(flavour):
    for case in CASES if flavour == "asan" else ((1, 1, 1, 3, 16), (2, 5, 67, 3, 8), (1, 17, 3, 1, 2)):
        done = run(flavour, case, CCM_EMU_SEED="2")
        assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stdout + done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.sanitized
def test_a_planted_fault_is_seen():
    """No barrier between second differences and their sums."""
    done = run("tsan", (1, 17, 65, 3, 8), fault=12)
    assert done.returncode == 66 and "data race" in done.stderr and "picture_filter_cuda.cu" in done.stderr


def made(rng, colours, classes):
    bounds = tuple(sorted(rng.choice(BOUNDS, classes - 1, replace=False).tolist()))
    weights = rng.normal(0, 0.02, (classes, colours, 6 * colours)).astype(np.float32)
    return PictureFilter(bounds, torch.from_numpy(weights))


def grain(rng, batch, height, width):
    """Pixels of all kinds of activity, in [0, 1]."""
    strength = 2.0 ** -(np.arange(width) // 8 % 9)
    return torch.from_numpy((0.5 + (rng.random((batch, 3, height, width)) - 0.5) * strength).astype(np.float32))


def by_torch(pixels, found):
    """uint8 [3, H, W] and float [3, H, W] of pixels [3, H, W]."""
    colours = found.weights.shape[1]
    out = torch.cat([piece for _, piece in found.bands(levels_of(pixels[:colours]))], 1).expand(3, -1, -1)
    return out.mul(255).round().to(torch.uint8), out


def check(samples, expected):
    """Equal, but for halves that the order of sums decides."""
    off = (samples.int() - expected.int()).abs()
    assert off.max() <= 1 and (off > 0).sum() <= 2 + off.numel() // 1000


@pytest.mark.parametrize("size", [(1, 1), (9, 67), (35, 40)])
def test_a_batch_of_different_filters(emulated_ops, size):
    rng = np.random.default_rng(3)
    filters = [made(rng, 3, 4), None, made(rng, 1, 8), made(rng, 3, 1)]
    pixels, records = grain(rng, len(filters), *size), torch.from_numpy(records_of(filters))
    pixels[1] = pixels[1].round(decimals=1)
    expected = [pixels[k].mul(255).round().to(torch.uint8) if f is None else by_torch(pixels[k], f)[0]
                for k, f in enumerate(filters)]  # fmt: skip
    memory = [pixels, pixels.contiguous(memory_format=torch.channels_last)]
    memory.append(torch.nn.functional.pad(pixels, (2, 5, 1, 3), value=9.0)[..., 1:-3, 2:-5])  # as g_s is cut
    for given in memory:
        out = torch.full((len(filters), 3, *size), 77, dtype=torch.uint8)
        emulated_ops.picture_filter(given, records, out)
        assert torch.equal(out[1], expected[1])
        for samples, wanted in zip(out, expected, strict=True):
            check(samples, wanted)


@pytest.mark.parametrize("colours", [1, 3])
def test_levels_and_floats(emulated_ops, colours):
    """What comes in tiles has been rounded before, and 16-bit samples are rounded afterwards."""
    rng = np.random.default_rng(4)
    (pixels,), found = grain(rng, 1, 21, 70), made(rng, colours, 8)
    records = torch.from_numpy(records_of([found]))
    out = torch.empty(1, colours, 21, 70)
    emulated_ops.picture_filter(levels_of(pixels[None, :colours]), records, out)
    torch.testing.assert_close(out[0], by_torch(pixels, found)[1][:colours], rtol=0, atol=1e-6)
    out2 = torch.empty_like(out)
    emulated_ops.picture_filter(pixels[None], records, out2)
    assert torch.equal(out, out2)
    # Without a filter: what is there.
    none = torch.zeros_like(records)
    emulated_ops.picture_filter(pixels[None], none, out)
    torch.testing.assert_close(out[0], pixels[:colours], rtol=0, atol=1e-6)
    levels = torch.empty(1, 3, 21, 70, dtype=torch.uint8)
    emulated_ops.picture_filter(levels_of(pixels[None, :colours]), none, levels)
    assert torch.equal(levels[0], levels_of(pixels[:colours]).div(32).round().to(torch.uint8).expand(3, -1, -1))


def test_records_that_nobody_would_write(emulated_ops):
    pixels, records = torch.rand(1, 1, 5, 6), torch.full((1, 881), 3.0)
    for classes in (-5.0, 0.0, 99.0, float("nan"), float("inf")):
        records[0, 1] = classes
        emulated_ops.picture_filter(pixels.mul(8160).short(), records, torch.empty(1, 3, 5, 6))


def test_what_is_refused(emulated_ops):
    good = {"pixels": torch.rand(2, 3, 4, 5), "filters": torch.zeros(2, 881), "out": torch.empty(2, 3, 4, 5)}
    bad = [
        {"pixels": torch.rand(2, 2, 4, 5)},
        {"pixels": torch.rand(2, 3, 4, 5).double()},
        {"filters": torch.zeros(2, 880)},
        {"filters": torch.zeros(1, 881)},
        {"out": torch.empty(2, 3, 5, 4)},
        {"out": torch.empty(2, 4, 4, 5)},
        {"out": torch.empty(2, 3, 4, 5, dtype=torch.float64)},
        {"out": torch.empty(2, 3, 5, 4).mT},
    ]
    emulated_ops.picture_filter(**good)
    for one in bad:
        with pytest.raises(RuntimeError, match="ccm_fast: "):
            emulated_ops.picture_filter(**{**good, **one})


def test_a_graph_holds_it(emulated_ops):
    """Nothing waits; replayed on other pixels and with another filter, it filters these."""
    rng = np.random.default_rng(6)
    pixels, out = grain(rng, 1, 12, 30), torch.zeros(1, 3, 12, 30, dtype=torch.uint8)
    records = torch.zeros(1, 881)
    emulated_ops.graph_capture(torch.zeros(1))
    emulated_ops.picture_filter(pixels, records, out)
    graph = emulated_ops.graph_end(torch.zeros(1))
    assert not out.any()
    for colours in (3, 1):
        found = made(rng, colours, 3)
        pixels.copy_(grain(rng, 1, 12, 30))
        records.copy_(torch.from_numpy(records_of([found])))
        emulated_ops.graph_replay(graph)
        check(out[0], by_torch(pixels[0], found)[0])


@pytest.mark.slow
def test_opcheck(emulated_ops):
    with torch.library._scoped_library("ccm_fast_emu", "FRAGMENT") as scope:
        torch.library.register_fake("ccm_fast_emu::picture_filter", _fakes._nothing, lib=scope)
        arguments = torch.rand(1, 3, 4, 5), torch.zeros(1, 881), torch.empty(1, 3, 4, 5, dtype=torch.uint8)
        torch.library.opcheck(emulated_ops.picture_filter.default, arguments)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(emulated_ops, monkeypatch):
    """From now on pictures are filtered by the emulated kernel; the calls are counted."""
    native, calls = _backend.load(), []

    class Operators:
        def __getattr__(self, name):
            if name == "picture_filter":
                calls.append(name)
                return emulated_ops.picture_filter
            return getattr(native.ops, name)

    monkeypatch.setattr(_backend, "load", lambda: SimpleNamespace(ops=Operators(), rans=native.rans))
    for module in (picture_filter, tensor_files, tensor_batches, stages):
        monkeypatch.setattr(module, "has_kernel", lambda *_: True)
    return calls


def filtered_files():
    """The golden file with a filter, the same without, and a grey one with a filter of one class."""
    data = (tiny.GOLDEN / "filter2.ccm").read_bytes()
    grey = parse_container((tiny.GOLDEN / "grey2.ccm").read_bytes())
    # Step 8, one class, Rice parameter 0; six coefficients: 2, -1, 1, 0, 1, -1.
    bits = [1, 1, 0] + [0] * 18 + [1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0]
    chunk = sum(bit << k for k, bit in enumerate(bits)).to_bytes(-(-len(bits) // 8), "little")
    chunks = {kind: content for kind, content in grey.chunks.items() if kind != FILTER}
    return [
        data,
        write_container(parse_container(data).packet, {}),
        write_container(grey.packet, {**chunks, FILTER: chunk}),
    ]


def test_files_through_the_kernel(kernel, monkeypatch):
    codec, model = Codec.load(tiny.GOLDEN / "tiny.safetensors", threads=1), tiny.model()
    for data in filtered_files():
        expected = codec.decode(data)
        decoded = ccm_fast.files.decode_bytes(data, model, threads=1).picture.pixels
        check(torch.from_numpy(decoded), torch.from_numpy(expected))
        deep = ccm_fast.files.decode_bytes(data, model, threads=1, depth=16).picture.pixels
        assert abs(deep / 257 - expected).max() < 0.6
    assert len(kernel) == 4
    files = filtered_files()
    for tile_pixels in (1 << 30, 1):  # whole pictures, then one by one
        monkeypatch.setattr(tensor_batches, "TILE_PIXELS", tile_pixels)
        kernel.clear()
        pictures = ccm_fast.decode_batch([files[0], files[1], files[0]], model=model, threads=1, engine="cpu")
        for data, found in zip([files[0], files[1], files[0]], pictures, strict=True):
            check(found.permute(1, 2, 0), torch.from_numpy(codec.decode(data)))
        assert len(kernel) == (1 if tile_pixels > 1 else 3)
    (grey,) = ccm_fast.decode_batch([files[2]], model=model, threads=1, engine="cpu")
    check(grey, torch.from_numpy(codec.decode(files[2])).expand(3, -1, -1))


def test_profiled_files_are_filtered(kernel, tmp_path):
    codec = Codec.load(tiny.GOLDEN / "tiny.safetensors", threads=1)
    for calls, data in zip((1, 0), filtered_files(), strict=False):
        kernel.clear()
        path = tmp_path / "file.ccm"
        path.write_bytes(data)
        decoder = stages.Decoder(str(path), tiny.model(), torch.device("cpu"), 1, None)
        decoder.run()
        check(decoder.expected[1], torch.from_numpy(codec.decode(data)))
        assert len(kernel) == calls
