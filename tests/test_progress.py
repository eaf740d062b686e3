"""Bars of what takes long: they reach their ends, and say how long it will take."""

import types

import compressai_nets as nets
import pytest
import tiny
import torch

import ccm_fast
from ccm_fast.models import CrossChannelContextModel
from ccm_fast.train.loop import _steps_left
from ccm_fast.train.stages import parse_stages

pytestmark = pytest.mark.usefixtures("one_thread")


def last_lines(text):
    """What stands behind the last carriage return, by the bar's name."""
    lines = [line.split("\r")[-1] for line in text.splitlines()]
    return {line.partition(":")[0]: line for line in lines if ":" in line}


def test_freezing_shows_its_calibration(capsys):
    torch.manual_seed(0)
    model = CrossChannelContextModel(tiny.CONFIG)
    ccm_fast.freeze(model, [tiny.photo(32, 48)], steps=0, progress=True)
    lines = last_lines(capsys.readouterr().err)
    assert "latents: 100%" in lines["latents"] and "calibration: 100%" in lines["calibration"]
    ccm_fast.freeze(model, [tiny.photo(32, 48)], steps=0)
    assert capsys.readouterr().err == ""


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
