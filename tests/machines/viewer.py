"""The page that shows .ccm files (docs/viewer), as `make viewer` has built it: by node, and in a real browser.

`make test-viewer` runs it. Latents are the native codec's, for the golden files and for a photograph.
"""

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from browser import Browser
from PIL import Image

import ccm_fast
from ccm_fast import _native as native
from ccm_fast import weights

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build/viewer"
KODAK = Path(os.environ.get("KODAK", ROOT.parent / "shared/data/kodak"))
GOLDEN = json.loads((tiny.GOLDEN / "golden.json").read_text())
FILES = [name for name, case in GOLDEN.items() if case.get("plan") != 3]  # that one has weights of its own

pytestmark = pytest.mark.skipif(not (SITE / "ccm.wasm").is_file(), reason="no build/viewer: `make viewer`")

NODE = """
const fs = require("fs"), CCM = require(process.argv[1] + "/ccm.js");
const [site, weights, ...files] = process.argv.slice(1);
CCM.load(fs.readFileSync(site + "/ccm.wasm")).then((codec) => {
  codec.open(fs.readFileSync(weights));
  const found = files.map((file) => {
    try {
      const {width, height, quality, pixels, latents, milliseconds} = codec.decode(fs.readFileSync(file));
      return {width, height, quality, latents, milliseconds, sum: pixels.reduce((a, b) => a + b, 0)};
    } catch (error) {
      return error.message;
    }
  });
  console.log(JSON.stringify(found));
});
"""


def by_node(weights_file, *files):
    node = shutil.which("node")
    if not node:
        pytest.skip("needs node")
    command = [node, "-e", NODE, SITE, weights_file, *files]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A file of a photograph, and what the native codec makes of it: hash of the latents, pixels, seconds."""
    path = tmp_path_factory.mktemp("photograph") / "photograph.ccm"
    kodak = KODAK / "kodim01.png"
    if kodak.is_file():
        with Image.open(kodak) as image:
            pixels = np.asarray(image.convert("RGB"))
    else:
        import skimage.data

        pixels = skimage.data.astronaut()
    path.write_bytes(ccm_fast.Codec.load("ccm-small").encode(pixels, quality=4, effort=1))
    codec = native.Codec.open(str(weights.find("ccm-small")), threads=1, float_transforms=True, isa="")
    start = time.perf_counter()
    ((decoded, latents, _),) = codec.decode([native.File(path.read_bytes(), 0)], 1)
    seconds = time.perf_counter() - start
    return path, hashlib.sha256(latents.tobytes()).hexdigest(), np.asarray(decoded), seconds


def test_golden_files_by_node():
    found = by_node(tiny.GOLDEN / "tiny.safetensors", *(tiny.GOLDEN / f"{name}.ccm" for name in FILES))
    for name, picture in zip(FILES, found, strict=True):
        case = GOLDEN[name]
        assert picture["latents"] == case["sha256"]
        assert [picture["width"], picture["height"]] == case["size"] and picture["quality"] == case["quality"]


def test_damage_by_node(tmp_path):
    data = bytearray((tiny.GOLDEN / "colour2.ccm").read_bytes())
    (tmp_path / "cut.ccm").write_bytes(data[:-3])
    data[-3] ^= 1
    (tmp_path / "flipped.ccm").write_bytes(data)
    (tmp_path / "other").write_bytes(b"GIF89a")
    names = ["cut.ccm", "flipped.ccm", "other"]
    found = by_node(tiny.GOLDEN / "tiny.safetensors", *(tmp_path / name for name in names))
    assert ["checksum" in found[0], "checksum" in found[1], "not a .ccm file" in found[2]] == [True] * 3, found


def test_photograph_by_node(photograph, record_property):
    path, latents, decoded, seconds = photograph
    (picture,) = by_node(weights.find("ccm-small"), path)
    assert picture["latents"] == latents
    assert abs(picture["sum"] - 255 * decoded[..., 0].size - int(decoded.sum())) <= 1e-4 * decoded.size
    print(f"\n{decoded.shape}: {picture['milliseconds']:.0f} ms by node, {1000 * seconds:.0f} native with floats")


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".wasm": "application/wasm"}

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.paths.append(self.path)
        super().do_GET()


@pytest.fixture
def page(tmp_path):
    """A function that serves the page with other weights, and opens it in a browser."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    shutil.copytree(SITE, tmp_path / "site")
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.paths = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = Browser(chromium, driver)

        def opened(weights_file):
            shutil.rmtree(tmp_path / "site/weights")
            (tmp_path / "site/weights").mkdir()
            fingerprint = ccm_fast.Codec.load(weights_file).fingerprint.hex()
            shutil.copyfile(weights_file, tmp_path / f"site/weights/{fingerprint}.safetensors")
            browser.post("/url", {"url": f"http://127.0.0.1:{server.server_port}/index.html"})
            return browser, server.paths

        yield opened
        browser.close()
        server.shutdown()


def shown(browser, path):
    """What the page says of a file that is given to it."""
    element = next(iter(browser.post("/element", {"using": "css selector", "value": "#choose"}).values()))
    browser.post(f"/element/{element}/value", {"text": str(path)})
    for _ in range(600):
        text = browser.run("return document.getElementById('status').textContent")
        if not text.startswith("decoding"):
            break
        time.sleep(0.1)
    names = ["name", "size", "quality", "time", "latents"]
    found = browser.run(f"return {json.dumps(names)}.map((id) => document.getElementById(id).textContent)")
    return {**dict(zip(names, found)), "status": text}


def test_the_page(page):
    """The golden files one after another; the weights are fetched once; damage and another model are said."""
    browser, requests = page(tiny.GOLDEN / "tiny.safetensors")
    for name in FILES:
        found = shown(browser, tiny.GOLDEN / f"{name}.ccm")
        assert found["status"] == "" and found["latents"] == GOLDEN[name]["sha256"]
        assert found["size"] == "{} x {}".format(*GOLDEN[name]["size"])
    assert sum(path.startswith("/weights/") for path in requests) == 1 == requests.count("/ccm.wasm")
    found = shown(browser, tiny.GOLDEN / "golden.json")
    assert "not a .ccm file" in found["status"]
    assert browser.run("return document.getElementById('shown').hidden")
    (other,) = (name for name, case in GOLDEN.items() if case.get("plan") == 3)
    assert "which this page does not have" in shown(browser, tiny.GOLDEN / f"{other}.ccm")["status"]


def test_the_models_that_ship():
    """Are beside the page, under the names that it asks for."""
    found = {path.stem: path.read_bytes() for path in (SITE / "weights").iterdir()}
    models = {ccm_fast.Codec.load(name).fingerprint.hex(): weights.find(name) for name in weights.available()}
    assert found == {fingerprint: path.read_bytes() for fingerprint, path in models.items()}


def test_the_page_with_a_photograph(page, photograph, tmp_path):
    path, latents, decoded, _ = photograph
    browser, _ = page(weights.find("ccm-small"))
    found = shown(browser, path)
    assert found["latents"] == latents
    height, width, _ = decoded.shape
    canvas = browser.run(
        "const c = document.getElementById('canvas');"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, 64).data)"
    )
    pixels = np.array(canvas, np.int32).reshape(64, width, 4)[..., :3]
    assert np.abs(pixels - decoded[:64]).max() <= 1  # floats may round another way
    print(f"\n{width}x{height}: {found['time']} in Chromium")
