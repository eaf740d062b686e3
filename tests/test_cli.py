"""The command line: what it writes, what it says, and its exit codes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image, ImageCms

from ccm_fast import files, registry, shipped, weights
from ccm_fast.command.main import main
from ccm_fast.shipped import shipped_fingerprints

WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def photos(tmp_path):
    """A folder with pictures in it, also in a folder within."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(tiny.photo(20, 30, 1)).save(folder / "a.png")
    Image.fromarray(tiny.photo(24, 16, 2)).save(folder / "deep" / "b.jpg")
    (folder / "notes.txt").write_text("not an image")
    return folder


def run(*argv):
    """Exit code of a command line; argparse's way out included."""
    try:
        return main([str(a) for a in argv])
    except SystemExit as leave:
        return leave.code


def test_a_file_there_and_back(photos, tmp_path, capsys):
    assert run("encode", photos / "a.png", tmp_path / "a.ccm", "-q", 6, "-m", WEIGHTS) == 0
    assert run("decode", tmp_path / "a.ccm", tmp_path / "a.png", "-m", WEIGHTS) == 0
    out, err = capsys.readouterr()
    assert out == err == ""
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (30, 20)
    want = files.decode_bytes((tmp_path / "a.ccm").read_bytes(), WEIGHTS)
    assert run("decode", tmp_path / "a.ccm", "--latents", tmp_path / "y.npy", "-m", WEIGHTS) == 0
    latents = np.load(tmp_path / "y.npy")
    assert latents.dtype == np.int16 and (latents == want.latents).all()
    options = ("-m", WEIGHTS, "--engine", "reference", "--force")
    assert run("decode", tmp_path / "a.ccm", tmp_path / "b.png", "--latents", tmp_path / "y.npy", *options) == 0
    assert (np.load(tmp_path / "y.npy") == latents).all()


def test_folders_keep_their_structure(photos, tmp_path, capsys):
    assert run("encode", photos, tmp_path / "out", "-m", WEIGHTS, "--json") == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(r["output"]).relative_to(tmp_path / "out").as_posix() for r in reports] == ["a.ccm", "deep/b.ccm"]
    for r in reports:
        assert os.path.getsize(r["output"]) == r["bytes"] and set(r["seconds"]) >= {"g_a", "h_a", "h_s", "entropy"}
    assert run("decode", tmp_path / "out", tmp_path / "back", "-m", WEIGHTS, "--format", "jpg", "-v") == 0
    assert sorted(p.name for p in (tmp_path / "back").rglob("*.jpg")) == ["a.jpg", "b.jpg"]
    assert "20" in capsys.readouterr().err
    many = (tmp_path / "out/a.ccm", tmp_path / "out/deep/b.ccm", tmp_path / "flat")
    assert run("decode", *many, "-m", WEIGHTS) == 0
    assert sorted(os.listdir(tmp_path / "flat")) == ["a.png", "b.png"]


def test_failures_do_not_stop_the_others(photos, tmp_path, capsys):
    (photos / "0.png").write_bytes(b"no picture")
    assert run("encode", photos, tmp_path / "out", "-m", WEIGHTS) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 3 and err[0].startswith(f"ccm-fast: {photos / '0.png'}: ")
    assert "notes.txt" in err[1] and "2 encoded, 0 skipped, 1 failed" in err[2]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.ccm")) == ["a.ccm", "b.ccm"]
    (tmp_path / "out" / "a.ccm").write_bytes(b"CCM\x01 damaged")
    assert run("decode", tmp_path / "out", tmp_path / "back", "-m", WEIGHTS, "--json") == 1
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [("error" in r) for r in reports] == [True, False] and reports[0]["type"].endswith("Error")


def test_the_same_remark_about_many_files(tmp_path, capsys):
    for k in range(7):
        Image.fromarray(tiny.photo(8, 9, k)).save(tmp_path / f"{k}.jpg", comment="Anna")
    assert run("encode", tmp_path, tmp_path / "coded", "-m", WEIGHTS) == 0
    *lines, rest, _ = capsys.readouterr().err.splitlines()
    assert [Path(line.split(": ")[1]).stem for line in lines] == list("01234")
    assert rest == "ccm-fast: the comment 'Anna' cannot be kept and is left out: 2 more files"


