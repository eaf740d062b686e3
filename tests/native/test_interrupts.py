"""Ctrl-C, or any other signal whose handler raises, ends a long call soon."""

import signal
import time

import numpy as np
import pytest
import tiny

from ccm_fast.native import Codec

SIDE = 3500


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def codec():
    return Codec.load(tiny.GOLDEN / "tiny.safetensors")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def seconds_until_stopped(call):
    """Processor time of a call whole, and of one that a signal interrupts after a twentieth of it."""

    def stop(number, frame):
        raise Stop

    start = time.process_time()
    call()
    whole = time.process_time() - start
    before = signal.signal(signal.SIGPROF, stop)
    start = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, whole / 20)
        with pytest.raises(Stop):
            call()
        return whole, time.process_time() - start
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_signals_end_calls(codec, pixels, threads):
    data = codec.encode(pixels, 6, effort=1, threads=threads)
    file = codec.open_file(data)
    for call in (
        lambda: codec.encode(pixels, 6, effort=1, threads=threads),
        lambda: codec.decode_files([file], threads),
    ):
        whole, stopped = seconds_until_stopped(call)
        assert stopped < whole / 2, (stopped, whole)
    assert codec.encode(pixels, 6, effort=1, threads=threads) == data  # nothing is left in a state of its own
