"""What ``ccm-fast eval`` measures, and that it can be stopped and taken up again."""

import json
import math
import shutil
import sys
import time

import numpy as np
import pytest
import tiny
from PIL import Image

from ccm_fast.command.main import main
from ccm_fast.errors import ImageError
from ccm_fast.evaluate import codecs, measure, metrics


class Fake:
    """A codec that counts: keeps `setting` bits of every sample; fails where it is told to."""

    def __init__(self, name="fake", version="1", fails=lambda setting: None):
        self.encoded = 0

        def encode(pixels, setting):
            fails(setting)
            self.encoded += 1
            return (pixels >> (8 - int(setting))).tobytes()[: 100 * int(setting)] + pixels.tobytes()

        def decode(data, size):
            pixels = np.frombuffer(data[-3 * size[0] * size[1] :], np.uint8).reshape(*size, 3)
            kept = (len(data) - pixels.size) // 100
            return pixels >> (8 - kept) << (8 - kept)

        self.codec = codecs.Codec(
            name, "Fake & Co", "<keeps bits>", version, (2, 3, 4, 5), (1, 2, 3, 4), encode, decode
        )


@pytest.fixture
def fake(monkeypatch):
    def register(**options):
        made = Fake(**options)
        monkeypatch.setitem(codecs.CODECS, made.codec.name, lambda: made.codec)
        codecs.classical.cache_clear()
        return made

    yield register
    codecs.classical.cache_clear()


def missing():
    raise codecs.CodecMissingError("it is not installed (pip install <it>)")


def test_psnr_and_ms_ssim():
    a = tiny.photo(170, 180)
    assert metrics.psnr(a, a) == math.inf and metrics.ms_ssim(a, a) == pytest.approx(1, abs=1e-6)
    b = a.copy()
    b[..., 0] ^= 1  # one level in one of three channels
    assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(3 * 255**2))
    noisy = np.clip(a.astype(int) + np.random.default_rng(0).integers(-40, 41, a.shape), 0, 255).astype(np.uint8)
    assert 0.5 < metrics.ms_ssim(a, noisy) < metrics.ms_ssim(a, b) < 1
    looks = [metrics.ssimulacra2(a, other) for other in (a, b, noisy)]
    assert looks[0] == pytest.approx(100) and looks[0] > looks[1] > looks[2]
    assert metrics.ssimulacra2(a[:7], b[:7]) is None
    assert metrics.ms_ssim(a[:160], b[:160]) is None and metrics.ms_ssim(a[:161], b[:161]) is not None


@pytest.mark.skipif(not shutil.which("butteraugli_main"), reason="no butteraugli_main (Debian: libjxl-devtools)")
def test_butteraugli():
    a = tiny.photo(96, 120)
    noisy = [
        np.clip(a.astype(int) + np.random.default_rng(0).integers(-n, n + 1, a.shape), 0, 255).astype(np.uint8)
        for n in (2, 40)
    ]
    found = [metrics.butteraugli(a, other) for other in (a, *noisy)]
    assert found[0] == 0 < found[1] < 1 < found[2]
    assert metrics.butteraugli(a[:7], a[:7]) is None and len(metrics.looks_versions()) == 2


