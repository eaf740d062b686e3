"""What Python does around the CUDA operators, with the emulator's in their place."""

import numpy as np
import pytest
import torch

from ccm_fast import _backend
from ccm_fast.codec import decode_latents, engine_for
from ccm_fast.errors import BuildError
from ccm_fast.integer import frozen as module
from ccm_fast.integer.frozen import FrozenEntropyModel
from ccm_fast.integer.testing import random_plan, sample_latents


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_the_engine_says_what_is_missing(monkeypatch):
    model = FrozenEntropyModel(random_plan(np.random.default_rng(0)))
    z = torch.zeros(1, 1, 1, 4, dtype=torch.int16)
    monkeypatch.setattr(_backend, "has_cuda", lambda: False)
    with pytest.raises(BuildError, match="CCM_CUDA=1"):
        model.hyper(z, 1, 1, engine="cuda")
    monkeypatch.setattr(_backend, "has_cuda", lambda: True)
    with pytest.raises(ValueError, match="no CUDA device"):
        model.encode_z(z, engine="cuda")


def test_engine_follows_the_device(monkeypatch):
    import ccm_fast.codec as codec

    for built in (True, False):
        monkeypatch.setattr(codec, "has_cuda", lambda built=built: built)
        assert engine_for(None, torch.device("cpu")) == "cpu"
        assert engine_for(None, torch.device("cuda", 1)) == ("cuda" if built else "cpu")
        assert engine_for("reference", torch.device("cuda")) == "reference"
