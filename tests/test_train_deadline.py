"""Training that must be over at a time: minutes of a borrowed machine, rehearsed on the CPU."""

import json
import tarfile
import time

import pytest
import tiny
from PIL import Image
from test_train_floats import SMALL

from ccm_fast.command.main import main
from ccm_fast.models import PRESETS
from ccm_fast.train import deadline
from ccm_fast.train.checkpoint import read
from ccm_fast.train.deadline import Deadline
from ccm_fast.train.loop import TrainConfig, train


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two tar files of crops."""
    folder = tmp_path_factory.mktemp("parts")
    for k in range(2):
        Image.fromarray(tiny.photo(96, 96, k)).save(folder / f"{k}.jpg", quality=94)
        with tarfile.open(folder / f"part-{k}.tar", "w") as tar:
            tar.add(folder / f"{k}.jpg", f"{k}.jpg")
    return sorted(str(p) for p in folder.glob("*.tar"))


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when it is told to."""
    now = [100.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_ends_in_time_for_what_comes_after_it(clock):
    limit = Deadline(2)
    clock[0] += 9  # images are decoded
    limit.start(0, 20)
    assert limit.done() == 0
    clock[0] += 40  # half of 120 - 9 - 1.5 * 20 - 1 seconds
    assert limit.done() == pytest.approx(0.5)
    clock[0] += 40
    assert limit.done() == 1
    clock[0] += 1000
    assert limit.done() == 1


def test_a_second_call_goes_on_in_the_schedule(clock):
    limit = Deadline(1)
    limit.start(59 / 3600, 0)
    assert limit.done() == pytest.approx(0.5)
    clock[0] += 29.5
    assert limit.done() == pytest.approx(0.75)
    short = Deadline(0.1)
    short.start(0, 60)  # no time left
    assert short.done() == 1


@pytest.mark.slow
def test_twelve_minutes_rehearsed(parts, tmp_path, monkeypatch, capsys):
    """What a borrowed GPU does, in seconds: start from floats, resident crops, schedule, files to carry."""
    monkeypatch.setitem(PRESETS, "small", SMALL)
    options = ["--data", *parts, "--preset", "small", "--batch", "2", "--crop", "64", "--threads", "1", "--quiet"]
    first = tmp_path / "a"
    assert main(["train", "--out", str(first), *options, "--stages", "joint=2", "--start", "random"]) == 0
    floats = tmp_path / "a.safetensors"
    assert main(["train", "--out", str(first), "--floats", str(floats)]) == 0
    monkeypatch.setattr(time, "monotonic", time.process_time)  # a busy machine takes nothing from the six seconds
    began = time.process_time()
    second = tmp_path / "b"
    rest = ["--init", str(floats), "--stages", "joint=1h", "--valid", parts[0], "--warmup", "5", "--schedule", "cosine"]
    assert main(["train", "--out", str(second), *options, *rest, "--resident", "--rdoq", "--limit", "0.1"]) == 0
    assert time.process_time() - began < 9
    state = read(second / "last.pt")
    assert state["step"] > 4 and state["stage"] == 1
    lines = [json.loads(line) for line in (second / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("event") == "valid"] == [2, state["step"]]
    assert main(["train", "--out", str(second), "--floats", str(second / "floats.safetensors")]) == 0
    assert (second / "floats.safetensors").stat().st_size <= 16 << 20


def test_a_limit_is_for_one_stage(parts, tmp_path):
    config = TrainConfig(out=str(tmp_path), data=parts, preset=SMALL, limit=1, stages="context=5,joint=5")
    with pytest.raises(ValueError, match="one stage"):
        train(config, progress=False)
