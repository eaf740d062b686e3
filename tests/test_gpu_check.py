"""`make gpu-check` as far as it goes without a GPU: everything but the GPU itself, which the emulator stands for."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests/emu")]
import gpu_check  # noqa: E402
import gpu_parts  # noqa: E402
import tables  # noqa: E402
import tables_bench  # noqa: E402

import build  # noqa: E402


class Event:
    """A CUDA event, of which there are two a call."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    synchronize = record

    def elapsed_time(self, end):
        assert isinstance(end, Event)
        return 1.5


@pytest.fixture
def ops(monkeypatch):
    """The emulator's operators, whose GPU is the CPU under another name."""
    torch.ops.load_library(str(build.build_ops()))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return torch.ops.ccm_fast_emu


@pytest.fixture
def timed(monkeypatch):
    """Latencies are those of two calls, without the scratch memory."""
    monkeypatch.setattr(gpu_parts, "latencies", lambda call, repeats, device, f=gpu_parts.latencies: f(call, 2, "meta"))
    monkeypatch.setattr(torch.Tensor, "zero_", lambda t: t)


@pytest.fixture
def pictures(tmp_path):
    """Three PNG files of one size."""
    files = []
    for k in range(3):
        files.append(tmp_path / f"{k}.png")
        Image.fromarray(tiny.photo(24, 40, k)).save(files[-1])
    return files


@pytest.mark.slow
def test_a_photograph_is_compared_and_timed(ops, timed, tmp_path, monkeypatch):
    """And the table of the documents reads what is written of it."""
    record = gpu_parts.compare(tiny.model(), tiny.photo(40, 56, 1), 4.0, ops, torch.device("cpu", 0), 2)
    assert record["equal"] and set(record["stages"]) == {"decode_z", "hyper", "decode_y"}
    assert record["stages"]["decode_y"]["median_ms"] == 1.5
    (profile,) = tables.load(f"{tables_bench.GPU_CHECK}/whole.json")["records"]
    for part, found in (("exact", {"file": "one.png", **record}), ("whole", profile)):
        gpu_parts.Results(tmp_path / "run" / f"{part}.json").add(found)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert f"| one.png | 4 | {record['bytes']} | the CPU's | 1.50 | 1.50 | 1.50 |" in tables_bench.gpu("run")
    assert tables_bench.gpu("no run") == ""


@pytest.mark.slow
def test_a_difference_is_seen(ops):
    def wrong(*arguments):
        y_hat, status = ops.decode_y(*arguments)
        return y_hat + (y_hat == y_hat.max()).to(y_hat.dtype), status

    others = {name: getattr(ops, name) for name in ("pack_plan_cuda", "decode_z", "hyper")}
    record = gpu_parts.compare(
        tiny.model(), tiny.photo(24, 24), 4.0, SimpleNamespace(**others, decode_y=wrong), "cpu", 1
    )
    assert not record["equal"]


@pytest.mark.slow
def test_lanes_and_batches_are_measured_once(ops, timed, pictures, tmp_path, monkeypatch):
    """The parts' own code, record by record; a second call measures nothing that is there."""
    monkeypatch.setattr(gpu_parts, "BATCH", 8)
    model = tiny.model()
    for name, part, count in (("lanes", gpu_parts.lanes, 2 * 3 * 4), ("batch", gpu_parts.batch, 4)):
        for _ in range(2):
            results = gpu_parts.Results(tmp_path / f"{name}.json")
            part(model, pictures[:2], results, ops, "cpu", 2)
            assert len(results.records) == count and not gpu_parts.failures(results)
            assert all(r["decode_y"]["median_ms"] == 1.5 for r in results.records)
    assert json.loads((tmp_path / "batch.json").read_text())["records"][0]["images"] == 8


@pytest.mark.slow
def test_filters_are_compared_and_timed(ops, timed, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parts, "BATCH", 2)
    for _ in range(2):
        results = gpu_parts.Results(tmp_path / "filters.json")
        gpu_parts.filters(results, ops, "cpu", 2, (20, 80))
        assert [r["images"] for r in results.records] == [1, 2] and not gpu_parts.failures(results)
    wrong = SimpleNamespace(picture_filter=lambda pixels, records, out: out.fill_(3))
    results = gpu_parts.Results(tmp_path / "wrong.json")
    gpu_parts.filters(results, wrong, "cpu", 2, (20, 80))
    assert len(gpu_parts.failures(results)) == 2


