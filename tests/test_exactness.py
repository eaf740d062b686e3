"""One stream, one set of latents: real photographs through every engine, instruction set and thread count.

Each combination decodes in a process of its own, as another machine would: the limits are read when a process starts.
ONEDNN_MAX_CPU_ISA limits torch's kernels (g_s; the entropy path does not use them, and this test would notice if it
did), CCM_FAST_ISA ours.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import ccm_fast
from ccm_fast._backend import load
from ccm_fast.decoding import decode_latents, parse_packets

skimage_data = pytest.importorskip("skimage.data")

ISAS = load().ops.isa_list().split(",")

# A child decodes every stream of the file, each alone or all as one batch, and prints hashes of the latents.
CHILD = """
import hashlib, json, sys
import ccm_fast
from ccm_fast.decoding import decode_latents, parse_packets
path, threads, batch, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "batch", sys.argv[4]
frozen = ccm_fast.load("ccm-small").frozen
case = json.load(open(path))
strings = [[bytes.fromhex(s) for s in part] for part in case["strings"]]
count = len(strings[0])
y = []
for k in [range(count)] if batch else [[k] for k in range(count)]:
    part = [[s[i] for i in k] for s in strings]
    packets = parse_packets(frozen, part, case["shape"])
    y += list(decode_latents(frozen, packets, threads=threads, engine=engine))
print(json.dumps([hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest() for v in y]))
"""


def crops(size):
    """Photographs from scikit-image, float [3, 3, h, w]."""
    h, w = size
    images = [skimage_data.astronaut(), skimage_data.coffee(), skimage_data.chelsea()]
    tops = [(0, 160), (120, 200), (60, 120)]
    cut = [im[i : i + h, j : j + w] for im, (i, j) in zip(images, tops, strict=True)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 255


def stored(tmp_path, x, quality):
    """Compress, decode once here, store the strings; returns the path and the hashes of y_hat."""
    model = ccm_fast.load("ccm-small")
    out = ccm_fast.compress(model, x, quality)
    y_hat = decode_latents(model.frozen, parse_packets(model.frozen, out["strings"], out["shape"]))
    path = tmp_path / "case.json"
    strings = [[s.hex() for s in part] for part in out["strings"]]
    path.write_text(json.dumps({"strings": strings, "shape": list(out["shape"])}))
    return path, [hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest() for v in y_hat]


def decode(path, threads, together, engine="cpu", **environment):
    command = [sys.executable, "-c", CHILD, str(path), str(threads), together, engine]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("exact"), crops((208, 272)), 5)


@pytest.mark.parametrize(
    ("onednn", "threads", "together"),
    list(itertools.product(["DEFAULT", "AVX512_CORE", "AVX2", "SSE41"], [1, 2], ["alone", "batch"])),
)
def test_onednn_limits(photographs, onednn, threads, together):
    path, expected = photographs
    assert decode(path, threads, together, ONEDNN_MAX_CPU_ISA=onednn) == expected


@pytest.mark.parametrize(("isa", "threads"), list(itertools.product(ISAS, [1, 2])))
def test_instruction_sets(photographs, isa, threads):
    path, expected = photographs
    assert decode(path, threads, "batch", CCM_FAST_ISA=isa) == expected


def test_oracle(tmp_path):
    path, expected = stored(tmp_path, crops((80, 112)), 4)
    assert decode(path, 1, "alone", engine="reference") == expected


def test_encoder_bytes_do_not_depend_on_threads_or_batch():
    """The same latents give the same bytes; the transforms run once here, since floats may differ between threads."""
    model = ccm_fast.load("ccm-small")
    frozen = model.frozen
    x = crops((208, 272))
    out = ccm_fast.compress(model, x, 3)
    packets = parse_packets(frozen, out["strings"], out["shape"])
    y_hat = decode_latents(frozen, packets)
    z_hat = frozen.decode_z([p.z_stream for p in packets], *packets[0].z_shape)
    psi = frozen.hyper(z_hat, *packets[0].y_shape)
    expected = [p.y_streams for p in packets]
    for threads in (1, 2, 3):
        streams = frozen.encode_y(psi, y_hat, threads=threads, version=2)
        assert [[tuple(s) for s in image] for image in streams] == [[tuple(s) for s in image] for image in expected]
        single = [frozen.encode_y(psi[k : k + 1], y_hat[k : k + 1], threads=threads)[0] for k in range(len(x))]
        assert [[tuple(s) for s in image] for image in single] == [[tuple(s) for s in image] for image in expected]
