"""rANS streams of version 2: golden bytes, oracle, tails, damage, what lanes cost."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm_fast import rans
from ccm_fast._backend import load
from ccm_fast.entropy import reference, reference_streams
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.tables import gaussian_rows
from ccm_fast.entropy.testing import random_plan, sample_z
from ccm_fast.errors import BitstreamError, DamagedError
from ccm_fast.stream.packet import Stream

ROWS = gaussian_rows()
TABLES = rans.Tables(ROWS.lo, ROWS.n, ROWS.cdf)
LANES = reference_streams.MOST_LANES
FIRST = b"\xc0\0\0\0"  # the state where lanes start
# Symbols -2 .. 2 and an escape, and a row of 0 and an escape.
SMALL = ([-2, 0], [6, 2], [0, 4096, 16384, 49152, 61440, 65000, 0, 60000])


def draw(rng, rows):
    """Symbols from the rows' own distributions (escapes become the row's edge)."""
    first = np.concatenate([[0], np.cumsum(ROWS.n)])
    out = np.empty(len(rows), np.int32)
    for i, (r, u) in enumerate(zip(rows, rng.integers(0, 65536, len(rows)), strict=True)):
        k = np.searchsorted(ROWS.cdf[first[r] : first[r + 1]], u, side="right") - 1
        out[i] = ROWS.lo[r] + min(int(k), ROWS.n[r] - 2)
    return out


def encode(symbols, rows, steps=None, lanes=0):
    return rans.encode(TABLES, symbols, rows, steps, lanes, version=2)


def oracle(symbols, rows, steps, lanes):
    ends = np.cumsum(steps)
    parts = [(rows[e - n : e], symbols[e - n : e]) for e, n in zip(ends, steps, strict=True)]
    return reference_streams.encode_stream(ROWS, parts, lanes, 2)


def decode_oracle(data, lanes, rows, steps, tables=ROWS):
    """The oracle's symbols."""
    out, ends = [], np.cumsum(steps)

    def step(own):
        return lambda draw: out.extend(draw(own, np.zeros_like(own)).tolist())

    parts = [step(np.asarray(rows[e - n : e])) for e, n in zip(ends, steps, strict=True)]
    reference_streams.decode_stream(Stream.of(data, lanes, 2), tables, parts)
    return out


GOLDEN = {
    1: "c58d23cef57451eefd7b76ddbd3751521c5b07a5012829",
    2: "01075d8abc0775c2d70e2c026651f7bb55072f510c18689048c8",
    4: "085341c30117ec82021e3efae59d6da2ad3ea8f3f0fe4071c919d1fef01f78b2",
    64: "860100240000c040000020eb0400c0200100c0800100d8f20100c0400000c0f00000c0"
    "000000c0000000c0000000780f2f1d0190503904c000000058ffd2111cf0ffdd03c000"
    "000020eb0000c0000000c0000000c0000000c0000000c0000000c0400000c0c00000c0"
    "100000c0400000c0f00000c0000000c0000000c000000078ffd211f0ffdd0300000000"
    "c0000000c0000000c0000000c0000000c0000000c0000000c0000000c0000000c00000"
    "00c0000000c0000000c0000000c0000000c0000000c0000000c0000000c0000000c000"
    "0000c0000000c0000000c0000000c0000000c0000000c0000000c0000000c0000000c0"
    "000000c0000000c0000000c0000000c0000000c0000000",
}


