"""The whole of ``ccm-fast eval``: files and report; with ``-m chromium`` the report in a real browser."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny
from browser import Browser
from PIL import Image
from test_curves import curve
from test_evaluate import missing

from ccm_fast import files
from ccm_fast.command.main import main
from ccm_fast.evaluate import codecs, curves, measure, metrics, report, tables

WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")
ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


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
    boxes = [a["value"] for a in page.all("input") if a.get("type") == "checkbox"]
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


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A small run of the whole command."""
    root = tmp_path_factory.mktemp("eval")
    (root / "photos").mkdir()
    for k, size in enumerate(((168, 176), (171, 165))):
        Image.fromarray(tiny.photo(*size, k)).save(root / "photos" / f"{k}.png")
    published = {"bpp": [0.5, 1, 2, 4], "psnr-rgb": [20, 25, 30, 35], "ms-ssim-rgb": [0.9, 0.95, 0.97, 0.99]}
    (root / "vtm.json").write_text(json.dumps({"name": "VTM", "description": "", "results": published}))
    command = [
        "eval",
        root / "photos",
        "-m",
        WEIGHTS,
        "-Q",
        2,
        4,
        5,
        7,
        "-c",
        "jpeg,none-such",
        "--crops",
        1,
        "--tune",
        "default",
    ]
    codecs.CODECS["none-such"] = missing
    try:
        code = main([str(a) for a in [*command, "-r", root / "vtm.json", "-o", root / "out", "-t", 1]])
    finally:
        del codecs.CODECS["none-such"]
    assert code == 0
    return root


@pytest.mark.slow
def test_the_command_writes_what_it_measured(evaluated):
    out = evaluated / "out"
    result = json.loads((out / "tiny.json").read_text())
    r = result["results"]
    assert set(r) >= {"bpp", "psnr-rgb", "ms-ssim-rgb", "ssimulacra2", "encoding_time", "decoding_time"}
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


@pytest.mark.slow
def test_the_report_stands_alone(evaluated):
    page = check_page((evaluated / "out" / "report.html").read_text())
    assert len(page.all("img")) == 3 + 2  # the original, ours, JPEG; two for the slider
    assert len(page.all("select")) == 2 and [a["type"] for a in page.all("input")].count("range") == 1
    text = " ".join(page.text)
    assert "none-such: it is not installed (pip install <it>)" in text and "VVC (VTM), published" in text
    assert "tiny against each" in text and "Each against JPEG 4:2:0" in text


@pytest.mark.slow
def test_a_second_command_measures_nothing(evaluated, monkeypatch, capsys):
    monkeypatch.setattr(measure, "measure", lambda *a: pytest.fail("measured again"))
    before = (evaluated / "out" / "tiny.json").read_text()
    command = ["eval", evaluated / "photos", "-m", WEIGHTS, "-Q", 2, 4, 5, 7, "-c", "jpeg", "--crops", 0, "-t", 1]
    assert main([str(a) for a in [*command, "-o", evaluated / "out"]]) == 0
    assert (evaluated / "out" / "tiny.json").read_text() == before
    assert "tiny against each" in capsys.readouterr().out


def test_document_says_what_the_results_say():
    result = subprocess.run(
        [sys.executable, "benchmarks/rate_distortion.py", "--check"], cwd=ROOT, env=ENV, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# In a real browser: pytest -m chromium


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


@pytest.mark.slow
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