def test_metadata_is_left_out_or_replaced(tmp_path, capsys):
    exif, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.fromarray(tiny.photo(20, 30)).save(tmp_path / "a.jpg", exif=exif)
    exif[0x010F] = "someone else"
    (tmp_path / "e").write_bytes(exif.tobytes())
    (tmp_path / "i").write_bytes(profile)

    def decoded(name, *options):
        assert run("decode", tmp_path / f"{name}.ccm", tmp_path / "out.png", "-f", "-m", WEIGHTS, *options) == 0
        with Image.open(tmp_path / "out.png") as image:
            return image.size, image.getexif().get(0x010F), image.info.get("icc_profile")

    new = ("--exif", tmp_path / "e", "--icc", tmp_path / "i")
    for name, options in (("kept", ()), ("stripped", ("--strip",)), ("new", new)):
        assert run("encode", tmp_path / "a.jpg", tmp_path / f"{name}.ccm", "-m", WEIGHTS, *options) == 0
    assert decoded("kept") == ((30, 20), "maker", None)
    assert decoded("kept", "--strip") == decoded("stripped") == ((20, 30), None, None)
    assert decoded("new") == ((30, 20), "someone else", profile)
    assert run("encode", tmp_path / "a.jpg", tmp_path / "x.ccm", "-m", WEIGHTS, "--icc", tmp_path / "e") == 1
    assert run("encode", tmp_path / "a.jpg", tmp_path / "x.ccm", "-m", WEIGHTS, "--icc", tmp_path / "none") == 1
    assert capsys.readouterr().err.count("\n") == 2 and not (tmp_path / "x.ccm").exists()


def test_sixteen_bits(tmp_path):
    assert run("decode", tiny.GOLDEN / "grey.ccm", tmp_path / "a.png", "-m", WEIGHTS, "--depth", 16) == 0
    assert run("decode", tiny.GOLDEN / "grey.ccm", tmp_path / "b.png", "-m", WEIGHTS) == 0
    with Image.open(tmp_path / "a.png") as deep, Image.open(tmp_path / "b.png") as plain:
        a, b = np.asarray(deep).astype(int), np.asarray(plain).astype(int)
    assert a.max() > 255 and abs(a - 257 * b).max() <= 129


def test_freezing_replaces_nothing(tmp_path, capsys):
    for name in ("o.safetensors", "o.json"):
        (tmp_path / name).write_text("mine")
        assert run("freeze", tmp_path / "none.pt", tmp_path / "o.safetensors", "--data", tmp_path) == 1
        assert f"{tmp_path / name}: exists (--force" in capsys.readouterr().err
        (tmp_path / name).unlink()


def test_lanes_reach_every_stream(photos, tmp_path, capsys):
    """Z and every group have as many as were asked for, and decode to the same latents."""
    for lanes in (0, 32):
        assert run("encode", photos / "a.png", tmp_path / f"{lanes}.ccm", "-m", WEIGHTS, "--lanes", lanes) == 0
        decoded = run("decode", tmp_path / f"{lanes}.ccm", "--latents", tmp_path / f"{lanes}.npy", "-m", WEIGHTS)
        assert decoded == 0
    capsys.readouterr()
    assert run("info", tmp_path / "32.ccm", tmp_path / "0.ccm", "--json") == 0
    many, chosen = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert many["lanes"] == {"z": 32, "y": [32] * 3}
    # At most 5 bytes for each lane more, and the header's list of them.
    more = sum(32 - n for n in (chosen["lanes"]["z"], *chosen["lanes"]["y"]))
    assert 0 < many["bytes"] - chosen["bytes"] <= 5 * more + 2
    assert np.array_equal(np.load(tmp_path / "32.npy"), np.load(tmp_path / "0.npy"))


def test_existing_outputs_are_left_alone(photos, tmp_path, capsys):
    target = tmp_path / "a.ccm"
    target.write_bytes(b"precious")
    assert run("encode", photos / "a.png", target, "-m", WEIGHTS) == 1
    assert "--force" in capsys.readouterr().err and target.read_bytes() == b"precious"
    assert run("encode", photos / "a.png", target, "-m", WEIGHTS, "-f") == 0
    assert target.read_bytes()[:3] == b"CCM"
    # two inputs, one output name
    Image.fromarray(tiny.photo(8, 8)).save(photos / "a.jpg")
    assert run("encode", photos / "a.png", photos / "a.jpg", tmp_path / "out", "-m", WEIGHTS, "-f") == 1
    assert "another input" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["explode"],
        ["encode"],
        ["encode", "a.png"],
        ["encode", "a.png", "b.ccm", "--quality", "9"],
        ["encode", "a.png", "b.ccm", "--quality", "good"],
        ["encode", "a.png", "b.ccm", "--lanes", "3"],
        ["encode", "a.png", "b.ccm", "--threads", "0"],
        ["encode", "a.png", "b.png", "-"],
        ["encode", "a.png", "-", "--json"],
        ["encode", "a.png", "b.png", __file__],
        ["decode", "a.ccm"],
        ["decode", "a.ccm", "b.ccm", "/tmp/", "--latents", "x.npy"],
        ["info"],
        ["train"],
    ],
)
def test_wrong_usage(argv, capsys):
    assert run(*argv) == 2
    assert capsys.readouterr().err


