"""`make gpu-check` as far as it goes without a GPU: everything but the GPU itself, which the emulator stands for."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests/emu")]
import gpu_check  # noqa: E402

import build  # noqa: E402

pytestmark = pytest.mark.slow


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


def test_a_photograph_is_compared_and_timed(ops, monkeypatch):
    monkeypatch.setattr(gpu_check, "latencies", lambda call, repeats, device, f=gpu_check.latencies: f(call, 2, "meta"))
    monkeypatch.setattr(torch.Tensor, "zero_", lambda t: t)
    record = gpu_check.compare(tiny.model(), tiny.photo(40, 56, 1), 4.0, ops, torch.device("cpu"), 2)
    assert record["equal"] and set(record["stages"]) == {"decode_z", "hyper", "decode_y"}
    assert record["stages"]["decode_y"]["median_ms"] == 1.5
    json.dumps(record)


def test_a_difference_is_seen(ops):
    def wrong(*arguments):
        y_hat, status = ops.decode_y(*arguments)
        return y_hat + (y_hat == y_hat.max()).to(y_hat.dtype), status

    others = {name: getattr(ops, name) for name in ("pack_plan_cuda", "decode_z", "hyper")}
    record = gpu_check.compare(
        tiny.model(), tiny.photo(24, 24), 4.0, SimpleNamespace(**others, decode_y=wrong), "cpu", 1
    )
    assert not record["equal"]


def test_sanitizers_are_run_where_they_are(monkeypatch):
    """The commands, and that a tool's finding (its exit status) is what is told."""
    seen = []

    def run(command, **_):
        seen.append(command)
        return SimpleNamespace(returncode=9 if "racecheck" in command else 0)

    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *_, **__: "/opt/compute-sanitizer")
    assert gpu_check.run_tests(False) == {"plain": 0, "memcheck": 0, "racecheck": 9, "synccheck": 0, "initcheck": 0}
    assert all("tests/test_gpu.py" in c for c in seen) and seen[1][:3] == [
        "/opt/compute-sanitizer",
        "--tool",
        "memcheck",
    ]
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *_, **__: None)
    assert gpu_check.run_tests(False) == {"plain": 0}


def test_from_the_command_line(tmp_path):
    """Emulated, on a tiny picture with the tiny model; and what is said where there is no GPU."""
    Image.fromarray(tiny.photo(24, 32, 1)).save(tmp_path / "a.png")
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--images", str(tmp_path)]
    weights = ["--model", str(tiny.GOLDEN / "tiny.safetensors"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run([*command, *weights, "--emulated"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok"), done.stdout + done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert [r["equal"] for r in found["images"]] == [True] * 3 and found["environment"]
    # What is there is not measured again; what is left waits for another time where the time is over.
    found["images"].pop()
    (tmp_path / "out.json").write_text(json.dumps(found))
    again = [*command, *weights, "--emulated", "--resume"]
    done = subprocess.run([*again, "--limit", "1e-9"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0 and "go on with --resume" in done.stderr
    done = subprocess.run(again, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("equal") == 1
    assert len(json.loads((tmp_path / "out.json").read_text())["images"]) == 3
    if not torch.cuda.is_available():
        done = subprocess.run([*command, *weights], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode != 0 and "sees no GPU" in done.stderr
