"""``ccm-fast convert``: folders, tar shards and tables; what stops, dies or is damaged on the way."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import deadly
import numpy as np
import pytest
import tiny
from PIL import Image
from test_data import add_member

import ccm_fast
from ccm_fast import errors, files
from ccm_fast.command.main import main
from ccm_fast.convert import Recoder, units
from ccm_fast.convert.local import run_local
from ccm_fast.psnr import psnr

ROOT = Path(__file__).parents[1]
WEIGHTS = tiny.GOLDEN / "tiny.safetensors"
OPTIONS = ["--model", str(WEIGHTS), "--effort", "1", "--quiet"]


def picture(seed, file_format="PNG", size=(24, 32)):
    out = io.BytesIO()
    Image.fromarray(tiny.photo(*size, seed)).save(out, file_format)
    return out.getvalue()


def coded(data):
    return Recoder(model=str(WEIGHTS), effort=1)(data)


@pytest.fixture
def source(tmp_path):
    """A folder of pictures, a shard, and other files."""
    folder = tmp_path / "source"
    (folder / "a").mkdir(parents=True)
    (folder / "a/0.png").write_bytes(picture(0))
    (folder / "a/0.jpg").write_bytes(picture(1, "JPEG"))
    (folder / "a/1.webp").write_bytes(picture(2, "WEBP"))
    (folder / "labels.json").write_text("{}")
    with tarfile.open(folder / "part.tar", "w") as shard:
        add_member(shard, "x/1.jpg", picture(3, "JPEG"))
        add_member(shard, "x/1.cls", b"1")
        add_member(shard, "x/2.png", b"no picture")
        add_member(shard, "x/" + "long" * 40 + ".png", picture(4))
    return folder


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def members(path):
    with tarfile.open(path) as shard:
        return [(m.name, shard.extractfile(m).read()) for m in shard]


def lines(target):
    found = [json.loads(line) for line in (target / "manifest.jsonl").read_text().splitlines()]
    assert "settings" in found[0]
    return {line["source"]: line for line in found[1:]}


def convert(source, target, *options):
    return main(["convert", str(source), str(target), *OPTIONS, *options])


def test_a_data_set_and_back(source, tmp_path, capsys):
    target, back = tmp_path / "target", tmp_path / "back"
    assert convert(source, target, "-j", "1") == 1  # x/2.png
    assert "part.tar: x/2.png: left as it was: ImageError" in capsys.readouterr().err
    found = tree(target)
    # Two pictures that would have one name keep their suffixes.
    assert list(found) == ["a/0.jpg.ccm", "a/0.png.ccm", "a/1.ccm", "labels.json", "manifest.jsonl", "part.tar"]
    for name, data in (
        ("a/0.jpg.ccm", picture(1, "JPEG")),
        ("a/0.png.ccm", picture(0)),
        ("a/1.ccm", picture(2, "WEBP")),
    ):
        assert found[name] == coded(data)
    assert found["labels.json"] == b"{}"
    assert members(target / "part.tar") == [
        ("x/1.ccm", coded(picture(3, "JPEG"))),
        ("x/1.cls", b"1"),
        ("x/2.png", b"no picture"),
        ("x/" + "long" * 40 + ".ccm", coded(picture(4))),
    ]
    noted = lines(target)
    assert list(noted) == sorted(noted) == ["a/0.jpg", "a/0.png", "a/1.webp", "labels.json", "part.tar"]
    shard = noted["part.tar"]
    assert (shard["pictures"], shard["failed"]) == (2, 1) and "x/2.png" in shard["errors"]
    assert shard["bytes_in"] == len(picture(3, "JPEG")) + len(picture(4)) and shard["psnr_least"] <= shard["psnr"]
    decoded = ccm_fast.Codec.load(WEIGHTS).decode(found["a/0.png.ccm"])
    assert noted["a/0.png"]["psnr"] == round(psnr(tiny.photo(24, 32), decoded), 3)

    assert main(["convert", str(target), str(back), "-m", str(WEIGHTS), "--to", "png", "-j", "1", "--quiet"]) == 0
    assert set(tree(back)) == {"a/0.jpg.png", "a/0.png.png", "a/1.png", "labels.json", "manifest.jsonl", "part.tar"}
    with Image.open(back / "a/0.png.png") as image:
        assert np.array_equal(np.asarray(image), decoded)
    assert [name for name, _ in members(back / "part.tar")][:3] == ["x/1.png", "x/1.cls", "x/2.png"]


def test_going_on_and_beginning_anew(source, tmp_path, capsys):
    target = tmp_path / "target"
    convert(source, target, "-j", "1")
    whole, times = tree(target), {p: p.stat().st_mtime_ns for p in target.rglob("*.*") if p.name != "manifest.jsonl"}
    # Nothing is done twice.
    convert(source, target, "-j", "1", "--json")
    assert capsys.readouterr().out == "" and tree(target) == whole
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())
    # An output that is gone, a manifest that ends in half a line, and what a killed process leaves.
    (target / "a/1.ccm").unlink()
    manifest = target / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    (target / "a/.ccm-0123456789ab.tmp").write_bytes(b"half")
    convert(source, target, "-j", "1", "--json")
    again = [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()]
    assert again == ["a/1.webp", "part.tar"] and tree(target) == whole
    # A source that has changed.
    (source / "a/0.png").write_bytes(picture(7, size=(30, 30)))
    convert(source, target, "-j", "1")
    assert (target / "a/0.png.ccm").read_bytes() == coded(picture(7, size=(30, 30)))
    # Other settings.
    assert convert(source, target, "-j", "1", "-q", "6") == 2 and "(quality): --force" in capsys.readouterr().err
    assert convert(source, target, "-j", "1", "-q", "6", "--force") == 1
    assert lines(target)["a/1.webp"]["bytes_out"] > json.loads(whole["manifest.jsonl"].splitlines()[3])["bytes_out"]


def test_damaged_sources_are_errors_and_the_others_go_on(source, tmp_path, capsys):
    content = (source / "part.tar").read_bytes()
    (source / "cut.tar").write_bytes(content[:700])
    broken = bytearray(content)
    broken[content.index(b"x/1.cls") + 150] ^= 0x55
    (source / "header.tar").write_bytes(broken)
    (source / "a/bad.jpg").write_bytes(b"\xff\xd8\xff")
    (source / "bad.parquet").write_bytes(b"PAR1")
    target = tmp_path / "target"
    assert convert(source, target, "-j", "1") == 1
    noted, said = lines(target), capsys.readouterr().err
    for name in ("cut.tar", "header.tar", "a/bad.jpg", "bad.parquet"):
        assert "error" in noted[name] and f"{name}: " in said
        assert not (target / noted[name]["target"]).exists()
    assert "error" not in noted["part.tar"] and (target / "a/1.ccm").exists()
    assert not list(target.rglob("*.tmp"))
    (source / "a/bad.jpg").write_bytes(picture(5, "JPEG"))  # what failed is tried again
    convert(source, target, "-j", "1")
    assert (target / "a/bad.ccm").read_bytes() == coded(picture(5, "JPEG"))


def test_tables(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values = [{"bytes": picture(k), "path": f"{k}.png"} for k in range(3)] + [None, {"bytes": b"bad", "path": None}]
    table = pyarrow.table({"image": values, "label": [1, 2, 3, 4, 5]}).replace_schema_metadata({"huggingface": "{}"})
    source, target, back = tmp_path / "source", tmp_path / "target", tmp_path / "back"
    source.mkdir()
    parquet.write_table(table, source / "a.parquet", row_group_size=2, compression="ZSTD")
    parquet.write_table(pyarrow.table({"picture": [picture(5)], "n": [1]}), source / "b.parquet")
    parquet.write_table(pyarrow.table({"n": [1]}), source / "c.parquet")
    assert convert(source, target, "-j", "1") == 1
    found = parquet.read_table(target / "a.parquet")
    assert found.schema.equals(table.schema, check_metadata=True) and found["label"].equals(table["label"])
    want = [{"bytes": coded(picture(k)), "path": f"{k}.ccm"} for k in range(3)]
    assert found["image"].to_pylist() == [*want, *values[3:]]
    with parquet.ParquetFile(target / "a.parquet") as file:
        assert file.num_row_groups == 3 and file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert parquet.read_table(target / "b.parquet")["picture"].to_pylist() == [coded(picture(5))]
    noted = lines(target)
    assert noted["a.parquet"]["errors"]["row 4"].startswith("ImageError") and "no column" in noted["c.parquet"]["error"]
    assert convert(source, tmp_path / "other", "-j", "1", "--column", "n") == 1
    (target / "c.parquet").unlink(missing_ok=True)
    options = ["-m", str(WEIGHTS), "--to", "png", "-j", "1", "--quiet"]
    assert main(["convert", str(target), str(back), *options]) == 1  # the row that is no picture
    again = parquet.read_table(back / "a.parquet")["image"].to_pylist()
    assert again[0]["path"] == "0.png" and again[0]["bytes"].startswith(b"\x89PNG")


def test_processes_give_what_one_gives(source, tmp_path):
    convert(source, tmp_path / "one", "-j", "1")
    convert(source, tmp_path / "two", "-j", "2")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.slow
def test_a_process_that_dies_takes_nothing_with_it(tmp_path, monkeypatch):
    from ccm_fast.convert import local

    monkeypatch.setattr(local, "_work", deadly.convert_unit)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    for k in range(8):
        (source / f"{k}.png").write_bytes({2: b"deadly", 5: b"once"}.get(k, b"fine"))
    recoder = Recoder()
    found = list(run_local(units.find_units(source, recoder), str(source), str(target), recoder, None, 2))
    assert sorted(line["source"] for line in found) == [f"{k}.png" for k in range(8)]
    assert [line["source"] for line in found if "error" in line] == ["2.png"]


@pytest.mark.slow
def test_a_stop_loses_nothing_and_doubles_nothing(tmp_path):
    """SIGTERM in the middle, with processes; then the same command again."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for k in range(24):
        (source / f"{k:02}.png").write_bytes(picture(k, size=(96, 96)))
    command = [sys.executable, "-m", "ccm_fast", "convert", str(source), str(target), *OPTIONS, "-j", "2"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    while process.poll() is None and len(list(target.glob("*.ccm"))) < 3:
        time.sleep(0.005)
    process.terminate()
    process.communicate(timeout=60)
    done = len(list(target.glob("*.ccm")))
    assert process.returncode == 128 + signal.SIGTERM and 3 <= done < 24
    assert not list(target.glob(".ccm-*"))
    assert subprocess.run(command, env=env, timeout=120).returncode == 0
    assert tree(target) == {**tree(target), **{f"{k:02}.ccm": coded(picture(k, size=(96, 96))) for k in range(24)}}
    assert list(lines(target)) == [f"{k:02}.png" for k in range(24)] and len(tree(target)) == 25


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_a_command_that_is_killed_leaves_no_processes(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for k in range(12):
        (source / f"{k:02}.png").write_bytes(picture(k, size=(96, 96)))
    command = [sys.executable, "-m", "ccm_fast", "convert", str(source), str(target), *OPTIONS, "-j", "2"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while process.poll() is None and not list(target.glob("*.ccm")):
        time.sleep(0.005)
    workers = [pid for pid, line in descendants(process.pid) if "spawn_main" in line]
    process.kill()
    process.wait()
    assert len(workers) == 2
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def descendants(pid):
    """(process, command line) of all below a process."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for child in children:
        yield child, Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
        yield from descendants(child)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("CCM_TEST_RAY") != "1", reason="Ray: 200 MB, and half a minute (make test-ray)")
def test_ray_gives_what_processes_give(tmp_path):
    """A Ray that the command starts, two actors, one of them killed in the middle: the same bytes."""
    pytest.importorskip("ray")
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for k in range(40):
        (source / f"{k:02}.png").write_bytes(picture(k, size=(192, 192)))
    with tarfile.open(source / "part.tar", "w") as shard:
        for k in range(4):
            add_member(shard, f"{k}.png", picture(k))
    command = [sys.executable, "-m", "ccm_fast", "convert", str(source), str(target), *OPTIONS]
    command += ["-j", "2", "--ray", "local"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "RAY_DISABLE_IMPORT_WARNING": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    killed = 0
    while process.poll() is None and not killed:
        if len(list(target.glob("*.ccm"))) >= 4:
            actors = [pid for pid, line in descendants(process.pid) if line.startswith("ray::") and "Conver" in line]
            os.kill(actors[0], signal.SIGKILL)
            killed = actors[0]
        time.sleep(0.02)
    output, _ = process.communicate(timeout=240)
    assert killed and process.returncode == 0, output.decode()[-4000:]
    convert(source, tmp_path / "local", "-j", "1")
    assert tree(target) == tree(tmp_path / "local") and len(lines(target)) == 41


def test_arguments(source, tmp_path, capsys):
    assert convert(source, source / "inside") == 2 and convert(source, source) == 2
    (tmp_path / "file").touch()
    assert convert(source, tmp_path / "file") == 2
    assert convert(tmp_path / "none", tmp_path / "target") == 1
    assert convert(source, tmp_path / "target", "--to", "xyz") == 1
    assert main(["convert", str(source), str(tmp_path / "target"), "-m", "no-such"]) == 1
    capsys.readouterr()
    from ccm_fast.convert.manifest import SettingsError, open_manifest

    with open_manifest(tmp_path / "locked", {}, False):  # noqa: SIM117 - the second one is what fails
        with pytest.raises(SettingsError, match="another conversion"), open_manifest(tmp_path / "locked", {}, False):
            pass
    assert convert(source / "a/0.png", tmp_path / "single", "-j", "1") == 0
    assert set(tree(tmp_path / "single")) == {"0.ccm", "manifest.jsonl"}


def test_a_recoder_on_another_device(monkeypatch, tmp_path, capsys):
    """With a processor's module in the place of a GPU's."""
    from ccm_fast import tensor_batches

    asked = []
    monkeypatch.setattr(tensor_batches, "placed", lambda model, device: asked.append(device) or model)
    there, back = (Recoder(to=to, model=str(WEIGHTS), effort=1, measure=True, device="cuda:1") for to in ("ccm", "png"))
    assert there.settings()["device"] == "cuda:1" and "device" not in Recoder().settings()
    found = there.recode(picture(1))
    assert found.psnr == pytest.approx(
        Recoder(model=str(WEIGHTS), effort=1, measure=True).recode(picture(1)).psnr, abs=0.1
    )
    assert back(found.data).startswith(b"\x89PNG") and asked == ["cuda:1"] * 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "a.png").write_bytes(picture(1))
    for device in ("cuda", "xpu"):
        assert convert(tmp_path / "a.png", tmp_path / "target", "--device", device) == 1
        assert "is not available" in capsys.readouterr().err


@pytest.mark.parametrize("device, resource", [("cpu", "CPU"), ("cuda", "GPU")])
def test_actors_have_a_core_and_a_gpu_where_they_work_on_one(monkeypatch, device, resource):
    from ccm_fast.convert.on_ray import run_on_ray

    said = {}

    class Rows:
        def map_batches(self, *_, **options):
            said.update(options)
            return self

        def iter_rows(self):
            return iter([{"line": "{}"}])

    data = SimpleNamespace(
        DataContext=SimpleNamespace(get_current=SimpleNamespace), from_items=lambda *_, **options: Rows()
    )
    there = {"is_initialized": lambda: True, "cluster_resources": lambda: {resource: 3.0}, "data": data}
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(**there))
    unit = units.Unit("a.png", "a.ccm", "picture")
    assert list(run_on_ray([unit], "s", "t", Recoder(device=device), None, "auto", None)) == [{}]
    assert said["concurrency"] == (1, 3) and said["num_cpus"] == 1 and said["num_gpus"] == (resource == "GPU")


def test_a_recoder_travels():
    recoder = pickle.loads(pickle.dumps(Recoder(model=str(WEIGHTS), effort=1, quality=6)))
    data = picture(1)
    assert recoder(data) == files.encode_picture(files.open_picture(io.BytesIO(data), None), 6, WEIGHTS, effort=1)
    back = Recoder(to="webp", model=str(WEIGHTS), save_quality=10)
    assert back(recoder(data)).startswith(b"RIFF")
    with pytest.raises(errors.ImageError):
        recoder(b"none")
    with pytest.raises(errors.NotCcmError):
        back(data)
