"""ccm-fast eval: what is measured, that it can be stopped and taken up again, and what is said about it."""

import dataclasses
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from ccm_fast import files
from ccm_fast.cli import main
from ccm_fast.errors import ImageError
from ccm_fast.evaluate import codecs, crops, curves, measure, metrics, plots, report, tables

WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")
ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


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


# ---------------------------------------------------------------------------------------------------------------------
# Measures


def test_psnr_and_ms_ssim():
    a = tiny.photo(170, 180)
    assert metrics.psnr(a, a) == math.inf and metrics.ms_ssim(a, a) == pytest.approx(1, abs=1e-6)
    b = a.copy()
    b[..., 0] ^= 1  # one level in one of three channels
    assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(3 * 255**2))
    noisy = np.clip(a.astype(int) + np.random.default_rng(0).integers(-40, 41, a.shape), 0, 255).astype(np.uint8)
    assert 0.5 < metrics.ms_ssim(a, noisy) < metrics.ms_ssim(a, b) < 1
    assert metrics.ms_ssim(a[:160], b[:160]) is None and metrics.ms_ssim(a[:161], b[:161]) is not None


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
        codecs._command([sys.executable, "-c", "import time; time.sleep(60)"])
    assert time.perf_counter() - start < 30


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


# ---------------------------------------------------------------------------------------------------------------------
# Curves


def curve(name="a", bpp=(0.1, 0.2, 0.4, 0.8, 1.6), psnr=(28, 30, 32.5, 35, 38), **options):
    return curves.Curve(name, name.upper(), list(bpp), {"psnr": list(psnr)}, name, **options)


def test_bd_rate_of_a_scaled_curve_is_its_scale():
    a = curve()
    for scale in (0.9, 1.25):
        d = curves.bd_rate(a, curve("b", [scale * b for b in a.bpp]))
        assert d.percent == pytest.approx(100 * (scale - 1)) and (d.low, d.high, d.share) == (28, 38, 1)
    # Fewer points on the same line in log rate.
    line = curve("b", [2 ** (q / 3) for q in range(0, 10, 2)], [30 + q for q in range(0, 10, 2)])
    dense = curve("c", [0.8 * 2 ** (q / 3) for q in range(2, 9)], [30 + q for q in range(2, 9)])
    d = curves.bd_rate(line, dense)
    assert d.percent == pytest.approx(-20) and (d.low, d.high) == (32, 38)


def test_no_number_where_there_is_none():
    a = curve()
    far = curve("b", a.bpp, [q + 20 for q in a.quality["psnr"]])
    assert curves.bd_rate(a, far).reason == "no overlap" and curves.bd_rate(a, far).percent is None
    near = curve("b", a.bpp, [q + 9 for q in a.quality["psnr"]])
    assert curves.bd_rate(a, near).reason == "hardly any overlap"
    assert curves.bd_rate(a, curve("b", a.bpp, (28, 30, 29.9, 35, 38))).reason == "not rising"
    assert curves.bd_rate(a, curve("b", a.bpp[:3], a.quality["psnr"][:3])).reason == "fewer than 4 points"
    assert curves.bd_rate(a, a, "ms-ssim").reason == "not measured"
    table = tables.bd_table(tables.deltas([a], [near]), "test")
    assert table[1] == [["B", "none", "hardly any overlap", "none", "not measured"]]
    assert "none" in tables.plain(table) and tables.markdown(table).count("|") == 3 * 6


def test_published_curves(tmp_path):
    def save(name, **results):
        (tmp_path / name).write_text(json.dumps({"name": "X", "description": "", "results": results}))

    save("vtm.json", **{"bpp": [0.5, 0.1], "psnr-rgb": [34, 28], "ms-ssim-rgb": [0.99, 0.9]})
    save("paper-elic2022_mse.json", **{"bpp": [0.1, 0.5], "ms-ssim-db-rgb": [10, 20]})
    save("mine.json", **{"bpp": [0.1], "psnr-rgb": [30]})
    (tmp_path / "bd_rates.json").write_text("[]")
    vtm, elic = curves.load_curves([tmp_path])
    assert vtm.published and vtm.name == "vvc*" and vtm.bpp == [0.1, 0.5]
    assert vtm.quality == {"psnr": [28, 34], "ms-ssim": [pytest.approx(10), pytest.approx(20)]}
    assert elic.quality == {"ms-ssim": [10, 20]}
    assert [c.label for c in curves.load_curves([tmp_path / "mine.json"])] == ["X, published"]
    for bad in ("[1", "[]", '{"results": {}}', '{"results": {"bpp": [1], "psnr-rgb": []}}'):
        (tmp_path / "mine.json").write_text(bad)
        with pytest.raises(ValueError, match=r"mine\.json: not"):
            curves.load_curves([tmp_path / "mine.json"])
    with pytest.raises(FileNotFoundError):
        curves.load_curves([tmp_path / "nothing.json"])