def test_golden_bytes():
    """Fixed symbols give fixed bytes, for ever."""
    tables = rans.Tables(*SMALL)
    symbols = np.array([0, 1, -1, 0, 2, -2, 0, 0, 300, -5, 0, 1] * 3)
    rows = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1] * 3)
    for lanes, want in GOLDEN.items():
        data, used = rans.encode(tables, symbols, rows, [5, 7, 24], lanes, version=2)
        assert (data.hex(), used) == (want, lanes)
        assert rans.decode(tables, data, lanes, rows, [5, 7, 24], version=2).tolist() == symbols.tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_oracle(data):
    lanes = data.draw(st.sampled_from(LANES))
    steps = data.draw(st.lists(st.integers(0, 300), max_size=6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count, sharp = sum(steps), data.draw(st.sampled_from([40, 200, len(ROWS.n)]))
    rows = rng.integers(0, sharp, count)
    symbols = draw(rng, rows)
    wild = rng.random(count) < data.draw(st.sampled_from([0, 0.05]))
    symbols[wild] = rng.integers(-32767, 32768, wild.sum())
    stream, used = encode(symbols, rows, steps, lanes)
    assert used == lanes
    assert oracle(symbols, rows, steps, lanes) == stream
    assert np.array_equal(rans.decode(TABLES, stream, lanes, rows, steps, version=2), symbols)
    assert decode_oracle(stream, lanes, rows, steps) == symbols.tolist()


def test_lanes_that_carry_nothing_start_higher():
    """One lane codes wide symbols and the other almost nothing: at its last word the other has to be at 2^24."""
    wide, sharp = len(ROWS.n) - 1, 8
    rows = np.tile([wide, sharp], 40)
    # Steps of one symbol move on by six lanes: the lanes of the two kinds never change.
    symbols = np.where(rows == wide, 250, 0)
    stream, _ = encode(symbols, rows, [1] * 80, 2)
    states, _ = reference_streams._states_of_2(stream, 2)
    assert min(states) >= 1 << 24
    assert np.array_equal(rans.decode(TABLES, stream, 2, rows, [1] * 80, version=2), symbols)
    assert oracle(symbols, rows, [1] * 80, 2) == stream


def test_nothing_at_all_is_no_byte():
    assert encode(np.zeros(0, int), np.zeros(0, int), [], 1) == (b"", 1)
    assert rans.decode(TABLES, b"", 1, np.zeros(0, int), version=2).tolist() == []
    two, _ = encode(np.zeros(0, int), np.zeros(0, int), [], 2)
    assert two == b"\0" + 2 * FIRST
    four = reference_streams.encode_stream(ROWS, [], 64, 2)
    assert four == b"\x84\1" + 2 * (bytes(4) + 32 * FIRST)
    assert rans.decode(TABLES, four, 64, np.zeros(0, int), [], version=2).tolist() == []


def status(data, lanes, rows, steps=None, vectors=True):
    symbols, code = load().rans.decode(TABLES, data, lanes, rows, steps, vectors, 2)
    return code, symbols.tolist() if code == 0 else None


def refused(data, lanes, rows=(), steps=()):
    """Both decoders refuse it, and in the same way."""
    rows, steps = np.asarray(rows, np.int64), list(steps)
    with pytest.raises(BitstreamError) as native:
        rans.decode(TABLES, data, lanes, rows, steps, version=2)
    with pytest.raises(BitstreamError) as plain:
        decode_oracle(data, lanes, rows, steps)
    assert type(native.value) is type(plain.value)
    return native.type


@pytest.mark.parametrize(
    "data, lanes",
    [
        (b"\x60", 1),  # 3 * 2^5
        (b"\xc0", 1),  # 3 * 2^6, which is written as nothing
        (b"\x80\1\0", 1),  # 3 * 2^7, and a last byte of 0
        (b"\0\1", 1),  # not 3 * 2^k
        (b"\0\0\0\3", 1),  # 3 * 2^24
        (b"\0\0\x80\1\7\7", 1),  # a word that nobody takes
        (b"\0\0\xc0\0\7\7", 1),  # a state below 2^24 before a word
        (b"\0\0\x80\1\0\7\7", 1),  # five bytes for a state below 2^32
        (b"", 2),  # no flags
        (b"\4" + 2 * FIRST, 2),  # the flag of a third lane
        (b"\2" + 2 * FIRST, 2),  # a byte too few for the flag
        (b"\2" + 2 * FIRST + b"\0", 2),  # five bytes for a state below 2^32
        (b"\0" + FIRST + b"\0\0\0\0", 2),  # a state of 0
        (b"\0" + 2 * FIRST + b"\0", 2),  # half a word
        (b"\0" + 2 * FIRST + b"\0\0", 2),  # a word, and states below 2^24
        (b"\0" + FIRST + b"\0\1\0\0", 2),  # not 3 * 2^k
        (b"", 64),  # no lengths
        (b"\x80", 64),  # half a length
        (b"\x84\x81\0" + 2 * (bytes(4) + 32 * FIRST), 64),  # a length with a superfluous byte
        (b"\x7f" + bytes(4), 64),  # a sequence beyond the end
    ],
)
def test_tails_that_a_decoder_refuses(data, lanes):
    refused(data, lanes)


@pytest.mark.parametrize("lanes", [1, 4, 16, 64])
def test_every_truncation_is_reported(lanes):
    rng = np.random.default_rng(2)
    rows = rng.integers(0, len(ROWS.n), 600)
    symbols = draw(rng, rows)
    data, _ = encode(symbols, rows, None, lanes)
    for cut in range(len(data)):
        with pytest.raises(BitstreamError):
            rans.decode(TABLES, data[:cut], lanes, rows, version=2)
    for tail in (b"\0", b"\0\0", b"\0\1"):
        with pytest.raises(DamagedError):
            rans.decode(TABLES, data + tail, lanes, rows, version=2)


@pytest.mark.parametrize("lanes", [1, 2, 8, 32, 128])
def test_flips_are_found_at_the_end(lanes):
    """Behind a right checksum: sharp rows, of which any bytes give plausible symbols."""
    rng = np.random.default_rng(lanes)
    rows = rng.integers(0, 300, 4000)
    data, _ = encode(draw(rng, rows), rows, None, lanes)
    accepted = 0
    for _ in range(2000):
        bad = bytearray(data)
        for _ in range(1 << rng.integers(4)):
            bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        accepted += bytes(bad) != data and status(bytes(bad), lanes, rows)[0] == 0
    assert accepted <= 2


@pytest.mark.parametrize("lanes", [8, 16, 32, 64])
def test_vector_kernels_equal_plain_code(lanes):
    rng = np.random.default_rng(lanes)
    rows = rng.integers(0, len(ROWS.n), 9011)
    steps = [11, 0, 1000, 8000]
    symbols = draw(rng, rows)
    symbols[rng.random(len(rows)) < 0.003] = 32767
    data, _ = encode(symbols, rows, steps, lanes)
    assert status(data, lanes, rows, steps) == status(data, lanes, rows, steps, False) == (0, symbols.tolist())
    for _ in range(30):
        bad = bytearray(data[: int(rng.integers(len(data)))] if rng.random() < 0.5 else data)
        if bad:
            bad[int(rng.integers(len(bad)))] ^= 1 << int(rng.integers(8))
        assert status(bytes(bad), lanes, rows, steps) == status(bytes(bad), lanes, rows, steps, False)


@pytest.mark.parametrize("lanes", [1, 8, 32, 128])
def test_what_lanes_cost(lanes):
    """Some 2.2 bytes each, and 3 at most, where every lane has a few words."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 300, 40000)
    symbols = draw(rng, rows)
    ideal = reference_streams.ideal_bits(ROWS, rows, symbols) / 8
    size = len(encode(symbols, rows, [500] * 80, lanes)[0])
    assert ideal < size < ideal * 1.0002 + 3 * lanes + 1


def test_lanes_follow_the_symbols():
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(ROWS.n), 60000)
    symbols = draw(rng, rows)
    found = []
    for count in (10, 2000, 20000, 60000):
        data, lanes = encode(symbols[:count], rows[:count])
        assert lanes == 1 or 2.25 * lanes <= 0.0051 * len(data)
        assert lanes == reference_streams.lanes_for_symbols(count, len(data))
        found.append(lanes)
    assert found == sorted(found)
    assert found[0] == 1
    assert found[-1] >= 16


def test_many_symbols_of_few_bits_have_more_lanes():
    """A GPU would wait for their stream; they may cost one byte in 70."""
    rng = np.random.default_rng(2)
    rows = np.full(60000, int(np.argmin(ROWS.n)))
    mode = int(ROWS.lo[rows[0]] + np.argmax(np.diff(ROWS.row(rows[0]))))
    symbols = np.where(rng.random(len(rows)) < 0.01, draw(rng, rows), mode)
    data, lanes = encode(symbols, rows)
    assert len(symbols) / lanes <= 12000
    assert 1 / 220 < 2.25 * lanes / len(data) <= 1 / 70
    assert lanes == reference_streams.lanes_for_symbols(len(symbols), len(data))


def test_limits_of_lanes():
    choose = reference_streams.lanes_for_symbols
    assert [choose(n, 10**6) for n in (0, 2500, 2501, 5001, 40001, 10**6)] == [1, 1, 2, 4, 32, 128]
    assert [choose(6000, n) for n in (989, 990, 1979, 1980)] == [1, 2, 2, 4]  # by the usual limit
    assert [choose(10**6, n) for n in (314, 315, 630, 5040)] == [1, 2, 4, 32]  # by that of many rounds
    assert [choose(384, 95, reference_streams.LANES_OF_Z), choose(384, 5, reference_streams.LANES_OF_Z)] == [4, 1]


def test_z_has_lanes_of_its_own():
    """A photograph's z: some hundred bytes, for which everything else waits."""
    plan = random_plan(np.random.default_rng(5), groups=(3,), hyper_channels=8)
    found = []
    for side in (1, 2, 6, 12):
        z_hat = sample_z(np.random.default_rng(6), plan, side, side)
        stream = reference.encode_z(plan, z_hat, 0, 2)
        frozen = FrozenEntropyModel(plan)
        assert frozen.encode_z(torch.from_numpy(z_hat)[None].short(), version=2) == [stream]
        assert stream.lanes == 1 or 2.25 * stream.lanes <= 0.11 * len(stream.data)
        found.append(stream.lanes)
    assert found == sorted(found) and found[0] == 1 and found[-1] >= 8


def test_bad_arguments():
    for lanes in (3, 256, 257, -1):
        with pytest.raises(ValueError, match="lanes"):
            encode([0], [0], lanes=lanes)
    with pytest.raises(ValueError, match="lanes"):
        rans.encode(TABLES, [0], [0], lanes=64)
    with pytest.raises(ValueError, match="version"):
        rans.encode(TABLES, [0], [0], version=3)
