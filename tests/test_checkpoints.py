"""Checkpoints that are damaged, cut off or from elsewhere: a typed error with the file's name, whatever torch says."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import TINY

from ccm_fast.command.main import main
from ccm_fast.errors import ModelError
from ccm_fast.train.checkpoint import initial, read
from ccm_fast.train.config import TrainConfig
from ccm_fast.train.loop import train
from ccm_fast.train.ship import load_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The options of a run, and the contents of its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    options = {"data": [str(folder / "a.png")], "preset": TINY, "threads": 1, "stages": "joint=1", "start": "random"}
    options |= {"batch": 1, "crop": 64, "warmup": 1}
    return options, train(TrainConfig(out=str(folder / "out"), **options), progress=False)


@pytest.mark.slow
def test_every_part_of_a_file_may_be_damaged(run, tmp_path):
    good = run[1].read_bytes()
    path, rng, refused = tmp_path / "bad.pt", np.random.default_rng(1), 0
    with zipfile.ZipFile(run[1]) as archive:
        pickled = next(info for info in archive.infolist() if info.filename.endswith("data.pkl"))
    cuts = [good[: len(good) * k // 40] for k in range(40)]
    flips = [bytearray(good) for _ in range(150)]
    for bad in flips:  # in the pickle, where any type of error may come from
        for _ in range(rng.integers(1, 4)):
            bad[pickled.header_offset + rng.integers(pickled.file_size)] ^= 1 << rng.integers(8)
    for data in (*cuts, *map(bytes, flips)):
        path.write_bytes(data)
        try:
            load_checkpoint(path)
        except ModelError as error:
            assert "bad.pt" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"widths": [4096] * 3}},
        {"config": {"no such": 1}},
        {"config": 3},
        {"ema": {"g_a.0.weight": 3}},
        {"ema": [1]},
        {"model": {}},
        {"train": None},
        {"optimizer": {}},
        {"optimizer": {"param_groups": [1, 2, 3]}},
        {"torch_rng": [torch.zeros(3)]},
        {"data": 4},
        {"step": "many"},
    ],
    ids=lambda change: f"{change}"[:40],
)
def test_resuming_from_other_things(run, change, tmp_path):
    options, good = run
    state = {**read(good), **change}
    if isinstance(change.get("config"), dict):
        state["config"] = {**TINY.to_dict(), **change["config"]}
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(ModelError, match=r"last\.pt"):
        train(TrainConfig(out=str(tmp_path), **options), progress=False)


class Code:
    def __reduce__(self):
        return (print, ("code has run",))


def test_no_code_runs(run, tmp_path, capsys):
    path = tmp_path / "last.pt"
    torch.save({**read(run[1]), "train": Code()}, path)
    for data in (path.read_bytes(), pickle.dumps(Code())):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"last\.pt"):
            load_checkpoint(path)
    assert main(["freeze", str(path), str(tmp_path / "x.safetensors"), "--data", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "code has run" not in said.out and said.err.count("\n") == 1 and "last.pt" in said.err


def test_beginning_with_other_things(run, tmp_path):
    path = tmp_path / "old.pt"
    torch.save({**read(run[1]), "hours": "long"}, path)
    with pytest.raises(ModelError, match=r"old\.pt"):
        initial(str(path), load_checkpoint(run[1])[0], [])
