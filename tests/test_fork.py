"""A fork while other threads work: the child must not wait for a thread that does not exist in it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ccm_fast.locks import ForkSafeLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
ENV = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parent}"}

HELD = """
import os, signal, threading
from ccm_fast.locks import ForkSafeLock

lock, held = ForkSafeLock(), threading.Event()

def hold():
    with lock:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # a lock that stays closed ends the child by a signal
    with lock:
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""

WORKING = """
import os, signal, threading
import tiny, torch
from ccm_fast import compress, decompress

torch.set_num_threads(1)  # libgomp's own threads do not survive a fork
model = tiny.model()
x = torch.from_numpy(tiny.photo(64, 96, 1)).permute(2, 0, 1)[None] / 255
out = compress(model, x, 4, effort=1, threads=1)

def decode():
    return decompress(model, **out, threads=1)["x_hat"]

def work():
    while True:
        decode()

expected = decode()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
codes = []
for _ in range(25):
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(7 if torch.equal(decode(), expected) else 8)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*sorted(set(codes)), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("program", [HELD, WORKING], ids=["held", "working"])
def test_children_do_not_hang(program):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENV)
    assert done.stdout.split() == ["7"], done.stderr[-2000:]


def test_it_is_a_lock():
    lock, order = ForkSafeLock(), []

    def enter():
        with lock:
            order.append("other")

    with lock:
        other = threading.Thread(target=enter)
        other.start()
        other.join(0.1)
        order.append("first")
    other.join()
    assert order == ["first", "other"]
