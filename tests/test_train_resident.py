"""Crops that are cut on the device, and steps made of them; what needs a GPU is in test_gpu.py."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import config, folder, losses  # noqa: F401

from ccm_fast.train.data import CropDataset
from ccm_fast.train.loop import train
from ccm_fast.train.resident import ResidentCrops


def images():
    rng = np.random.default_rng(0)
    sizes = ((90, 100), (64, 80), (120, 75))
    smooth = [Image.fromarray(rng.integers(0, 256, (h // 6, w // 6, 3), np.uint8)).resize((w, h)) for h, w in sizes]
    return [np.asarray(image) for image in smooth]


def test_crops_are_those_of_the_data_set():
    crops, again = (CropDataset(images(), 48, 1, augment=1.3) for _ in range(2))
    resident = ResidentCrops(crops, "cpu")
    found = resident.cut(resident.places(200))
    expected = again.batch(200)
    assert found.shape == expected.shape and crops.position == again.position
    assert found.is_contiguous(memory_format=torch.channels_last)
    error = (found - expected).abs().amax((1, 2, 3))
    windows = [again.window(n) for n in range(200)]
    whole = torch.tensor([w.side == 48 for w in windows])
    seen = {(w.turns, w.mirror) for w, same in zip(windows, whole, strict=True) if same}
    assert len(seen) == 8  # every turn is among the exact ones
    assert error[whole].max() < 1e-5
    # Another filter: by the picture's contrast, some percent.
    assert (found - expected)[~whole].square().mean().sqrt() < 0.03 * expected.std()
    assert 60 < whole.sum() < 140


def test_plain_crops_are_pixels():
    crops, again = (CropDataset(images(), 48, 2) for _ in range(2))
    resident = ResidentCrops(crops, "cpu")
    assert torch.allclose(resident.cut(resident.places(50)), again.batch(50), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rdoq", [False, True])
def test_steps_are_those_of_cropped_batches(tmp_path, folder, rdoq):  # noqa: F811
    """The same numbers, up to the pixels' last bits, whichever way the crops come."""
    options = {"stages": "context=2,joint=50", "rdoq": rdoq, "lr": 1e-4}
    for name in (False, True):
        train(config(tmp_path / str(name), folder, resident=name, **options), progress=False)
    ours, theirs = losses(tmp_path / "True"), losses(tmp_path / "False")
    assert len(ours) == 1 and ours == pytest.approx(theirs, rel=1e-3)
