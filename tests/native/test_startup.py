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
    assert "torch" not in modules


def test_a_model_that_cannot_be_opened_is_named_once(files):
    command = [sys.executable, "-m", "ccm_fast", "decode", "--model", "nowhere", files / "in.ccm", files / "x.png"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=ENV)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "nowhere" in done.stderr
