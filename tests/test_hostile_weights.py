"""Weights files whose configuration asks for what no model has: refused before anything is built of it."""

import json
import time

import pytest
import tiny
from safetensors import safe_open
from safetensors.torch import save_file

from ccm_fast import weights
from ccm_fast.errors import ModelError

with safe_open(tiny.GOLDEN / "tiny.safetensors", "pt") as _file:
    METADATA, TENSORS = _file.metadata(), {name: _file.get_tensor(name) for name in _file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "change",
    [
        {"widths": [3000000] * 3},
        {"widths": [-5, 6, 6]},
        {"widths": [float("inf")] * 3},
        {"widths": [float("nan")] * 3},
        {"blocks": [100000, 0, 0]},
        {"synthesis_blocks": [1, 100000, 1]},
        {"groups": [1] * 20000},
        {"groups": [10**6]},
        {"hyper_channels": -4},
        {"qualities": 10**9},
        {"context_kernel": 100001},
        {"cross_kernels": [3] * 10000},
    ],
    ids=str,
)
def test_sizes_of_no_model(change, tmp_path):
    path = tmp_path / "hostile.safetensors"
    save_file(TENSORS, path, {**METADATA, "config": json.dumps({**json.loads(METADATA["config"]), **change})})
    start = time.process_time()
    with pytest.raises(ModelError):
        weights.load(path)
    assert time.process_time() - start < 2


def test_nested_metadata(tmp_path):
    path = tmp_path / "nested.safetensors"
    save_file(TENSORS, path, {**METADATA, "config": "[" * 100000})
    with pytest.raises(ModelError, match="config"):
        weights.load(path)