def test_options_stand_between_paths(photos, tmp_path):
    one, out = photos / "a.png", tmp_path / "out"
    assert run("encode", one, "-q", 6, photos / "deep" / "b.jpg", "-m", WEIGHTS, out) == 0
    assert run("encode", "-q", 6, "-m", WEIGHTS, one, tmp_path / "a.ccm") == 0
    assert (out / "a.ccm").read_bytes() == (tmp_path / "a.ccm").read_bytes() and (out / "b.ccm").exists()
    assert run("decode", tmp_path / "a.ccm", "--depth", 8, tmp_path / "a.ppm", "-m", WEIGHTS) == 0
    assert run("info", tmp_path / "a.ccm", "--json", out / "b.ccm") == 0


def test_paths_like_options_stand_behind_two_dashes(photos, tmp_path, monkeypatch):
    (photos / "a.png").rename(photos / "-a.png")
    monkeypatch.chdir(photos)
    assert run("encode", "-m", WEIGHTS, "--", "-a.png", "-a.ccm") == 0
    assert (photos / "-a.ccm").exists()
    assert run("encode", "--wrong", "--", "-a.png", "-a.ccm") == 2


def test_errors_are_one_line(tmp_path, capsys):
    for argv in (
        ["encode", tmp_path / "missing.png", tmp_path / "x.ccm", "-m", WEIGHTS],
        ["encode", __file__, tmp_path / "x.ccm", "-m", "no-such-model"],
        ["encode", "x.png", tmp_path / "x.ccm", "-m", __file__],
        ["decode", tmp_path / "missing.ccm", tmp_path / "x.png", "-m", WEIGHTS],
        ["decode", tiny.GOLDEN / "colour.ccm", tmp_path / "x.png"],
        ["decode", tiny.GOLDEN / "colour.ccm", tmp_path / "x.xyz", "-m", WEIGHTS],
        ["decode", tiny.GOLDEN / "colour.ccm", tmp_path / "x.png", "-m", WEIGHTS, "--max-pixels", "100"],
        ["info", tmp_path / "missing.ccm"],
        ["info", __file__],
    ):
        assert run(*argv) == 1
        err = capsys.readouterr().err
        assert err.startswith("ccm-fast: ") and err.count("\n") == 1 and "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_info_needs_no_model(capsys):
    paths = [tiny.GOLDEN / f"{name}.ccm" for name in ("alpha", "grey", "taper2")]
    assert run("info", *paths, "--json") == 0
    alpha, grey, tapered = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert alpha["tapers"] == [0, 0, 0] and any(tapered["tapers"])
    assert (alpha["width"], alpha["height"], alpha["quality"], alpha["groups"]) == (53, 37, 8.0, 3)
    assert alpha["lanes"] == {"z": 32, "y": [32] * 3} and set(alpha["chunks"]) == {"alpha", "exif", "icc"}
    assert grey["grey"] and grey["fingerprint"] == tiny.model().frozen.fingerprint.hex() and grey["model"] is None
    for r in (alpha, grey):
        parts = r["parts"]
        assert parts["container"] + parts["header"] + parts["z"] + sum(parts["y"]) == r["bytes"]
    assert run("info", *paths) == 0
    # Where lanes retire, the line of the lanes says so.
    text = capsys.readouterr().out
    lanes = [line for line in text.splitlines() if line.startswith("  lanes")]
    assert ["tapers" in line for line in lanes] == [False, False, True]
    assert "53x37 grey, quality 2.5" in text


def test_info_names_the_shipped_model(capsys, monkeypatch):
    monkeypatch.setattr("ccm_fast.shipped.FOLDER", tiny.GOLDEN)
    shipped_fingerprints.cache_clear()
    try:
        assert run("info", tiny.GOLDEN / "colour.ccm", "--json") == 0
    finally:
        shipped_fingerprints.cache_clear()
    assert json.loads(capsys.readouterr().out)["model"] == "tiny"


def test_files_of_any_shipped_model_decode(tmp_path, monkeypatch):
    """Of the default one, and of another, which the file names."""
    (tmp_path / "tiny.safetensors").write_bytes((tiny.GOLDEN / "tiny.safetensors").read_bytes())
    weights.save(tiny.skipping(), tmp_path / "other.safetensors")
    monkeypatch.setattr("ccm_fast.shipped.FOLDER", tmp_path)
    monkeypatch.setattr("ccm_fast.registry.DEFAULT_MODEL", "tiny")
    shipped_fingerprints.cache_clear()
    try:
        for name in ("colour2", "colour3"):
            assert run("decode", tiny.GOLDEN / f"{name}.ccm", tmp_path / f"{name}.png") == 0
    finally:
        shipped_fingerprints.cache_clear()