def test_butteraugli_is_what_its_program_says(photos, tmp_path, monkeypatch):
    """By a stand-in: what it is given, what is made of its words, what a failure and a missing program do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    pixels = tiny.photo(30, 20)
    assert metrics.butteraugli(pixels, pixels) is None and len(metrics.looks_versions()) == 1
    program = tmp_path / "butteraugli_main"
    lines = (
        f"#!{sys.executable}",
        "import sys",
        "from PIL import Image",
        "first, second = (Image.open(p).getpixel((3, 5))[0] for p in sys.argv[1:])",
        "print('9.5', f'3-norm: {second - first}.25', sep='\\n')",
        "sys.exit(first > 100)",
    )
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    pixels[5, 3] = 10, 0, 0
    other = pixels.copy()
    other[5, 3] = 17, 0, 0
    assert metrics.butteraugli(pixels, other) == 7.25 and len(metrics.looks_versions()) == 2
    (source,) = measure.sources([photos / "0.png"], {".png"})
    with_it = measure.key_of(codecs.classical("jpeg"), source, 60)
    other[5, 3] = 200, 0, 0
    with pytest.raises(RuntimeError, match="butteraugli_main left with 1"):
        metrics.butteraugli(other, pixels)
    program.unlink()
    assert measure.key_of(codecs.classical("jpeg"), source, 60) != with_it  # measured again where it comes or goes


def installed():
    found = []
    for name in codecs.CODECS:
        try:
            found.append(codecs.classical(name))
        except codecs.CodecMissingError as error:
            assert "install" in str(error) or "built without" in str(error)
    return found


def test_codecs_there_and_back():
    pixels = tiny.photo(67, 91, 3)  # odd: chroma planes and blocks do not fit
    names = set()
    for codec in installed():
        names.add(codec.name)
        sizes, quality = [], []
        for setting in (codec.ladder[0], codec.ladder[-2]):
            data = codec.encode(pixels, setting)
            decoded = codec.decode(data, (67, 91))
            assert decoded.dtype == np.uint8 and decoded.shape == pixels.shape, codec.name
            sizes.append(len(data))
            quality.append(metrics.psnr(pixels, decoded))
        assert sizes[0] < sizes[1] and 10 < quality[0] < quality[1] - 1, (codec.name, sizes, quality)
        assert list(codec.ladder) == sorted(codec.ladder, reverse=codec.grid[0] > codec.grid[-1])
    assert names >= {"jpeg", "jpeg444", "webp", "jpeg2000"}


def test_tunings_and_efforts_are_curves_of_their_own():
    weights = str(tiny.GOLDEN / "tiny.safetensors")
    plain, tuned = (codecs.model_codec(weights, (4.0,), 1, None, tune) for tune in (None, "ms-ssim"))
    assert (plain.name, tuned.name, tuned.label) == ("tiny", "tiny-ms-ssim", "tiny, tune ms-ssim")
    assert plain.version != tuned.version
    pixels = tiny.photo(64, 80)
    assert plain.encode(pixels, 4.0) != tuned.encode(pixels, 4.0)
    with pytest.raises(ValueError, match="tune must be"):
        codecs.model_codec(weights, None, 1, None, "beauty")
    iq = codecs.classical("avif-iq")
    assert iq.label == "AVIF (AV1) 4:2:0, tune=iq" and "tune=iq" in iq.description


def test_unknown_codecs_and_settings(photos, tmp_path, capsys):
    with pytest.raises(ValueError, match="known are jpeg"):
        codecs.classical("gif")
    assert main(["eval", str(photos), "-m", "-c", "gif", "-o", str(tmp_path / "o")]) == 1
    assert main(["eval", str(tmp_path / "nothing"), "-m", "-o", str(tmp_path / "o")]) == 1
    assert main(["eval", str(photos), "-m", "-c", "none", "-o", str(tmp_path / "o")]) == 1
    assert main(["eval", str(photos), "-m", "no-such-model", "-c", "none", "-o", str(tmp_path / "o")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("ccm-fast: ") for line in lines), lines
    assert not (tmp_path / "o").exists()


def test_commands_that_fail_say_their_last_words():
    with pytest.raises(codecs.CodecError, match=r"left with 3: .*far too green"):
        codecs._command([sys.executable, "-c", "import sys; sys.stderr.write('far too green\\n'); sys.exit(3)"])


def test_commands_that_take_too_long_are_ended(monkeypatch):
    monkeypatch.setattr(codecs, "COMMAND_SECONDS", 0.3)
    start = time.perf_counter()
    with pytest.raises(codecs.CodecError, match=r"took more than 0\.3 s"):
        codecs._command([sys.executable, "-c", "import time; time.sleep(600)"])
    assert time.perf_counter() - start < 300  # half of what it would have taken, however busy the machine


@pytest.mark.slow
def test_a_failing_encoder_costs_its_setting_and_nothing_else(photos, tmp_path, fake, monkeypatch, capsys):
    """An encoder that hangs, one that crashes, one that is missing: said in a line each, the rest is kept."""
    monkeypatch.setattr(codecs, "COMMAND_SECONDS", 0.3)
    ends = {3: "import time; time.sleep(60)", 5: "import os; os.abort()"}

    def fail(setting):
        if setting in ends:
            codecs._command([sys.executable, "-c", ends[setting]])

    fake(fails=fail)
    monkeypatch.setitem(codecs.CODECS, "none-such", missing)
    out = tmp_path / "out"
    command = ["eval", str(photos), "-m", "-c", "fake,none-such,jpeg", "--crops", "0", "-o", str(out)]
    assert main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ccm-fast: none-such is skipped: it is not installed (pip install <it>)"
    assert len(lines) == 5 and "0 at 3: python" in lines[1] and "took more than 0.3 s" in lines[1]
    assert "1 at 5: python" in lines[4] and "left with -6" in lines[4]
    assert json.loads((out / "fake.json").read_text())["results"]["setting"] == [2, 4]
    assert len(json.loads((out / "jpeg.json").read_text())["results"]["bpp"]) == 8
    assert "none-such" in (out / "report.html").read_text()
    ends.clear()  # whoever repairs the encoder measures what is missing
    again = fake()
    assert main(command) == 0
    assert again.encoded == 4 and json.loads((out / "fake.json").read_text())["results"]["setting"] == [2, 3, 4, 5]

    def stop(setting):
        raise KeyboardInterrupt

    fake(fails=stop)
    command[-1] = str(tmp_path / "stopped")
    command[command.index("fake,none-such,jpeg")] = "jpeg,fake"
    assert main(command) == 130
    assert (tmp_path / "stopped" / "jpeg.json").read_text() and not (tmp_path / "stopped" / "fake.json").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The cache


@pytest.mark.slow
def test_a_second_run_takes_up_where_the_first_was_stopped(photos, tmp_path, fake):
    images = measure.sources([photos], {".png"})
    cache = tmp_path / "cache.jsonl"
    calls = []

    def stop(setting):
        calls.append(setting)
        if len(calls) == 6:
            raise KeyboardInterrupt

    fake(fails=stop)
    with pytest.raises(KeyboardInterrupt):
        measure.run(["fake"], images, measure.Cache(cache))
    assert len(cache.read_text().splitlines()) == 5
    with open(cache, "a") as file:
        file.write('{"key": "torn off')  # killed while writing
    second = fake()
    records = measure.run(["fake"], images, measure.Cache(cache))["fake"]
    assert second.encoded == 3
    assert [(r["setting"], r["image"]) for r in records] == [(s, i) for s in (2, 3, 4, 5) for i in "01"]
    for r in records:
        H, W = images[int(r["image"])].size
        assert r["pixels"] == H * W and r["bytes"] == 3 * H * W + 100 * r["setting"]
        kept = measure.load_pixels(images[int(r["image"])].path) >> (8 - r["setting"]) << (8 - r["setting"])
        assert r["psnr"] == metrics.psnr(measure.load_pixels(images[int(r["image"])].path), kept)
    third = fake()
    assert measure.run(["fake"], images, measure.Cache(cache))["fake"] == records and third.encoded == 0
    newer = fake(version="2")
    measure.run(["fake"], images, measure.Cache(cache))
    assert newer.encoded == 8
    Image.fromarray(tiny.photo(168, 176, 9)).save(photos / "0.png")  # other pixels under the same name
    changed = fake()
    measure.run(["fake"], measure.sources([photos], {".png"}), measure.Cache(cache))
    assert changed.encoded == 4


def test_a_setting_that_fails_on_one_image_is_left_out(photos, tmp_path, fake):
    calls, said = [], []

    def fail(setting):
        calls.append(setting)
        if setting == 3 and calls.count(3) == 2:
            raise codecs.CodecError("too green")

    fake(fails=fail)
    images = measure.sources([photos], {".png"})
    records = measure.run(["fake"], images, measure.Cache(tmp_path / "c"), complain=lambda *a: said.append(a))["fake"]
    assert sorted(r["setting"] for r in records) == [2, 2, 4, 4, 5, 5]
    assert said == [("fake", "1 at 3: too green")]


def test_images_of_one_name_are_told_apart(tmp_path):
    for k, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        Image.fromarray(tiny.photo(16, 16, k)).save(tmp_path / folder / "x.png")
    assert [s.name for s in measure.sources([tmp_path], {".png"})] == ["a/x.png", "b/x.png"]
    (tmp_path / "a" / "x.png").write_text("no picture")
    with pytest.raises(ImageError, match="cannot be read"):
        measure.sources([tmp_path], {".png"})


@pytest.mark.slow
def test_several_processes_measure_the_same(tmp_path):
    for k in range(2):
        Image.fromarray(tiny.photo(40, 50, k)).save(tmp_path / f"{k}.png")
    images = measure.sources([tmp_path], {".png"})
    one, two = (measure.run(["jpeg"], images, measure.Cache(tmp_path / f"{n}.jsonl"), jobs=n)["jpeg"] for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert [a[k] for k in ("key", "image", "bytes", "psnr")] == [b[k] for k in ("key", "image", "bytes", "psnr")]
        assert a["ms_ssim"] is b["ms_ssim"] is None and (a["jobs"], b["jobs"]) == (1, 2)


def test_results_are_json(tmp_path):
    cache = measure.Cache(tmp_path / "crops.jsonl")
    cache.put({"key": "a", "ms_ssim": float("nan"), "psnr": 30.0})

    def refuse(word):
        raise AssertionError(word)

    (line,) = (tmp_path / "crops.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["psnr"] == 30
    assert np.isnan(measure.Cache(tmp_path / "crops.jsonl").get("a")["ms_ssim"])
