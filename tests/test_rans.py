"""The native coder by itself: golden bytes, oracle, overhead, damage, CRC."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm_fast import rans
from ccm_fast._backend import load
from ccm_fast.entropy import reference_streams
from ccm_fast.entropy.tables import gaussian_rows
from ccm_fast.errors import BitstreamError, DamagedError, TruncatedError

ROWS = gaussian_rows()
TABLES = rans.Tables(ROWS.lo, ROWS.n, ROWS.cdf)


def draw(rng, count, rows):
    """Symbols from the rows' own distributions, by inverse transform (escapes become the row's edge)."""
    first = np.concatenate([[0], np.cumsum(ROWS.n)])
    out = np.empty(count, np.int32)
    for i, (r, u) in enumerate(zip(rows, rng.integers(0, 65536, count), strict=True)):
        k = np.searchsorted(ROWS.cdf[first[r] : first[r + 1]], u, side="right") - 1
        out[i] = ROWS.lo[r] + min(int(k), ROWS.n[r] - 2)
    return out


def test_golden_bytes():
    """Fixed symbols give fixed bytes, for ever: any change here breaks every file in existence."""
    tables = rans.Tables([-2, 0], [6, 2], [0, 4096, 16384, 49152, 61440, 65000, 0, 60000])
    symbols = np.array([0, 1, -1, 0, 2, -2, 0, 0, 300, -5, 0, 1])
    rows = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1])
    one, two = rans.encode(tables, symbols, rows, lanes=1), rans.encode(tables, symbols, rows, [5, 7], lanes=2)
    assert one == (bytes.fromhex(GOLDEN_ONE), 1)
    assert two == (bytes.fromhex(GOLDEN_TWO), 2)
    assert rans.decode(tables, *one, rows).tolist() == symbols.tolist()
    assert rans.decode(tables, *two, rows, [5, 7]).tolist() == symbols.tolist()


GOLDEN_ONE = "7e97330700d5232351e0ff"
GOLDEN_TWO = "8b61bc0400d5d6ee840135fb6051201d"


@settings(max_examples=60)
@given(st.data())
def test_equals_oracle(data):
    lanes = data.draw(st.sampled_from([1, 2, 4, 8, 16, 32]))
    steps = data.draw(st.lists(st.integers(0, 70), max_size=6))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    count = sum(steps)
    rows = rng.integers(0, len(ROWS.n), count)
    symbols = draw(rng, count, rows)
    wild = rng.random(count) < 0.05
    symbols[wild] = rng.integers(-32767, 32768, wild.sum())
    stream, used = rans.encode(TABLES, symbols, rows, steps, lanes)
    assert used == lanes
    ends = np.cumsum(steps)
    parts = [(rows[e - n : e], symbols[e - n : e]) for e, n in zip(ends, steps, strict=True)]
    assert reference_streams.encode_stream(ROWS, parts, lanes) == stream
    assert np.array_equal(rans.decode(TABLES, stream, lanes, rows, steps), symbols)


def outcome(data, lanes, rows, vectors):
    """What the decoder makes of any bytes: status, and the symbols if it is fine."""
    symbols, status = load().rans.decode(TABLES, data, lanes, rows, None, vectors)
    return status, symbols.tolist() if status == 0 else None


@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_vector_kernels_equal_plain_code(lanes):
    """Good and damaged streams, all rows from the sharpest to the widest, with and without escapes."""
    rng = np.random.default_rng(lanes)
    rows = rng.integers(0, len(ROWS.n), 20011)
    symbols = draw(rng, len(rows), rows)
    symbols[rng.random(len(rows)) < 0.003] = 32767
    data, _ = rans.encode(TABLES, symbols, rows, lanes=lanes)
    assert outcome(data, lanes, rows, True) == outcome(data, lanes, rows, False) == (0, symbols.tolist())
    for _ in range(30):
        broken = bytearray(data[: int(rng.integers(len(data)))] if rng.random() < 0.5 else data)
        if broken:
            broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
        assert outcome(bytes(broken), lanes, rows, True) == outcome(bytes(broken), lanes, rows, False)


@pytest.mark.parametrize("vectors", [True, False])
def test_tables_too_large_for_vector_kernels(vectors):
    """A vector kernel has 18 bits for the place of a row; larger tables are left to the plain code."""
    n, count = 8192, 40
    cdf = np.tile(np.arange(n, dtype=np.uint16) * 8, count)
    tables = rans.Tables(np.full(count, -4096), np.full(count, n), cdf)
    rng = np.random.default_rng(5)
    rows = rng.integers(0, count, 3000)
    symbols = rng.integers(-4096, 4095, 3000)
    data, _ = rans.encode(tables, symbols, rows, lanes=8)
    decoded, status = load().rans.decode(tables, data, 8, rows, None, vectors)
    assert status == 0
    assert np.array_equal(decoded, symbols)


@pytest.mark.parametrize("lanes", [1, 8, 32])
def test_overhead_over_ideal_code_length(lanes):
    """40-bit states lose nothing beside the lanes' own bytes."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(ROWS.n), 40000)
    symbols = draw(rng, len(rows), rows)
    ideal = reference_streams.ideal_bits(ROWS, rows, symbols) / 8
    size = len(rans.encode(TABLES, symbols, rows, lanes=lanes)[0])
    assert ideal < size < ideal * 1.0002 + 5 * lanes + 2


