"""Ctrl-C, or any other signal whose handler raises, ends a long operator of torch soon."""

import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import tiny
import torch

import ccm_fast
from ccm_fast._backend import OPS_NAME, load

ops = load().ops
NAMES = ("decode_y", "encode_y", "parameters", "hyper", "winograd gradient")


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def calls():
    """Calls of operators that take half a second or so, with their threads as argument."""
    frozen = tiny.model().frozen
    generator = torch.Generator().manual_seed(0)
    h, w, m, n = 800, 800, frozen.plan.latent_channels, frozen.plan.hyper_channels
    z = torch.zeros(1, h // 4, w // 4, n, dtype=torch.int16)
    long = torch.zeros(40, h // 4, w // 4, n, dtype=torch.int16)
    psi = frozen.hyper(z, h, w)
    y = torch.randint(-9, 10, (1, h, w, m), dtype=torch.int16, generator=generator)
    (streams,) = frozen.encode_y(psi, y, version=2)
    x = torch.rand(3, 128, 128, 512, generator=generator)
    weight = torch.rand(512, 3, 3, 512, generator=generator)
    return {
        "decode_y": lambda threads: frozen.decode_y(psi, [streams], threads=threads),
        "encode_y": lambda threads: frozen.encode_y(psi, y, version=2, threads=threads),
        "parameters": lambda threads: frozen.parameters(psi, y, threads=threads),
        "hyper": lambda threads: frozen.hyper(long, h, w, threads=threads),
        "winograd gradient": lambda threads: ops.conv3x3_input_gradient(x, weight, 1, None, threads),
    }


@pytest.fixture
def stopping():
    """SIGPROF raises, in whatever the main thread does; returns a function that sends it after processor time."""

    def stop(number, frame):
        raise Stop

    before = signal.signal(signal.SIGPROF, stop)
    yield lambda seconds: signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.slow
@pytest.mark.thinned(2)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_signals_end_operators(calls, stopping, name, threads):
    call = calls[name]
    start = time.process_time()
    expected = call(threads)
    whole = time.process_time() - start
    start = time.process_time()
    with pytest.raises(Stop):
        stopping(whole / 20)
        call(threads)
    stopped = time.process_time() - start
    assert stopped < whole / 2, (stopped, whole)
    assert same(call(threads), expected)  # nothing is left in a state of its own


def same(a, b):
    if torch.is_tensor(a):
        return torch.equal(a, b)
    return all(map(same, a, b)) if isinstance(a, tuple | list) and len(a) == len(b) else a == b


@pytest.mark.slow
def test_other_threads_are_left_alone(calls, stopping):
    """Handlers run in the main thread, which is waiting here: the operator of another one ends as it would have."""
    call, found = calls["decode_y"], []
    expected = call(1)
    thread = threading.Thread(target=lambda: found.append(call(1)))
    with pytest.raises(Stop):
        stopping(0.05)
        thread.start()
        thread.join()
    thread.join()
    assert torch.equal(found[0], expected)


@pytest.mark.slow
def test_handlers_that_do_not_raise_end_nothing(calls):
    seen = []
    before = signal.signal(signal.SIGPROF, lambda *_: seen.append(1))
    try:
        expected = calls["decode_y"](1)
        signal.setitimer(signal.ITIMER_PROF, 0.02)
        found = calls["decode_y"](1)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert seen == [1] and torch.equal(found, expected)


@pytest.mark.skipif(not shutil.which("nm"), reason="no nm here")
def test_the_library_needs_no_python():
    """It loads in C++ programs, too: no symbol of Python's is missing without it."""
    library = Path(ccm_fast.__file__).with_name(OPS_NAME)
    undefined = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in undefined.stdout.splitlines()]
    assert any(name.startswith("aoti_torch_") for name in names)
    assert not [name for name in names if name.startswith(("Py", "_Py"))]
