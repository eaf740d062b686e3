"""The newest wheel in dist/, in a clean environment without torch. `make test-wheel` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
CHILD = """
import hashlib, importlib.util, json, sys
from pathlib import Path
import ccm_fast
from ccm_fast import _native as native
folder = Path(sys.argv[1])
codec = native.Codec.open(str(folder / "tiny.safetensors"), threads=2, float_transforms=False, isa="")
hashes = {}
for path in folder.glob("*.ccm"):
    if path.stem != "colour3":  # of another model
        ((_, latents, _),) = codec.decode([native.File(path.read_bytes(), 0)], 2)
        hashes[path.stem] = hashlib.sha256(latents.tobytes()).hexdigest()
print(json.dumps([ccm_fast.__file__, importlib.util.find_spec("torch") is not None, hashes]))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    wheels = sorted((ROOT / "dist").glob("ccm_fast-*manylinux*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        pytest.skip("no wheel in dist/: `make wheel`")
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, wheels[-1]], check=True, cwd=folder, env=own)
    return folder


def test_decodes(environment):
    command = [environment / "bin/python", "-I", "-c", CHILD, GOLDEN]
    done = subprocess.run(command, capture_output=True, text=True, cwd=environment, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    where, has_torch, hashes = json.loads(done.stdout)
    assert Path(where).is_relative_to(environment) and not has_torch
    golden = json.loads((GOLDEN / "golden.json").read_text())
    assert hashes == {name: case["sha256"] for name, case in golden.items() if name != "colour3"}


def test_command(environment, tmp_path):
    command = [environment / "bin/ccm-fast", "decode", "-m", GOLDEN / "tiny.safetensors", GOLDEN / "colour.ccm"]
    subprocess.run([*command, tmp_path / "colour.png"], check=True, cwd=environment, env={"PATH": "/usr/bin:/bin"})
    assert (tmp_path / "colour.png").read_bytes().startswith(b"\x89PNG")
