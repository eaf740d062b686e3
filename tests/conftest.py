"""Fixtures of several test files."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest
import thinned
import tiny
import torch
from PIL import Image

from ccm_fast import precision
from ccm_fast.entropy import tensors
from ccm_fast.native import Codec

# Examples have no deadline: what takes 1 ms takes 300 on a busy machine.
hypothesis.settings.register_profile("ccm", deadline=None)
hypothesis.settings.load_profile("ccm")


def pytest_collection_modifyitems(config, items):
    thinned.deselect(config, items)


@pytest.fixture
def photos(tmp_path):
    """A folder of two pictures of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k, size in enumerate(((168, 176), (171, 165))):
        Image.fromarray(tiny.photo(*size, k)).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="session")
def codec():
    """The committed tiny model without torch's modules."""
    return Codec.load(tiny.GOLDEN / "tiny.safetensors")


@pytest.fixture
def one_thread():
    """torch on one thread: the sums of floats are then those of every other run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def float_transforms(monkeypatch):
    """Transforms multiply floats: fast ones then agree with torch's own to the last bits."""
    monkeypatch.setattr(precision, "_precision", "float32")


@pytest.fixture
def emulated_ops(monkeypatch):
    """The CUDA operators on the emulator, for the engine "cuda": its device is the CPU."""
    sys.path.insert(0, str(Path(__file__).parent / "emu"))
    import build

    torch.ops.load_library(str(build.build_ops(os.environ.get("CCM_EMU_FLAVOUR", "plain"))))
    monkeypatch.setenv("CCM_EMU_SMS", "2")
    monkeypatch.setattr(tensors, "device_for", lambda engine, device=None: torch.device("cpu"))
    return torch.ops.ccm_fast_emu