# ---------------------------------------------------------------------------------------------------------------------
# Crops


def test_fit_finds_the_largest_file_that_fits():
    pixels = tiny.photo(96, 120, 2)
    jpeg = codecs.classical("jpeg")
    sizes = {q: len(jpeg.encode(pixels, q)) for q in jpeg.grid}
    for target in (1500, 2500, 4000, 10**6):
        setting, data = crops.fit(jpeg, pixels, target)
        assert len(data) == sizes[setting] <= target
        assert setting == jpeg.grid[-1] or sizes[setting + 1] > target
    setting, data = crops.fit(jpeg, pixels, 10)
    assert setting == jpeg.grid[0] and len(data) == sizes[setting]


def test_the_busiest_window_is_where_the_edges_are():
    pixels = np.full((400, 600, 3), 128, np.uint8)
    pixels[64:320, 192:448] = np.random.default_rng(0).integers(0, 256, (256, 256, 3))
    assert crops.busiest(pixels, 256) == (64, 192)
    assert crops.busiest(pixels[:100, :90], 256) == (0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# The report


class Page(HTMLParser):
    """Checks that tags are balanced and collects what the tests ask for."""

    VOID = {"meta", "img", "input", "br", "link", "hr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def check_page(text):
    """A page that stands alone and is consistent."""
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:image/")), (tag, attrs)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'" in page.all("meta")[1]["content"]
    boxes = [a["value"] for a in page.all("input")]
    drawn = {a["data-curve"] for a in page.all("g") if "data-curve" in a}
    assert drawn == set(boxes) and len(boxes) == len(drawn)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a.get("xlink:href", a.get("href"))[1:] for a in page.all("use")} <= set(ids)
    assert all(a.get("alt") for a in page.all("img"))
    return page


def test_names_do_not_break_the_page():
    evil = dataclasses.replace(curve(), label='<script>x</script> & "', name="a<b")
    ours = curve("o", model=True)
    for c in (evil, ours):
        c.result = {"description": "<i>", "results": {"bpp": c.bpp, "setting": c.bpp}}
    found = tables.deltas([evil], [ours])
    late = dataclasses.replace(evil, published=True, result={"description": "<i>"})
    args = (
        "<T>",
        "<S>",
        [ours, evil],
        {"<L>": found},
        found,
        evil,
        tables.checks([evil, late]),
        [],
        ["<none>"],
        {"<k>": "<v>"},
    )
    page = check_page(report.render(*args))
    assert '<script>x</script> & "' in "".join(page.text) and len(page.all("script")) == 1
    assert not page.all("i")


def test_several_models_stand_beside_each_other():
    ours = [curve("a", model=True), curve("a-e9", bpp=[0.9 * b for b in curve().bpp], model=True)]
    found = {c.label: tables.deltas([*ours, curve("jpeg")], [c]) for c in ours}
    head, rows = tables.models_table(found)
    assert head == ["anchor", "A, PSNR", "A-E9, PSNR", "A, MS-SSIM", "A-E9, MS-SSIM"]
    assert rows == [["A-E9", "+11.1 %", "", "none", ""], ["JPEG", "+0.0 %", "-10.0 %", "none", "none"]] + [
        ["A", "", "-10.0 %", "", "none"]
    ]
    args = ("T", "S", [*ours, curve("jpeg")], found, [], None, [], [], [], {})
    for c in ours:
        c.result = {"description": "", "results": {"bpp": c.bpp, "setting": c.bpp}}
    page = check_page(report.render(*args[:2], ours, *args[3:]))
    assert "Ours against each" in " ".join(page.text)


def test_measured_codecs_are_compared_with_published_ones():
    measured = [curve("avif420", bpp=[1.1 * b for b in curve().bpp]), curve("webp"), curve("a", model=True)]
    published = curves.Curve("avif*", "AV1, published", curve().bpp, curve().quality, "avif", published=True)
    found = tables.checks([*measured, published, curve("vvc*", published=True)])
    assert tables.checks_table(found)[1] == [
        ["AVIF420", "AV1, published", "+10.0 %", "28.0 to 38.0 dB", "none", "not measured"]
    ]


def test_figures_are_the_same_every_time(tmp_path):
    c = [curve("jpeg"), curve("o", model=True), curve("vvc*", published=True)]
    first, second = (plots.save(c, "psnr", "t", tmp_path / "x")[1].read_bytes() for _ in range(2))
    assert first == second
    assert plots.inline_svg(c, "psnr").count("currentColor") > 10


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A small run of the whole command."""
    root = tmp_path_factory.mktemp("eval")
    (root / "photos").mkdir()
    for k, size in enumerate(((168, 176), (171, 165))):
        Image.fromarray(tiny.photo(*size, k)).save(root / "photos" / f"{k}.png")
    published = {"bpp": [0.5, 1, 2, 4], "psnr-rgb": [20, 25, 30, 35], "ms-ssim-rgb": [0.9, 0.95, 0.97, 0.99]}
    (root / "vtm.json").write_text(json.dumps({"name": "VTM", "description": "", "results": published}))
    command = ["eval", root / "photos", "-m", WEIGHTS, "-Q", 2, 4, 5, 7, "-c", "jpeg,none-such", "--crops", 1]
    codecs.CODECS["none-such"] = missing
    try:
        code = main([str(a) for a in [*command, "-r", root / "vtm.json", "-o", root / "out", "-t", 1]])
    finally:
        del codecs.CODECS["none-such"]
    assert code == 0
    return root


def missing():
    raise codecs.CodecMissingError("it is not installed (pip install <it>)")


def test_the_command_writes_what_it_measured(evaluated):
    out = evaluated / "out"
    result = json.loads((out / "tiny.json").read_text())
    r = result["results"]
    assert set(r) >= {"bpp", "psnr-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time"}
    assert {len(v) for v in r.values()} == {4} and r["setting"] == [2, 4, 5, 7]
    sizes, quality = [], []
    for k in range(2):
        with Image.open(evaluated / "photos" / f"{k}.png") as image:
            pixels = np.asarray(image)
        data = io.BytesIO()
        files.encode_file(evaluated / "photos" / f"{k}.png", data, 5, WEIGHTS, threads=1)
        sizes.append(8 * data.tell() / (pixels.shape[0] * pixels.shape[1]))
        decoded = files.decode_bytes(data.getvalue(), WEIGHTS, threads=1).picture.pixels
        quality.append(metrics.psnr(pixels, decoded))
        assert result["images"][str(k)]["bytes"][2] == data.tell()
    assert r["bpp"][2] == pytest.approx(np.mean(sizes)) and r["psnr-rgb"][2] == pytest.approx(np.mean(quality))
    assert result["environment"]["ccm_fast"] and result["data"] == {"name": "photos", "images": 2, "pixels": 57783}
    rates = json.loads((out / "bd_rates.json").read_text())
    assert [d["anchor"] for d in rates["models"]["tiny"]] == ["jpeg", "vvc*"] and rates["anchor"] == "jpeg"
    for name in ("rd_psnr.png", "rd_ms-ssim.png"):
        with Image.open(out / name) as image:
            assert image.width > 800
    assert (out / "rd_psnr.svg").read_text().count("curve-") == 3
    # Its own results can be joined again.
    mine = [c for c in curves.load_curves([out]) if not c.published]
    assert {c.name for c in mine} == {"tiny", "jpeg"} and sum(c.model for c in mine) == 1


def test_the_report_stands_alone(evaluated):
    page = check_page((evaluated / "out" / "report.html").read_text())
    assert len(page.all("img")) == 3  # the original, ours, JPEG
    text = " ".join(page.text)
    assert "none-such: it is not installed (pip install <it>)" in text and "VVC (VTM), published" in text
    assert "tiny against each" in text and "Each against JPEG 4:2:0" in text


def test_a_second_command_measures_nothing(evaluated, monkeypatch, capsys):
    monkeypatch.setattr(measure, "measure", lambda *a: pytest.fail("measured again"))
    before = (evaluated / "out" / "tiny.json").read_text()
    command = ["eval", evaluated / "photos", "-m", WEIGHTS, "-Q", 2, 4, 5, 7, "-c", "jpeg", "--crops", 0, "-t", 1]
    assert main([str(a) for a in [*command, "-o", evaluated / "out"]]) == 0
    assert (evaluated / "out" / "tiny.json").read_text() == before
    assert "tiny against each" in capsys.readouterr().out


def test_several_processes_measure_the_same(tmp_path):
    for k in range(2):
        Image.fromarray(tiny.photo(40, 50, k)).save(tmp_path / f"{k}.png")
    images = measure.sources([tmp_path], {".png"})
    one, two = (measure.run(["jpeg"], images, measure.Cache(tmp_path / f"{n}.jsonl"), jobs=n)["jpeg"] for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert [a[k] for k in ("key", "image", "bytes", "psnr")] == [b[k] for k in ("key", "image", "bytes", "psnr")]
        assert a["ms_ssim"] is b["ms_ssim"] is None and (a["jobs"], b["jobs"]) == (1, 2)


def test_document_says_what_the_results_say():
    result = subprocess.run(
        [sys.executable, "benchmarks/rate_distortion.py", "--check"], cwd=ROOT, env=ENV, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# In a real browser: pytest -m chromium


class Browser:
    """Headless Chromium through chromedriver's HTTP interface."""

    def __init__(self, chromium, driver):
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                break
        self.base = f"http://127.0.0.1:{found[1]}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self.post("", {"capabilities": {"alwaysMatch": options}})
        self.base += "/" + made["sessionId"]

    def post(self, path, body):
        request = urllib.request.Request(
            self.base + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        # Never through a proxy: the driver is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def run(self, script):
        return self.post("/execute/sync", {"script": script, "args": []})

    def emulate(self, scheme, width):
        cdp = lambda cmd, **params: self.post("/goog/cdp/execute", {"cmd": cmd, "params": params})  # noqa: E731
        cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def close(self):
        request = urllib.request.Request(self.base, method="DELETE")
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).close()
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    made = Browser(chromium, driver)
    yield made
    made.close()


CONTRAST = """
const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
const light = (c) => rgb(c).map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((s, v, k) => s + v * [.2126, .7152, .0722][k], 0);
const page = light(getComputedStyle(document.body).backgroundColor);
const worst = [...document.querySelectorAll('h1, p, td, th, label, figcaption, summary, svg text')].map((e) => {
  const style = getComputedStyle(e), own = light(e.closest('svg') ? style.fill : style.color);
  return (Math.max(own, page) + .05) / (Math.min(own, page) + .05);
});
return [page, Math.min(...worst)];
"""


@pytest.mark.chromium
def test_the_report_in_chromium(evaluated, browser, tmp_path):
    report_path = Path(os.environ.get("CCM_REPORT", evaluated / "out" / "report.html")).resolve()
    browser.post("/url", {"url": report_path.as_uri()})
    time.sleep(0.5)
    pages = []
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            browser.emulate(scheme, width)
            page, contrast = browser.run(CONTRAST)
            pages.append(page)
            assert contrast > 4.5, (scheme, width, contrast)  # WCAG AA for text
            overflow = browser.run("return document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, (scheme, width, overflow)
    assert min(pages[:2]) > 0.9 and max(pages[2:]) < 0.1
    assert browser.run("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert (
        browser.run("return performance.getEntriesByType('resource').filter((r) => !/^data:/.test(r.name)).length") == 0
    )
    box = "document.querySelector('.key input')"
    shown = f"[...document.querySelectorAll(`[data-curve='${{{box}.value}}']`)].map((g) => getComputedStyle(g).display)"
    assert "none" not in browser.run(f"return {shown}")
    hidden = browser.run(f"{box}.click(); return {shown}")
    assert hidden and set(hidden) == {"none"}
    assert "none" not in browser.run(f"{box}.click(); return {shown}")
    assert [e for e in browser.post("/se/log", {"type": "browser"}) if e["level"] == "SEVERE"] == []
