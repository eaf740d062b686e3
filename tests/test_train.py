"""Training: it learns, resumes exactly, reads tar shards and folders, and refuses what it cannot do."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ccm_fast.models import CCMConfig
from ccm_fast.train.data import CropDataset, load_images
from ccm_fast.train.loop import TrainConfig, train
from ccm_fast.train.loss import lagrange_multiplier
from ccm_fast.train.ship import load_checkpoint, ship

TINY = CCMConfig(
    name="tiny",
    widths=(8, 8, 8),
    blocks=(0, 0, 0),
    groups=(4, 4),
    hyper_channels=4,
    psi_channels=8,
    cross_kernels=(3,),
    parameter_widths=(16,),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three smooth pictures."""
    path = tmp_path_factory.mktemp("pictures")
    i, j = np.mgrid[:200, :190] / 30
    for k in range(3):
        planes = [np.sin(i * (1 + c) + k) * np.cos(j * (2 - c)) for c in range(3)]
        Image.fromarray(np.uint8(127 + 100 * np.stack(planes, -1))).save(path / f"{k}.png")
    return path


def config(out, folder, **options):
    options = {"stages": "joint=4", "batch": 2, "crop": 64, "warmup": 1, "save_minutes": 1e6, **options}
    return TrainConfig(out=str(out), data=[str(folder)], preset=TINY, threads=1, **options)


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_it_learns_and_ships(tmp_path, folder):
    last = train(config(tmp_path, folder, stages="joint=150", lr=3e-3, valid=[str(folder)]), progress=False)
    first, *_, end = losses(tmp_path)
    assert end < 0.8 * first
    model, meta = load_checkpoint(last)
    assert (meta["step"], meta["patches"]) == (150, 300)
    report = ship(last, tmp_path / "t.safetensors", [str(folder)], [str(folder)], qualities=(2, 7), progress=False)
    assert report == json.loads((tmp_path / "t.json").read_text())
    low, high = report["results"]
    assert low["bpp"] < high["bpp"]
    assert set(report["integer_cost_percent"]) == {"2", "4", "6"}
    assert model.config == TINY
    # What has shipped can be trained on.
    again = train(
        config(tmp_path / "more", folder, stages="joint=1", lr=0.0, init=str(tmp_path / "t.safetensors")),
        progress=False,
    )
    continued, _ = load_checkpoint(again)
    for name, value in model.state_dict().items():
        if name.startswith(("g_a.", "g_s.", "h_a.", "log_gain")):
            assert torch.allclose(continued.state_dict()[name], value, atol=1e-3), name


def test_resume_is_exact(tmp_path, folder, monkeypatch):
    straight = train(config(tmp_path / "a", folder), progress=False)
    batch, calls = CropDataset.batch, []

    def interrupted(self, size):
        calls.append(size)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batch(self, size)

    monkeypatch.setattr(CropDataset, "batch", interrupted)
    train(config(tmp_path / "b", folder), progress=False)
    resumed = train(config(tmp_path / "b", folder), progress=False)
    a, b = (torch.load(p, weights_only=False) for p in (straight, resumed))
    assert a["step"] == b["step"] == 4
    for part in ("model", "ema"):
        assert all(torch.equal(v, b[part][k]) for k, v in a[part].items())


def test_ms_ssim(tmp_path, folder):
    pytest.importorskip("pytorch_msssim")
    with pytest.raises(ValueError, match="176"):
        train(config(tmp_path, folder, metric="ms-ssim"), progress=False)
    train(config(tmp_path, folder, metric="ms-ssim", crop=176, stages="joint=1"), progress=False)
    assert (tmp_path / "last.pt").exists()


def test_shards_and_folders(tmp_path, folder):
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
        note = tarfile.TarInfo("a.json")
        note.size = 2
        tar.addfile(note, io.BytesIO(b"{}"))
    a, b = load_images([shard]), load_images([folder])
    assert len(a) == len(b) == 3
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    with pytest.raises(FileNotFoundError, match="no such"):
        load_images([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        load_images([tmp_path / "empty"])
    with pytest.raises(ValueError, match="crop"):
        CropDataset(a, 500)


def test_crops():
    image = np.arange(40 * 50 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 50, 3)
    crops = CropDataset([image], 32, seed=3)
    state = crops.state()
    first = crops.batch(5)
    assert first.shape == (5, 3, 32, 32)
    assert first.dtype == torch.float32
    crops.restore(state)
    assert torch.equal(crops.batch(5), first)


def test_lagrange_multipliers():
    lam = lagrange_multiplier(torch.tensor([1.0, 8.0]))
    assert torch.allclose(lam, torch.tensor([0.0018, 0.18]))
