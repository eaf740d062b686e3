"""The pool of threads: its workers stay, sleep, and are nobody else's business."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny

from ccm_fast.errors import BitstreamError
from ccm_fast.native import Codec

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
MODEL = str(tiny.GOLDEN / "tiny.safetensors")

START = """
import os, signal, sys, threading, time
import numpy as np
from ccm_fast.native import Codec

codec = Codec.load(sys.argv[1], threads=1)
picture = np.add.outer(np.arange(200), np.arange(3 * 312)).reshape(200, 312, 3) // 5 % 256
data = codec.encode(picture.astype(np.uint8), 4, effort=1, threads=1)
expected = codec.decode(data, threads=1)
"""

STAY = """
def threads():
    return set(os.listdir("/proc/self/task"))

before = threads()
codec.decode(data, threads=3)
first = threads()
for _ in range(5):
    codec.decode(data, threads=3)
begin = time.process_time()
time.sleep(0.3)
print(len(first - before), threads() == first, time.process_time() - begin < 0.02)
"""

FORK = """
codec.decode(data, threads=2)  # so that there is a pool

def work():
    while True:
        codec.decode(data, threads=2)

for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
codes = []
for _ in range(10):
    child = os.fork()
    if not child:
        signal.alarm(30)
        same = all(np.array_equal(codec.decode(data, threads=2), expected) for _ in range(3))
        os._exit(7 if same else 8)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*sorted(set(codes)), flush=True)
os._exit(0)
"""

SIGNALS = """
before = set(os.listdir("/proc/self/task"))
codec.decode(data, threads=3)
masks = [
    int(line.split()[1], 16)
    for task in set(os.listdir("/proc/self/task")) - before  # NumPy has threads, too
    for line in open(f"/proc/self/task/{task}/status") if line.startswith("SigBlk")
]
print(len(masks), all(mask >> signal.SIGINT - 1 & 1 for mask in masks))
"""

# Threads that share one core get no more done than one, so that the worker is soon left out.
ONE_CORE = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before = set(os.listdir("/proc/self/task"))

def decode(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        codec.decode(data, threads=2)

def processor(task):
    return int(open(f"/proc/self/task/{task}/schedstat").read().split()[0]) / 1e9

decode(0.05)
(worker,) = set(os.listdir("/proc/self/task")) - before
decode(0.4)
shares = []
for _ in range(6):  # where other work of this session comes to the core, two threads do get more of it
    begin, all_threads = processor(worker), time.process_time()
    decode(0.15)
    shares.append((processor(worker) - begin) / (time.process_time() - all_threads))
print(min(shares) < 0.3)
"""

CASES = {"stay": (STAY, "2 True True"), "fork": (FORK, "7"), "signals": (SIGNALS, "2 True"), "core": (ONE_CORE, "True")}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system has no list of a process's threads")
@pytest.mark.parametrize("program, said", CASES.values(), ids=CASES)
def test_workers(program, said):
    """They are started once and use no processor between calls; a child has its own; signals do not reach them."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", START + program, MODEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENV)
    assert done.stdout.strip() == said, done.stderr[-2000:]


@pytest.fixture(scope="module")
def codec():
    return Codec.load(MODEL, threads=1)


def test_calls_at_once(codec):
    """From several Python threads, with different numbers of threads of their own."""
    data = [codec.encode(tiny.photo(64 + 16 * k, 96, k), 4, effort=1, threads=1) for k in range(3)]
    expected = [codec.decode(d, threads=1) for d in data]
    wrong = []

    def work(k: int) -> None:
        for threads in (1, 2, 3, 5):
            if not np.array_equal(codec.decode(data[k], threads=threads), expected[k]):
                wrong.append((k, threads))
            if codec.encode(expected[k], 4, effort=1, threads=threads) != again[k]:
                wrong.append((k, -threads))

    again = [codec.encode(p, 4, effort=1, threads=1) for p in expected]
    workers = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("damaged", range(3))
def test_an_error_reaches_the_caller(codec, damaged):
    """Whichever thread meets it."""
    data = [codec.encode(tiny.photo(80, 96, k), 4, effort=1, threads=1) for k in range(3)]
    data[damaged] = data[damaged][:-40] + bytes(40)
    for _ in range(5):
        with pytest.raises(BitstreamError):
            codec.decode(data, threads=3)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_several_pictures(codec, threads):
    """One call for all gives what a call for each gives, in order, with the seconds of all."""
    pictures = [tiny.photo(48 + 16 * k, 80, k) for k in range(5)]
    pictures[2] = pictures[2][..., 0]
    seconds = {}
    data = codec.encode(pictures, 4, effort=1, threads=threads, timings=seconds)
    assert data == [codec.encode(picture, 4, effort=1, threads=1) for picture in pictures]
    assert set(seconds) == {"g_a", "h_a", "h_s", "effort", "entropy", "filter"}
    found = codec.decode(data, threads=threads)
    assert all(np.array_equal(a, codec.decode(d, threads=1)) for a, d in zip(found, data, strict=True))
    assert codec.encode([], 4) == []