def test_a_model_is_found_by_what_lies_beside_its_weights(monkeypatch):
    """No weights but the file's own are read; what is noted wrongly is found out."""
    monkeypatch.setattr("ccm_fast.registry.shipped_fingerprints", lambda: pytest.fail("all weights were read"))
    for name in shipped.available():
        fingerprint = bytes.fromhex(json.loads((shipped.FOLDER / f"{name}.json").read_text())["fingerprint"])
        assert registry.codec_for(None, fingerprint).fingerprint == fingerprint
        assert shipped.hinted(b"CCM\2\6" + fingerprint + b"rest") == name
    monkeypatch.undo()
    monkeypatch.setattr("ccm_fast.shipped._noted", lambda _: {fingerprint: shipped.available()[0]})
    assert registry.codec_for(None, fingerprint).fingerprint == fingerprint


def test_info_of_a_damaged_file(tmp_path, capsys):
    data = bytearray((tiny.GOLDEN / "colour.ccm").read_bytes())
    data[-1] ^= 1
    (tmp_path / "bad.ccm").write_bytes(data)
    assert run("info", tmp_path / "bad.ccm", tiny.GOLDEN / "grey.ccm", "--json") == 1
    bad, good = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert bad["type"] == "DamagedError" and good["bytes"] == (tiny.GOLDEN / "grey.ccm").stat().st_size


def test_selftest(capsys):
    assert run("selftest", "-m", WEIGHTS, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and len(report["checks"]) == 10
    assert run("selftest", "-m", "no-such-model") == 1
    assert "FAIL" in capsys.readouterr().out


def test_env(capsys):
    assert run("env", "--json") == 0
    assert "torch" in json.loads(capsys.readouterr().out)


def command(*argv, **options):
    return subprocess.run([sys.executable, "-m", "ccm_fast", *map(str, argv)], cwd=ROOT, capture_output=True, **options)


@pytest.mark.slow
def test_pipes(photos):
    encoded = command("encode", "-", "-", "-m", WEIGHTS, input=(photos / "a.png").read_bytes())
    assert encoded.returncode == 0 and encoded.stderr == b"" and encoded.stdout[:3] == b"CCM"
    decoded = command("decode", "-", "-", "-m", WEIGHTS, "--format", "webp", input=encoded.stdout)
    assert decoded.returncode == 0 and decoded.stderr == b""
    with Image.open(io.BytesIO(decoded.stdout)) as image:
        assert (image.format, image.size) == ("WEBP", (30, 20))
    info = command("info", "-", input=encoded.stdout)
    assert info.returncode == 0 and b"30x20" in info.stdout


def test_help_comes_at_once():
    code = (
        "import sys; from ccm_fast.command.main import main\ntry: main(['encode', '--help'])\nexcept SystemExit: pass\n"
    )
    code += "print(sorted({'torch', 'numpy', 'PIL', 'tqdm'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]" and "--quality" in out


@pytest.mark.slow
def test_train_stops_cleanly_and_resumes(tmp_path):
    for k in range(3):
        Image.fromarray(tiny.photo(64, 64, k)).save(tmp_path / f"{k}.png")
    argv = [sys.executable, "-m", "ccm_fast", "train", "--out", tmp_path / "run", "--data", tmp_path, "--threads", "1"]
    preset = {"preset": "ccm-small", "widths": [8, 8, 8], "groups": [4, 4], "hyper_channels": 4, "psi_channels": 8}
    (tmp_path / "small.json").write_text(json.dumps(preset | {"name": "small", "blocks": [0, 0, 0]}))
    argv += ["--preset", tmp_path / "small.json"]
    argv = [*map(str, argv), "--batch", "1", "--crop", "64", "--quiet", "--stages"]
    with subprocess.Popen([*argv, "joint=1h"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        log = tmp_path / "run" / "log.jsonl"
        deadline = time.monotonic() + 300
        while not log.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    assert out.decode().strip() == str(tmp_path / "run" / "last.pt")
    events = [json.loads(line).get("event") for line in log.read_text().splitlines()]
    assert events[0] == "start" and events[-1] == "stopped"
    steps = json.loads(log.read_text().splitlines()[-1])["step"]
    assert subprocess.run([*argv, f"joint={steps + 1}"], cwd=ROOT, capture_output=True).returncode == 0
