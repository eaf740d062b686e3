"""A call's number of threads is its own: torch's setting, which all threads share, stays."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch

import ccm_fast
from ccm_fast.engines import torch_threads


def in_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_two_calls_at_once_leave_the_setting():
    before, news = torch.get_num_threads(), in_new_thread(torch.get_num_threads)
    inside, finished = threading.Event(), threading.Event()

    def second():
        with torch_threads(before + 2) as count:
            inside.set()
            assert finished.wait(10)
            return count, torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        with torch_threads(before + 1):
            found = pool.submit(second)
            assert inside.wait(10)
            assert torch.get_num_threads() == before + 1
            assert in_new_thread(torch.get_num_threads) == news
        finished.set()
        assert found.result() == (before + 2, before + 2)
        assert pool.submit(torch.get_num_threads).result() == news
    assert torch.get_num_threads() == before
    assert in_new_thread(torch.get_num_threads) == news


def test_coding_leaves_the_setting():
    model = ccm_fast.load(str(tiny.GOLDEN / "tiny.safetensors"))
    before, news = torch.get_num_threads(), in_new_thread(torch.get_num_threads)
    x = torch.rand(1, 3, 64, 64)
    coded = ccm_fast.compress(model, x)

    def work(threads):
        for _ in range(5):
            assert ccm_fast.compress(model, x, threads=threads) == coded
            ccm_fast.decompress(model, **coded, threads=threads)
        return torch.get_num_threads()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, (2, 3, 5))) == [news] * 3
    assert torch.get_num_threads() == before
    assert in_new_thread(torch.get_num_threads) == news


PROGRAM = """
import os, sys, torch
from ccm_fast.engines import torch_threads
torch.set_num_threads(4)
with torch_threads(int(sys.argv[1])):
    before = len(os.listdir("/proc/self/task"))
    x = torch.rand(640, 640)
    x @ x
    torch.nn.functional.conv2d(x.view(1, 32, 128, 100), torch.rand(32, 32, 3, 3))
    torch.rand(2000, 2000).exp()
    print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_operators_take_so_many(threads):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(threads)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == threads - 1
