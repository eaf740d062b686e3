"""Bars of what takes long: they reach their ends, and say how long it will take."""

import io
import types

import compressai_nets as nets
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import ccm_fast
import ccm_fast.interop.pillow
from ccm_fast.command.batch import StageTimes
from ccm_fast.models import CrossChannelContextModel
from ccm_fast.train.loop import _steps_left
from ccm_fast.train.stages import parse_stages

pytestmark = pytest.mark.usefixtures("one_thread")


def last_lines(text):
    """What stands behind the last carriage return, by the bar's name."""
    lines = [line.split("\r")[-1] for line in text.splitlines()]
    return {line.partition(":")[0]: line for line in lines if ":" in line}


@pytest.mark.slow
def test_freezing_shows_its_calibration(capsys):
    torch.manual_seed(0)
    model = CrossChannelContextModel(tiny.CONFIG)
    ccm_fast.freeze(model, [tiny.photo(32, 48)], steps=0, progress=True)
    lines = last_lines(capsys.readouterr().err)
    assert "latents: 100%" in lines["latents"] and "calibration: 100%" in lines["calibration"]
    ccm_fast.freeze(model, [tiny.photo(32, 48)], steps=0)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_accelerate_shows_what_it_does(capsys):
    ccm_fast.accelerate(nets.make("mbt2018-mean"), nets.photos(1, 64, 64), steps=1, progress=True)
    lines = last_lines(capsys.readouterr().err)
    assert {"latents", "calibration", "fine-tuning"} == set(lines) and all("100%" in line for line in lines.values())


@pytest.mark.parametrize(
    ("stages", "stage", "done", "left"),
    [
        ("joint=200", 0, 0.25, 150),
        ("joint=2h", 0, 0.25, 150),
        ("hyper=100,joint=40", 0, 0.5, 90),
        ("hyper=100,joint=2h", 0, 0.5, 50 + 200),
        ("hyper=100,joint=50", 1, 1.0, 0),
        ("joint=100", 0, 0.0, None),
    ],
)
def test_training_knows_about_how_many_steps_are_left(stages, stage, done, left):
    progress = types.SimpleNamespace(stage=stage, stage_step=50, stage_hours=0.5)
    assert _steps_left(types.SimpleNamespace(progress=progress), parse_stages(stages), done) == left


# ---------------------------------------------------------------------------------------------------------------------
# Of the native codec

WEIGHTS = tiny.GOLDEN / "tiny.safetensors"


class Told(list):
    """What a progress function has been told."""

    def __call__(self, done, steps):
        assert 0 <= done <= steps
        self.append(done / steps)

    def check(self, several=True):
        """It rises, and ends at the end; work that takes long is told of on the way."""
        assert self == sorted(self) and self[-1] == 1
        # At most every 50 ms, and between tiles alone: how often depends on the machine.
        assert not several or any(0 < share < 1 for share in self)
        self.clear()


@pytest.fixture(scope="module")
def large():
    """A picture of several tiles that takes a quarter of a second, with the smallest of models."""
    return np.tile(tiny.photo(300, 400), (10, 10, 1))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_large_pictures_are_told_of_on_the_way(large, threads):
    codec, told = ccm_fast.Codec.load(WEIGHTS), Told()
    data = codec.encode(large, 4, effort=1, threads=threads, progress=told)
    told.check()
    codec.decode(data, threads=threads, progress=told)
    told.check()
    codec.encode([large[:1400], large[1400:]], 4, effort=1, threads=threads, progress=told)
    told.check()


@pytest.mark.slow
def test_files_and_pillow_tell_of_it(large):
    told, file = Told(), io.BytesIO()
    ccm_fast.encode_file(Image.fromarray(large), file, model=WEIGHTS, effort=1, progress=told)
    told.check()
    ccm_fast.decode_file(io.BytesIO(file.getvalue()), model=WEIGHTS, progress=told)
    told.check()
    Image.fromarray(large).save(io.BytesIO(), "CCM", model=WEIGHTS, effort=1, progress=told)
    told.check()
    image = Image.open(io.BytesIO(file.getvalue()))
    image.model, image.progress = WEIGHTS, told
    image.load()
    told.check()


def test_searches_tell_of_it():
    told = Told()
    ccm_fast.encode_file(Image.fromarray(tiny.photo(64, 64)), io.BytesIO(), model=WEIGHTS, target_bpp=1, progress=told)
    told.check(several=False)
    assert told == []


def test_what_progress_raises_ends_the_call(large):
    def enough(done, steps):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        ccm_fast.Codec.load(WEIGHTS).encode(large, 4, effort=1, progress=enough)


def test_calls_within_progress_have_their_own(large):
    codec, inner, outer = ccm_fast.Codec.load(WEIGHTS), Told(), Told()
    small = tiny.photo(32, 32)

    def progress(done, steps):
        outer(done, steps)
        codec.encode(small, effort=1, progress=inner)

    codec.encode(large, 4, effort=1, progress=progress)
    outer.check()
    assert inner and inner[-1] == 1


def test_the_bar_follows_the_whole():
    bar = types.SimpleNamespace(n=0.0)
    bar.update = lambda more: setattr(bar, "n", bar.n + more)
    times = StageTimes({"read": 0.1, "g_a": 0.5, "entropy": 0.2, "write": 0.2}, types.SimpleNamespace(is_set=bool), bar)
    times["read"] = 1.0
    assert bar.n == pytest.approx(0.1)
    times.whole(1, 2)
    assert bar.n == pytest.approx(0.45)
    times["g_a"] = times["entropy"] = 1.0  # which a search reports after its first attempt
    assert bar.n == pytest.approx(0.45)
    times.whole(2, 2)
    assert bar.n == pytest.approx(0.8)
