"""What the coder's Python face is given: nothing wraps on its way to the 16 and 32 bits that C++ reads."""

import subprocess
import sys

import numpy as np
import pytest

from ccm_fast import rans
from ccm_fast._backend import load_rans

TABLES = rans.Tables(lo=[-1], n=[4], cdf=[0, 16384, 49152, 65535])


@pytest.mark.parametrize("value", [2**32, 2**32 + 5, -(2**63), 2**63, 2**64, -32768, np.uint64(2**64 - 1)])
def test_symbols_that_would_wrap(value):
    with pytest.raises(ValueError, match="symbols must lie in"):
        rans.encode(TABLES, [value], [0])


@pytest.mark.parametrize("row", [1, -1, 65536, -65536, 2**40, 2**70])
def test_rows_that_would_wrap(row):
    data, lanes = rans.encode(TABLES, [0], [0])
    with pytest.raises(IndexError):
        rans.encode(TABLES, [0], [row])
    with pytest.raises(IndexError):
        rans.decode(TABLES, data, lanes, [row])


@pytest.mark.parametrize("step", [2**32 + 1, -1, 2**31])
def test_steps_that_would_wrap(step):
    data, lanes = rans.encode(TABLES, [0], [0])
    with pytest.raises(ValueError, match="steps must lie in"):
        rans.encode(TABLES, [0], [0], [step])
    with pytest.raises(ValueError, match="steps must lie in"):
        rans.decode(TABLES, data, lanes, [0], [step])


@pytest.mark.parametrize(
    "values",
    [[0.7], [1.0], [1j], ["0"], [None], np.array(["2020-01-01"], "datetime64[D]"), np.zeros(1, np.float32)],
    ids=str,
)
def test_only_whole_numbers(values):
    data, lanes = rans.encode(TABLES, [0], [0])
    with pytest.raises(TypeError):
        rans.encode(TABLES, values, [0])
    with pytest.raises(TypeError):
        rans.encode(TABLES, [0], values)
    with pytest.raises(TypeError):
        rans.encode(TABLES, [0], [0], values)
    with pytest.raises(TypeError):
        rans.decode(TABLES, data, lanes, values)
    with pytest.raises(TypeError):
        rans.Tables([0], [2], [0, *values])


def test_whole_numbers_of_every_type():
    expected = rans.encode(TABLES, np.array([1, 0], np.int32), np.zeros(2, np.uint16))
    for dtype in (bool, np.int8, np.uint8, np.int16, np.uint16, np.uint32, np.int64, np.uint64, object):
        assert rans.encode(TABLES, np.array([1, 0], dtype), np.array([0, 0], dtype), [np.int64(2)]) == expected
    assert rans.encode(TABLES, [], [], []) == rans.encode(TABLES, np.zeros(0, np.int32), np.zeros(0, np.uint16))
    assert rans.decode(TABLES, bytearray(expected[0]), np.int64(expected[1]), [0, 0]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("lo", "n", "cdf"), [([2**32], [2**32 + 2], [0, 5]), ([0], [2], [0, -1]), ([0], [2], [0, 65536])]
)
def test_tables_that_would_wrap(lo, n, cdf):
    with pytest.raises(ValueError):
        rans.Tables(lo, n, cdf)


def test_a_number_is_no_bytes():
    for call in (lambda: rans.crc32c(3), lambda: rans.decode(TABLES, 5, 1, [0]), lambda: rans.crc32c([1, 2])):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="crc"):
        rans.crc32c(b"", -1)


@pytest.mark.parametrize("lanes", [-1, 3, 2**40])
def test_lanes_out_of_range(lanes):
    with pytest.raises(ValueError, match="lanes"):
        rans.encode(TABLES, [0], [0], lanes=lanes)
    with pytest.raises(ValueError, match="lanes"):
        rans.decode(TABLES, b"", lanes, [])
    with pytest.raises(TypeError):
        rans.encode(TABLES, [0], [0], lanes=1.0)


def test_more_symbols_than_32_bits_count():
    """Their count became negative, and the decoder wrote outside of its arrays."""
    rows = np.broadcast_to(np.uint16(0), 2**31)
    for call in (lambda: rans.decode(TABLES, b"", 1, rows), lambda: rans.encode(TABLES, rows, rows)):
        with pytest.raises(ValueError, match="2147483647"):
            call()
    try:
        rows = np.zeros(2**31, np.uint16)  # never touched
    except MemoryError:
        pytest.skip("no room for 4 GB of addresses")
    with pytest.raises(ValueError, match="symbols"):
        load_rans().decode(TABLES, b"", 1, rows)


def test_tables_that_nothing_has_initialized():
    empty = type(TABLES).__new__(type(TABLES))
    for call in (lambda: len(empty), lambda: load_rans().encode(empty, [0], [0])):
        with pytest.raises((TypeError, RuntimeError)):
            call()


def test_without_torch():
    code = "import sys\nsys.modules['torch'] = None\nfrom ccm_fast import rans\nassert rans.crc32c(b'a') > 0\n"
    code += "t = rans.Tables([-1], [4], [0, 16384, 49152, 65535])\n"
    code += "assert rans.decode(t, *rans.encode(t, [0, 1], [0, 0]), [0, 0]).tolist() == [0, 1]"
    subprocess.run([sys.executable, "-c", code], check=True)
