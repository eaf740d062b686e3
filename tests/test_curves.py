"""Rate-distortion curves, their distances and figures, and the crops that are shown."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from PIL import Image

from ccm_fast.evaluate import codecs, crops, curves, measure, plots, tables


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


def test_the_smoothest_window_is_smooth_and_not_black():
    pixels = np.random.default_rng(0).integers(0, 256, (400, 600, 3)).astype(np.uint8)
    pixels[64:320, 192:448] = np.linspace(100, 130, 256)[:, None, None]
    pixels[:100, :100] = 0
    assert crops.smoothest(pixels, 256) == (64, 192)
    assert crops.smoothest(np.zeros((300, 300, 3), np.uint8), 256) == (0, 0)


def test_codecs_differ_where_their_pictures_do():
    original = tiny.photo(400, 600, 1)
    other = original.copy()
    other[128:384, 320:576] += 20
    assert crops.differing([original, original, other], 256) == (128, 320)


@pytest.mark.slow
def test_crops_are_made_once(tmp_path):
    Image.fromarray(tiny.photo(300, 600, 2)).save(tmp_path / "a.png")
    (source,) = measure.sources([tmp_path / "a.png"], {".png"})
    jpeg, calls = codecs.classical("jpeg"), []

    def counted(pixels, setting):
        calls.append(setting)
        return jpeg.encode(pixels, setting)

    table = [dataclasses.replace(jpeg, name=name, encode=counted) for name in ("a", "b")]
    sheet = crops.side_by_side(table, (table[0], 30), source, tmp_path / "kept")
    assert [c["codec"] for c in sheet["crops"]] == ["a", "b"]
    names = [w["name"] for w in sheet["windows"]]
    assert names[0] == "where they differ most" and len({tuple(w["corner"]) for w in sheet["windows"]}) == len(names)
    assert all(len(w["crops"]) == 2 and w["original"].startswith("data:image/webp") for w in sheet["windows"])
    calls.clear()
    assert crops.side_by_side(table, (table[0], 30), source, tmp_path / "kept") == sheet and not calls


def test_bd_rates_in_ssimulacra2_are_shown_where_they_were_measured():
    with_it = [curve("a", model=True), curve("b", bpp=[2 * b for b in curve().bpp])]
    for c in with_it:
        c.quality["ssimulacra2"] = [30.0, 50.0, 60.0, 70.0, 80.0][: len(c.bpp)]
    (entry,) = tables.deltas([with_it[1]], [with_it[0]])
    assert entry["ssimulacra2"]["percent"] == pytest.approx(-50)
    head, rows = tables.bd_table([entry], "anchor")
    assert head[-2:] == ["BD-rate, SSIMULACRA2", "over"] and rows[0][-2] == "-50.0 %" and "dB" not in rows[0][-1]
    assert len(tables.bd_table(tables.deltas([curve("c")], [with_it[0]]), "anchor")[0]) == 5


def test_distances_fall_where_quality_rises():
    """Of a distance a lower value is better: rates, tables, figures and result files say so."""
    record = {"pixels": 800, "psnr": 30.0, "ms_ssim": None, "ssimulacra2": 50.0, "image": "x"}
    record |= {f"{way}_{kind}": 1.0 for way in ("encode", "decode") for kind in ("seconds", "cpu_seconds")}
    found = []
    for scale in (1, 2):
        rows = [
            record | {"setting": s, "bytes": scale * 100 * 2**s, "psnr": 30.0 + s, "butteraugli": 4.0 - s / 2}
            for s in range(5)
        ]
        codec = dataclasses.replace(codecs.classical("jpeg"), name=f"c{scale}")
        result = curves.results_of(codec, rows, {}, {"a": "b"}, scale == 1)
        assert result["results"]["butteraugli"] == [4, 3.5, 3, 2.5, 2]
        assert result["images"]["x"]["butteraugli"][-1] == 2
        found.append(curves.curve_of(result, codec.name, codec.name))
    (entry,) = tables.deltas([found[1]], [found[0]])
    assert entry["butteraugli"]["percent"] == pytest.approx(-50)
    head, rows = tables.bd_table([entry], "anchor")
    assert head[-2:] == ["BD-rate, Butteraugli", "over"] and rows[0][-2:] == ["-50.0 %", "4.00 to 2.00"]
    head, rows = tables.points_table(found[0])
    assert dict(zip(head, rows[0]))["Butteraugli"] == "4.00"
    labels = plots.inline_svg(found, "butteraugli")
    assert ">3.5<" in labels.replace(" ", "") and "less is better" in labels and "−" not in labels