@pytest.mark.slow
def test_sanitizers_are_run_where_they_are(monkeypatch):
    """The commands, and that a tool's finding (its exit status) is what is told."""
    seen = []

    def run(command, **_):
        seen.append(command)
        return SimpleNamespace(returncode=9 if "racecheck" in command else 0)

    monkeypatch.setattr(gpu_parts.subprocess, "run", run)
    monkeypatch.setattr(gpu_parts.shutil, "which", lambda *_, **__: "/opt/compute-sanitizer")
    assert gpu_parts.run_tests(False) == {"plain": 0}
    assert gpu_parts.run_tests(True) == {"memcheck": 0, "racecheck": 9, "synccheck": 0, "initcheck": 0}
    assert all("tests/test_gpu.py" in c for c in seen) and seen[1][:3] == [
        "/opt/compute-sanitizer",
        "--tool",
        "memcheck",
    ]
    monkeypatch.setattr(gpu_parts.shutil, "which", lambda *_, **__: None)
    assert gpu_parts.run_tests(True) == {}


def part(name, code, seconds=20.0):
    """A part that is a line of Python."""
    return gpu_check.Part(name, seconds, (sys.executable, "-c", code))


def test_parts_are_done_in_turn_and_go_on_where_they_ended(tmp_path):
    """Rehearsal: one that fails, one that hangs with a child, one without time; the next call does these alone."""
    log, child = tmp_path / "log", tmp_path / "child"
    says = f"open({str(log)!r}, 'a').write('%s '); import sys; %s"
    hangs = "import subprocess, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    hangs += f"open({str(child)!r}, 'w').write(str(p.pid)); time.sleep(600)"
    first = [
        part("good", says % ("good", "")), part("bad", says % ("bad", "sys.exit(3)")),
        part("hangs", says % ("hangs", hangs), 6.0), part("late", says % ("late", "")),
    ]  # fmt: skip
    now = iter([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 96.0, 96.0, 96.0])
    found = gpu_check.run_parts(first, tmp_path, 100.0, lambda: next(now))
    status = {name: found[name]["status"] for name in found}
    assert status == {"good": "done", "bad": "failed", "hangs": "out of time", "late": "left"}
    assert log.read_text() == "good bad hangs " and json.loads((tmp_path / "summary.json").read_text()) == found
    time.sleep(0.2)
    state = Path(f"/proc/{child.read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"  # the child of what hung is ended, too
    again = [part(p.name, says % (p.name, "")) for p in first]
    found = gpu_check.run_parts(again, tmp_path, 100.0)
    assert {p["status"] for p in found.values()} == {"done"}
    assert log.read_text() == "good bad hangs bad hangs late "


def test_everything_fits_into_twelve_minutes():
    """All of the list, each with a limit; what is most wanted in the first half of the time."""
    args = SimpleNamespace(out=Path("out"), images=Path("images"), model="ccm-small", repeats=20)
    parts = gpu_check.parts_of(args)
    names = [p.name for p in parts]
    assert names[:5] == ["exact", "lanes", "batch", "whole", "mbt2018"] and {"tests", "sanitizers", "all"} < set(names)
    assert sum(p.seconds for p in parts[:7]) <= 720 and all(5 <= p.seconds <= 240 for p in parts)
    assert all(f"    {n} " in gpu_check.__doc__ for n in names)


@pytest.mark.slow
def test_from_the_command_line(tmp_path):
    """Emulated, on a tiny picture with the tiny model; and what is said where there is no GPU."""
    Image.fromarray(tiny.photo(24, 32, 1)).save(tmp_path / "a.png")
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--images", str(tmp_path)]
    command += ["--model", str(tiny.GOLDEN / "tiny.safetensors"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--emulated"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok"), done.stdout + done.stderr
    file = tmp_path / "out" / "emulated.json"
    found = json.loads(file.read_text())
    assert [r["equal"] for r in found["records"]] == [True] * 3 and found["environment"]
    # What is there is not measured again.
    found["records"].pop()
    file.write_text(json.dumps(found))
    done = subprocess.run([*command, "--emulated", "--crop", "16", "16"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count('"equal": true') == 1
    assert [r["latents"] for r in json.loads(file.read_text())["records"]] == [[2, 2], [2, 2], [1, 1]]
    if not torch.cuda.is_available():
        done = subprocess.run([*command, "--only", "exact"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode != 0 and "sees no GPU" in done.stderr and "not done: exact (failed)" in done.stdout
