"""The floats of a run: what survives when its checkpoint does not."""

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from ccm_fast.command.main import main
from ccm_fast.errors import ModelError
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.train.checkpoint import averages, initial, read
from ccm_fast.train.floats import read_floats, write_floats
from ccm_fast.train.loop import TrainConfig, train
from ccm_fast.train.ship import load_checkpoint

SMALL = CCMConfig(
    name="small", widths=(6, 6, 6), blocks=(0, 0, 0), groups=(2, 2), hyper_channels=2, psi_channels=4, cross_width=4,
    parameter_widths=(6,),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("run")
    Image.fromarray(tiny.photo(80, 80)).save(folder / "a.png")
    options = {"stages": "joint=3", "batch": 1, "crop": 64, "threads": 1, "start": "random"}
    train(TrainConfig(out=str(folder), data=[str(folder / "a.png")], preset=SMALL, **options), progress=False)
    return folder


def test_another_run_goes_on_from_them(run, tmp_path, capsys):
    path = tmp_path / "floats.safetensors"
    assert main(["train", "--out", str(run), "--floats", str(path)]) == 0
    assert path.stat().st_size < (run / "last.pt").stat().st_size / 4
    state = read(run / "last.pt")
    model = CrossChannelContextModel(SMALL)
    progress = initial(str(path), model, [])
    assert (progress.step, progress.patches, progress.stage_step) == (3, 3, 0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state["ema"][name].half().float()), name
    options = {"stages": "joint=1", "batch": 1, "crop": 64, "threads": 1, "init": str(path)}
    last = train(TrainConfig(out=str(tmp_path / "b"), data=[str(run)], preset=SMALL, **options), progress=False)
    assert read(last)["step"] == 4
    frozen_from, meta = load_checkpoint(path)
    assert frozen_from.config == SMALL and meta["step"] == 3 and meta["crop"] == 64


def test_other_files_are_none(run, tmp_path):
    assert averages(tiny.GOLDEN / "tiny.safetensors") is None
    with pytest.raises(ValueError, match="no file of floats"):
        load_checkpoint(tiny.GOLDEN / "tiny.safetensors")
    with pytest.raises(FileNotFoundError):
        read_floats(tmp_path / "none.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(200)))
    assert read_floats(tmp_path / "noise.safetensors") is None
    save_file({"a": torch.zeros(1)}, str(tmp_path / "half.safetensors"), {"format": "ccm_fast floats 1"})
    with pytest.raises(ModelError, match="metadata"):
        read_floats(tmp_path / "half.safetensors")
    state = read(run / "last.pt")
    state["ema"]["log_gain"][0, 0] = 1e6
    with pytest.raises(ModelError, match="log_gain"):
        write_floats(state, tmp_path / "infinite.safetensors")
    assert not (tmp_path / "infinite.safetensors").exists()


def test_the_ones_that_are_kept_fit_their_preset():
    path = Path(__file__).parents[1] / "floats" / "ccm-small-2.safetensors"
    model = CrossChannelContextModel("ccm-small-2")
    progress = initial(str(path), model, [])
    kept = read_floats(path)["ema"]
    assert kept.keys() == model.state_dict().keys()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert progress.patches > 1_850_000
