"""What a command does before it works: few imports, and the model opened once, beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccm_fast.native import Codec

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
# Modules that cost milliseconds and that a decoding of one file without metadata does not need.
NOT_NEEDED = {"PIL.ImageCms", "PIL.TiffImagePlugin", "concurrent.futures", "hashlib", "secrets", "tempfile"}
NOT_NEEDED |= {"PIL.GifImagePlugin", "PIL.JpegImagePlugin", "dataclasses", "inspect", "shutil", "subprocess"}
PROGRAM = """
import sys, threading
from ccm_fast.command.main import main
from ccm_fast.native import Codec

load, by = Codec.load, []

def noted(*args, **options):
    by.append(threading.current_thread().name)
    return load(*args, **options)

Codec.load = noted
code = main(sys.argv[1:])
import json
print(json.dumps([code, by, sorted(sys.modules)]))
"""


def run(*arguments):
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENV)
    assert done.stdout, done.stderr[-2000:]
    code, opened_by, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return opened_by, set(modules)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("startup")
    picture = np.add.outer(np.arange(64), np.arange(3 * 48)).reshape(64, 48, 3).astype(np.uint8)
    Image.fromarray(picture).save(folder / "in.png")
    (folder / "in.ccm").write_bytes(Codec.load("ccm-small").encode(picture, 4))
    return folder


def test_decoding(files):
    opened_by, modules = run("decode", files / "in.ccm", files / "out.png")
    assert opened_by == ["ccm-fast-open"]
    assert not modules & (NOT_NEEDED | {"torch"})


def test_encoding(files):
    opened_by, modules = run("encode", files / "in.png", files / "out.ccm")
    assert opened_by == ["ccm-fast-open"]
    assert not modules & {"torch", "PIL.IcoImagePlugin", "PIL.TiffImagePlugin", "PIL.WebPImagePlugin"}


# A program's module calls what console() does, with functions that run at the end and a thread that outlives main().
ENDING = """
import atexit, sys, threading, time
from ccm_fast.command import main, process

def work():
    time.sleep(0.3)
    print("thread")

def run():
    threading.Thread(target=work).start()
    print("main")
    return int(sys.argv[1])

atexit.register(print, "atexit")
main.main = run
process.console()
"""


@pytest.mark.parametrize("code", [0, 1])
def test_nothing_is_lost_where_the_process_ends_itself(code):
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(code)], capture_output=True, text=True, timeout=120, env=ENV
    )
    assert (done.returncode, done.stdout.split()) == (code, ["main", "thread", "atexit"]), done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file that is always full: Linux and some BSDs have it")
def test_output_that_cannot_be_written_at_the_end_is_an_error():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", ENDING, "0"]
        env = {name: value for name, value in ENV.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, env=env)
    assert done.returncode == 120 and "No space left" in done.stderr


def test_garbage_is_collected_again_once_the_imports_are_done(files):
    program = (
        "import gc, sys; from ccm_fast.command import process; from ccm_fast import native\n"
        "whole, native.Codec.open_file = native.Codec.open_file, staticmethod("
        "lambda *a: print(gc.isenabled(), gc.get_freeze_count() > 10_000) or whole(*a))\n"
        "process.console()"
    )
    command = [sys.executable, "-c", program, "decode", files / "in.ccm", files / "again.png"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=ENV)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True"]), done.stderr


def test_a_model_that_cannot_be_opened_is_named_once(files):
    command = [sys.executable, "-m", "ccm_fast", "decode", "--model", "nowhere", files / "in.ccm", files / "x.png"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=ENV)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "nowhere" in done.stderr