def test_lanes_follow_the_payload():
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(ROWS.n), 60000)
    symbols = draw(rng, len(rows), rows)
    previous = 1
    for count in (10, 2000, 20000, 60000):
        data, lanes = rans.encode(TABLES, symbols[:count], rows[:count])
        assert lanes >= previous
        assert lanes == 1 or 5 * lanes <= 0.0026 * len(data)
        previous = lanes
    assert previous >= 4


def test_every_truncation_is_reported():
    rng = np.random.default_rng(2)
    rows = rng.integers(0, len(ROWS.n), 300)
    symbols = draw(rng, 300, rows)
    data, lanes = rans.encode(TABLES, symbols, rows, lanes=4)
    for cut in range(len(data)):
        with pytest.raises(BitstreamError):
            rans.decode(TABLES, data[:cut], lanes, rows)
    with pytest.raises(TruncatedError):
        rans.decode(TABLES, data[:-2], lanes, rows)
    with pytest.raises(DamagedError):
        rans.decode(TABLES, data + b"\0\0", lanes, rows)
    with pytest.raises(TruncatedError):
        rans.decode(TABLES, b"", lanes, rows)


def test_random_bytes_never_hang_or_crash():
    rng = np.random.default_rng(3)
    rows = rng.integers(0, len(ROWS.n), 1000)
    for _ in range(300):
        data = rng.integers(0, 256, int(rng.integers(0, 400)), dtype=np.uint8).tobytes()
        with pytest.raises(BitstreamError):
            rans.decode(TABLES, data, int(2 ** rng.integers(0, 6)), rows)


def test_bad_arguments():
    with pytest.raises(ValueError, match="lanes"):
        rans.encode(TABLES, [0], [0], lanes=3)
    with pytest.raises(ValueError, match="-32767"):
        rans.encode(TABLES, [40000], [0])
    with pytest.raises(IndexError, match="row"):
        rans.encode(TABLES, [0], [len(ROWS.n)])
    with pytest.raises(ValueError, match="add up"):
        rans.encode(TABLES, [0, 0], [0, 0], [1])
    with pytest.raises(ValueError, match="length"):
        rans.encode(TABLES, [0, 0], [0])
    for lo, n, cdf in (([1], [2], [0, 9]), ([0], [1], [0]), ([0], [2], [1, 9]), ([0], [2], [0, 0]), ([0], [3], [0, 9])):
        with pytest.raises(ValueError, match="row"):
            rans.Tables(lo, n, cdf)


def test_crc32c():
    assert rans.crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720
    assert rans.crc32c(b"") == 0
    data = np.random.default_rng(4).integers(0, 256, 1000, dtype=np.uint8).tobytes()
    for cut in (0, 1, 7, 8, 9, 500):
        assert rans.crc32c(data[cut:], rans.crc32c(data[:cut])) == rans.crc32c(data)


def test_doctest():
    assert doctest.testmod(rans).failed == 0
