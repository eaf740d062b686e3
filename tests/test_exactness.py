"""One stream, one set of latents: real photographs through every engine, instruction set, thread count and lane count.

Each limit gets a process of its own, as another machine would: limits are read when a process starts. It decodes
everything. ONEDNN_MAX_CPU_ISA limits torch's kernels (g_s; the entropy path does not use them, and this test would
notice if it did), CCM_FAST_ISA ours, the rANS decoder's included.
"""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import tiny

import ccm_fast
from ccm_fast._backend import load
from ccm_fast.decoding import decode_latents, parse_packets

ISAS = load().ops.isa_list().split(",")
# 0: what the encoder chooses. With 8 and more the rANS decoder has vector kernels.
LANES = (0, 8, 32)

# A child decodes every file in every way, and prints hashes of the latents.
CHILD = """
import hashlib, itertools, json, sys
import ccm_fast
from ccm_fast.decoding import decode_latents, parse_packets
path, threads, ways, engine = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
frozen = ccm_fast.load("ccm-small").frozen
found = []
for lanes, case in json.load(open(path)).items():
    strings = [[bytes.fromhex(s) for s in part] for part in case["strings"]]
    count = len(strings[0])
    for n, way in itertools.product(threads, ways):
        y = []
        for k in [range(count)] if way == "batch" else [[k] for k in range(count)]:
            packets = parse_packets(frozen, [[s[i] for i in k] for s in strings], case["shape"])
            y += list(decode_latents(frozen, packets, threads=n, engine=engine))
        hashes = [hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest() for v in y]
        found.append([f"{lanes} lanes, {n} threads, {way}", hashes])
print(json.dumps(found))
"""


def stored(folder, x, quality, all_lanes):
    """Compress with each number of lanes and store the strings; returns the path and the hashes of y_hat."""
    model = ccm_fast.load("ccm-small")
    cases, y_hats = {}, []
    for lanes in all_lanes:
        out = ccm_fast.compress(model, x, quality, lanes=lanes)
        packets = parse_packets(model.frozen, out["strings"], out["shape"])
        assert lanes == 0 or {s.lanes for p in packets for s in (p.z_stream, *p.y_streams)} == {lanes}
        y_hats.append(decode_latents(model.frozen, packets))
        strings = [[s.hex() for s in part] for part in out["strings"]]
        cases[lanes] = {"strings": strings, "shape": list(out["shape"])}
    assert all(y.equal(y_hats[0]) for y in y_hats)
    path = folder / "cases.json"
    path.write_text(json.dumps(cases))
    return path, [hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest() for v in y_hats[0]]


def differing(stored, threads=(1, 2), ways=("alone", "batch"), engine="cpu", **environment):
    """Ways of decoding that give other latents in a process with this environment; and how many were tried."""
    path, expected = stored
    command = [sys.executable, "-c", CHILD, str(path), json.dumps(threads), json.dumps(ways), engine]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    return [way for way, hashes in found if hashes != expected], len(found)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("exact"), tiny.photographs(144, 208)[:2], 5, LANES)


@pytest.mark.slow
@pytest.mark.parametrize("onednn", ["AVX512_CORE", "AVX2", "SSE41"])
def test_onednn_limits(photographs, onednn):
    assert differing(photographs, ways=["batch"], ONEDNN_MAX_CPU_ISA=onednn) == ([], 6)


@pytest.mark.parametrize("isa", [isa if isa == "scalar" else pytest.param(isa, marks=pytest.mark.slow) for isa in ISAS])
def test_instruction_sets(photographs, isa):
    ways = ["batch"] if isa == "scalar" else ["alone", "batch"]  # scalar kernels take ten times as long
    assert differing(photographs, ways=ways, CCM_FAST_ISA=isa) == ([], 6 * len(ways))


@pytest.mark.slow
def test_oracle(tmp_path):
    files = stored(tmp_path, tiny.photographs(48, 80)[:3], 4, LANES)
    assert differing(files, [1], ["alone"], "reference") == ([], 3)


def test_encoder_bytes_do_not_depend_on_threads_or_batch():
    """The same latents give the same bytes; the transforms run once here, since floats may differ between threads."""
    model = ccm_fast.load("ccm-small")
    frozen = model.frozen
    x = tiny.photographs(208, 272)[:3]
    out = ccm_fast.compress(model, x, 3)
    packets = parse_packets(frozen, out["strings"], out["shape"])
    y_hat = decode_latents(frozen, packets)
    z_hat = frozen.decode_z([p.z_stream for p in packets], *packets[0].z_shape)
    psi = frozen.hyper(z_hat, *packets[0].y_shape)
    expected = [p.y_streams for p in packets]
    for threads in (1, 2, 3):
        streams = frozen.encode_y(psi, y_hat, threads=threads, version=2)
        assert [[tuple(s) for s in image] for image in streams] == [[tuple(s) for s in image] for image in expected]
        single = [
            frozen.encode_y(psi[k : k + 1], y_hat[k : k + 1], threads=threads, version=2)[0] for k in range(len(x))
        ]
        assert [[tuple(s) for s in image] for image in single] == [[tuple(s) for s in image] for image in expected]
