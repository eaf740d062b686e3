"""Weights files whose configuration asks for what no model has: refused before anything is built of it."""

import json
import subprocess
import sys
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


# Legal sizes each, of models of up to some gigabytes.
LARGE = (
    {"widths": [3000] * 3},
    {"hyper_channels": 4096, "psi_channels": 4096},
    {"groups": [100] * 30, "cross_width": 4096},
    {"parameter_widths": [4096] * 8},
    {"cross_kernels": [7] * 30, "cross_width": 512},
    {"qualities": 4096, "groups": [4000] * 32},
    {"blocks": [64] * 3, "widths": [512] * 3},
)
PROGRAM = """
import sys
import ccm_fast
ccm_fast.load(sys.argv[1])
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
before = peak()
for path in sys.argv[2:]:
    try:
        ccm_fast.load(path)
    except ccm_fast.ModelError:
        print(round(peak() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_refused_files(tmp_path):
    paths = [str(tmp_path / f"{k}.safetensors") for k in range(len(LARGE))]
    for path, change in zip(paths, LARGE, strict=True):
        save_file(TENSORS, path, {**METADATA, "config": json.dumps({**json.loads(METADATA["config"]), **change})})
    command = [sys.executable, "-c", PROGRAM, str(tiny.GOLDEN / "tiny.safetensors"), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    grown = [int(line) for line in done.stdout.split()]
    assert len(grown) == len(LARGE) and max(grown) < 100, grown
